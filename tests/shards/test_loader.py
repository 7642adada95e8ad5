import itertools
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import ClipSettings
from pipeline.errors import InputError
from pipeline.shards.batches import ClipReader
from pipeline.shards.clips import feature_window, grown_clips, time_to_frame, windows
from pipeline.shards.decoding import decode_batch
from pipeline.shards.files import ShardError, Stem
from pipeline.shards.index import write_index
from pipeline.shards.layout import arrays_of
from pipeline.shards.loader import TrainingLoader
from pipeline.shards.narrations import no_narrations
from pipeline.shards.reader import ShardSet
from pipeline.shards.sample import to_8bit
from pipeline.shards.stats import describe_shards
from pipeline.shards.tars import Tars
from pipeline.shards.verify import verify
from pipeline.text.words import WordVectors
from tests.shards.samples import (
    WORDS,
    make_sample,
    narrations_of,
    one_by_one,
    same,
    small_sample,
    video_tokens,
    without_times,
    write_shards,
)

SETTINGS = ClipSettings(per_video=3, seconds=8.0, max_audio_frames=700)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """23 training videos and one for testing in shards of three."""
    folder = tmp_path_factory.mktemp("shards")
    samples = [small_sample(f"v{number:02d}") for number in range(23)]
    samples[4] = make_sample("v04", seconds=25)
    samples[7] = make_sample("v07", seconds=40, modalities=("text", "2d", "3d"))
    samples[11] = make_sample("v11", seconds=30, modalities=("2d", "3d", "audio"))
    samples[13] = make_sample("v13", seconds=30, modalities=("text", "audio"))
    write_shards(folder, [*samples, make_sample("held_out", split="test")], shard_bytes=9000)
    return ShardSet(folder)


def videos(batch, per_video=3):
    return batch["video_index"].tolist()[::per_video]


def test_batches_have_the_shapes_of_the_contract(shards):
    loader = TrainingLoader(shards, SETTINGS, batch_videos=6, seed=1)
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    for batch in batches:
        shapes = {name: (tuple(values.shape), values.dtype) for name, values in batch.items()}
        assert shapes == {
            "word_ids": ((18, 20), torch.int32),
            "features_2d": ((18, 12, 6), torch.float16),
            "features_3d": ((18, 12, 5), torch.float16),
            "places_2d": ((18, 12), torch.int64),
            "video_tokens": ((18,), torch.int64),
            "audio": ((18, 700, 40), torch.float16),
            "audio_nframes": ((18,), torch.float32),
            "video_index": ((18,), torch.int64),
            "clip_start": ((18,), torch.float32),
            "clip_end": ((18,), torch.float32),
        }
        assert torch.equal(batch["video_index"], batch["video_index"][::3].repeat_interleave(3))
        decoded = decode_batch(batch)
        shapes = {name: (tuple(values.shape), values.dtype) for name, values in decoded.items()}
        assert shapes == {
            "word_ids": ((18, 20), torch.int32),
            "text_mask": ((18, 20), torch.float32),
            "video": ((18, 12, 11), torch.float32),
            "video_mask": ((18, 12), torch.float32),
            "audio": ((18, 40, 700), torch.float32),
            "audio_mask": ((18, 700), torch.float32),
            "audio_nframes": ((18,), torch.float32),
            "video_index": ((18,), torch.int64),
            "clip_start": ((18,), torch.float32),
            "clip_end": ((18,), torch.float32),
        }
        batch = decoded
        assert torch.equal(batch["audio_nframes"], batch["audio_mask"].sum(1))
        assert torch.equal(batch["text_mask"] > 0, batch["word_ids"] >= 0)


@pytest.mark.parametrize("sampling", ["mft", "mcn"])
def test_clips_hold_what_the_samples_say(shards, sampling):
    """Each clip of each batch is made again from the whole arrays."""
    drawn = ClipSettings(sampling=sampling, per_video=3, seconds=8.0, misaligned_audio=sampling == "mft")
    with_text = 0
    for batch in map(decode_batch, TrainingLoader(shards, drawn, batch_videos=5, seed=3)):
        for row, number in enumerate(batch["video_index"].tolist()):
            sample = shards.read(shards.ids[number])
            start, end = float(batch["clip_start"][row]), float(batch["clip_end"][row])
            tracks = {}
            for name in ("2d", "3d"):
                whole = sample.arrays.get(name, np.zeros((0, {"2d": 6, "3d": 5}[name]), np.float16))
                first, stop = feature_window(start, end, sample.rates.get(name, 1.0), len(whole))
                tracks[name] = whole[first:stop]
            video, mask = video_tokens(tracks["2d"], tracks["3d"], 12, "clip")
            np.testing.assert_array_equal(batch["video"][row], video)
            np.testing.assert_array_equal(batch["video_mask"][row], mask)
            starts, ends = ([getattr(caption, end) for caption in sample.captions] for end in ("start", "end"))
            words = batch["word_ids"][row][batch["text_mask"][row] > 0].tolist()
            around = one_by_one(
                grown_clips(narrations_of((starts, ends)), range(len(starts)), 8.0, drawn.misaligned_audio)
            )
            texts = [
                [id for index in clip.captions for id in _words(sample, index)][:20]
                for clip in around
                if (clip.start, clip.end) == (start, end)
            ]
            assert words in (texts if words else [[]])
            with_text += bool(words)
            audio = sample.arrays.get("audio", np.zeros((0, 40), np.float16))
            frames = int(batch["audio_nframes"][row])
            if frames:
                late = 4.0 if words and drawn.misaligned_audio else 0.0
                first = max(0, (int((start + late) * 16000) - 200) // 160)
                np.testing.assert_array_equal(batch["audio"][row, :, :frames].T, audio[first : first + frames])
            assert not batch["audio"][row, :, frames:].any()
    assert with_text > 5


def _words(sample, index):
    return sample.arrays["text"][sample.caption_words[index] : sample.caption_words[index + 1]].tolist()


@pytest.mark.parametrize("stored", ["8bit", "mixed"])
def test_8bit_spectrograms_become_decibels(tmp_path, stored):
    samples = [make_sample(f"v{number}") for number in range(4)]
    for sample in samples[: 2 if stored == "mixed" else 4]:
        sample.arrays["audio"] = to_8bit(sample.arrays["audio"])
    shards = ShardSet(write_shards(tmp_path, samples))
    clips = ClipSettings(per_video=4, max_audio_frames=2000, misaligned_audio=False)
    (batch,) = TrainingLoader(shards, clips, batch_videos=4, seed=1)
    assert batch["audio"].dtype == (torch.uint8 if stored == "8bit" else torch.float32)
    decoded = decode_batch(batch)
    for row, number in enumerate(batch["video_index"].tolist()):
        first, frames = time_to_frame(float(batch["clip_start"][row])), int(batch["audio_nframes"][row])
        whole = shards.read(shards.ids[number]).arrays["audio"]
        levels = (
            80.0 / 255 * whole[first : first + frames] - 80.0 if whole.dtype == np.uint8 else whole[first:][:frames]
        )
        assert 500 < frames < 2000
        np.testing.assert_allclose(decoded["audio"][row, :, :frames].T, levels, rtol=1e-6, atol=1e-5)
        assert not decoded["audio"][row, :, frames:].any()


@settings(max_examples=30, deadline=None)
@given(
    rates=st.tuples(st.sampled_from([0.4, 1.0, 3.0]), st.sampled_from([0.5, 1.5])),
    spans=st.lists(st.tuples(st.floats(-5, 35), st.floats(0.1, 20)), min_size=1, max_size=6),
    count=st.sampled_from([0, 1, 5, 12]),
    strategy=st.sampled_from(["clip", "nearest", "max_pool"]),
)
def test_windows_anywhere_hold_their_features(tmp_path_factory, rates, spans, count, strategy):
    """Overlapping, equal, empty, early and late windows, with 2D features that are sparser or denser than 3D ones."""
    sample = make_sample("v", seconds=30)
    sample.rates |= {"2d": rates[0], "3d": rates[1]}
    shards = ShardSet(write_shards(tmp_path_factory.mktemp("set"), [sample]))
    reader = ClipReader(shards, ClipSettings(max_video_tokens=count, video_tokens=strategy))
    batch = reader.layout.allocate(len(spans))
    for values in batch.values():
        values.fill_(7)
    starts, lengths = np.array(spans).T
    clips = windows(np.zeros(len(spans), np.int64), starts, starts + lengths)
    (pending,) = reader.fill(arrays_of(batch), np.array([0]), clips, no_narrations())
    reader.finish(pending)
    decoded = decode_batch(batch)
    for row, clip in enumerate(one_by_one(clips)):
        whole = [(sample.arrays[name], rate) for name, rate in zip(("2d", "3d"), rates, strict=True)]
        tracks = [array[slice(*feature_window(clip.start, clip.end, rate, len(array)))] for array, rate in whole]
        video, mask = video_tokens(*tracks, count, strategy)
        np.testing.assert_array_equal(decoded["video"][row], video)
        np.testing.assert_array_equal(decoded["video_mask"][row], mask)


@pytest.mark.parametrize(("tokens", "strategy"), [(12, "clip"), (12, "nearest"), (3, "max_pool"), (0, "max_pool")])
def test_a_missing_modality_is_masked(shards, tokens, strategy):
    drawn = replace(SETTINGS, max_video_tokens=tokens, video_tokens=strategy)
    for batch in map(decode_batch, TrainingLoader(shards, drawn, batch_videos=23, seed=1)):
        for name, missing in (("v07", "audio"), ("v11", "text"), ("v13", "video")):
            rows = batch["video_index"] == shards.number(name)
            assert int(rows.sum()) == 3
            assert not batch[f"{missing}_mask"][rows].any()
            for other in {"audio", "video", "text"} - {missing}:
                assert batch[f"{other}_mask"][rows].any()


@pytest.mark.parametrize("workers", [0, 1])
def test_tensors_are_aligned(shards, workers):
    loader = TrainingLoader(shards, ClipSettings(per_video=1, max_words=7), batch_videos=5, seed=1, workers=workers)
    for batch in loader:
        assert {values.data_ptr() % 64 for values in batch.values()} == {0}
    loader.close()


def test_only_the_split_is_drawn_and_each_video_once(shards):
    loader = TrainingLoader(shards, ClipSettings(per_video=1, last_batch="keep"), batch_videos=5, seed=1)
    seen = [number for batch in loader for number in videos(batch, 1)]
    assert sorted(seen) == list(range(23))
    assert loader.videos == 23
    assert "held_out" not in {shards.ids[number] for number in seen}


def test_epochs_and_seeds_differ_but_repeat(shards):
    def epoch(seed, epoch):
        loader = TrainingLoader(shards, SETTINGS, batch_videos=6, seed=seed)
        loader.set_epoch(epoch)
        return list(loader)

    first = epoch(1, 0)
    assert all(map(same, first, epoch(1, 0)))
    for other in (epoch(2, 0), epoch(1, 1)):
        assert [videos(batch) for batch in other] != [videos(batch) for batch in first]


def test_iterating_again_gives_the_next_epoch(shards):
    loader = TrainingLoader(shards, SETTINGS, batch_videos=6, seed=1)
    first, second = list(loader), list(loader)
    assert loader.epoch == 2
    other = TrainingLoader(shards, SETTINGS, batch_videos=6, seed=1)
    other.set_epoch(1)
    assert all(map(same, second, other))
    assert not same(first[0], second[0])


@settings(max_examples=50, deadline=None)
@given(
    world=st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8]),
    other_world=st.sampled_from([1, 2, 3, 5, 8]),
    batch_videos=st.integers(1, 23),
    last=st.sampled_from(["drop", "keep"]),
    seed=st.integers(0, 3),
    data=st.data(),
)
def test_ranks_and_resumes_give_the_same_global_batches(shards, world, other_world, batch_videos, last, seed, data):
    clips = ClipSettings(per_video=1, max_audio_frames=8, max_video_tokens=2, last_batch=last, shuffle_shards=3)

    def loaders(size):
        return [TrainingLoader(shards, clips, batch_videos, seed, rank, size) for rank in range(size)]

    def run(size, state=None, steps=None):
        """The global batches up to the end of the second epoch, and where it stands then."""
        ranks = loaders(size)
        for loader in ranks:
            if state is not None:
                loader.load_state_dict(state)
        found = []
        streams = [iter(loader) for loader in ranks]
        while ranks[0].state_dict()["epoch"] < 2 and len(found) != steps:
            parts = [next(stream, None) for stream in streams]
            if parts[0] is None:
                assert all(part is None for part in parts)
                streams = [iter(loader) for loader in ranks]
                continue
            found.append([number for part in parts for number in part["video_index"].tolist()])
        states = [loader.state_dict() for loader in ranks]
        assert all(found_state == states[0] for found_state in states)
        return found, states[0]

    whole, _ = run(1)
    per_epoch = len(whole) // 2
    for epoch in (whole[:per_epoch], whole[per_epoch:]):
        seen = [number for batch in epoch for number in batch]
        assert len(set(seen)) == len(seen) == (23 if last == "keep" else 23 // batch_videos * batch_videos)
    stop = data.draw(st.integers(0, len(whole)), label="resume point")
    before, state = run(world, steps=stop)
    after, _ = run(other_world, state=state)
    assert before + after == whole


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(shards, workers):
    expected = TrainingLoader(shards, SETTINGS, batch_videos=6, seed=1)
    loader = TrainingLoader(shards, SETTINGS, batch_videos=6, seed=1, workers=workers)
    for _ in range(2):
        assert all(map(same, list(loader), list(expected)))
    stream = iter(loader)
    next(stream)
    state = loader.state_dict()
    loader.close()
    place = {"epoch": 2, "batch": 1, "seed": 1, "batch_videos": 6, "videos": 23, "shuffle_shards": 64}
    assert state == place | {"order": expected.state_dict()["order"]}
    resumed = TrainingLoader(shards, SETTINGS, batch_videos=6, seed=1)
    resumed.load_state_dict(state)
    expected.load_state_dict(state)
    assert all(map(same, list(resumed), list(expected)))


@pytest.mark.slow
@pytest.mark.parametrize(("world", "workers"), [(8, 1), (4, 4), (3, 2), (2, 3)])
def test_worlds_of_workers_give_the_same_global_batches(shards, world, workers):
    """From the middle of an epoch to the middle of the next, by ranks that each have their workers."""
    whole = TrainingLoader(shards, SETTINGS, batch_videos=8, seed=2)
    next(iter(whole))
    state = whole.state_dict()
    expected = [*whole, *whole]
    ranks = [TrainingLoader(shards, SETTINGS, 8, 2, rank, world, workers) for rank in range(world)]
    parts = []
    for loader in ranks:
        loader.load_state_dict(state)
        parts.append([*loader, *loader])
        loader.close()
    for batch, *shares in zip(expected, *parts, strict=True):
        assert same(batch, {name: torch.cat([share[name] for share in shares]) for name in batch})


@pytest.mark.parametrize(("changed", "name"), [({"seed": 2}, "seed"), ({"batch_videos": 5}, "batch_videos")])
def test_a_state_of_another_sequence_is_refused(shards, changed, name):
    state = TrainingLoader(shards, SETTINGS, batch_videos=6, seed=1).state_dict()
    loader = TrainingLoader(shards, SETTINGS, **({"batch_videos": 6, "seed": 1} | changed))
    with pytest.raises(InputError, match=f"cannot continue: .*{name}"):
        loader.load_state_dict(state)


def test_a_state_in_the_middle_of_an_epoch_of_another_order_is_refused(shards, tmp_path):
    loader = TrainingLoader(shards, SETTINGS, batch_videos=6, seed=1)
    start = loader.state_dict()
    next(iter(loader))
    middle = loader.state_dict()
    repacked = write_shards(tmp_path, map(shards.read, reversed(shards.ids)), shard_bytes=9000)
    others = {
        "shuffle_shards": TrainingLoader(shards, replace(SETTINGS, shuffle_shards=2), batch_videos=6, seed=1),
        "order": TrainingLoader(ShardSet(repacked), SETTINGS, batch_videos=6, seed=1),
    }
    for name, other in others.items():
        other.load_state_dict(start)
        with pytest.raises(InputError, match=f"cannot continue: .*{name}"):
            other.load_state_dict(middle)


def test_too_few_videos_and_an_unknown_split_say_so(shards):
    with pytest.raises(InputError, match="split train has 23 videos, fewer than a batch"):
        TrainingLoader(shards, SETTINGS, batch_videos=24, seed=1)
    with pytest.raises(InputError, match=r"clips\.shuffle_shards is 0"):
        TrainingLoader(shards, ClipSettings(shuffle_shards=0), batch_videos=2, seed=1)
    with pytest.raises(InputError, match="no video of split dev; it has the splits test, train"):
        TrainingLoader(shards, SETTINGS, batch_videos=2, seed=1, split="dev")


def test_shards_without_videos_are_none(tmp_path, shards):
    stem = Stem(tmp_path, "set", "w9", 0)
    stem.tar.write_bytes(bytes(1024))
    write_index(stem, [])
    empty = ShardSet(tmp_path)
    assert list(describe_shards(empty)) == [f"{tmp_path}: 1 shard without videos"]
    with pytest.raises(InputError, match="its shards hold no videos"):
        TrainingLoader(empty, SETTINGS, batch_videos=1, seed=0)
    write_shards(tmp_path, [make_sample(f"video{number}") for number in range(2)])
    assert len(list(TrainingLoader(ShardSet(tmp_path), SETTINGS, batch_videos=1, seed=0))) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_is_fatal_or_skipped(tmp_path, workers, caplog):
    write_shards(tmp_path, [small_sample(f"v{number}") for number in range(6)], shard_bytes=6000)
    (tmp_path / "set-w0-000001.tar").write_bytes(b"")
    shards = ShardSet(tmp_path)
    with pytest.raises(ShardError, match=r"set-w0-000001\.tar: has 0 bytes"):
        list(TrainingLoader(shards, SETTINGS, batch_videos=6, seed=1, workers=workers))
    skipping = ClipSettings(per_video=3, damaged="skip")
    with caplog.at_level(logging.WARNING):
        (batch,) = TrainingLoader(shards, skipping, batch_videos=6, seed=1, workers=workers)
    assert len([record for record in caplog.records if "set-w0-000001.tar" in record.message]) == 2
    batch = decode_batch(batch)
    missing = batch["video_index"] == -1
    assert int(missing.sum()) == 6
    assert not batch["text_mask"][missing].any()
    assert batch["text_mask"][~missing].any(dim=1).any()


@pytest.mark.parametrize("sampling", ["mft", "mcn", "avlnet"])
def test_a_batch_of_which_nothing_can_be_read_is_empty(tmp_path, sampling):
    write_shards(tmp_path, [small_sample(f"v{number}") for number in range(4)])
    (tmp_path / "set-w0-000000.tar").write_bytes(b"")
    skipping = ClipSettings(per_video=3, sampling=sampling, damaged="skip")
    (batch,) = map(decode_batch, TrainingLoader(ShardSet(tmp_path), skipping, batch_videos=4, seed=1))
    assert set(batch["video_index"].tolist()) == {-1}
    assert not any(batch[name].any() for name in ("text_mask", "video_mask", "audio_mask", "audio_nframes"))


@pytest.fixture(scope="module")
def narrated(tmp_path_factory):
    """A shard of two videos, what it was, and where the second's JSON and words are in it."""
    folder = tmp_path_factory.mktemp("narrated")
    write_shards(folder, [make_sample(name, modalities=("text", "2d")) for name in ("one", "two")])
    WordVectors(WORDS, np.eye(len(WORDS), dtype=np.float32)).save(folder / "words.parquet")
    row = ShardSet(folder).row(1)
    text = row.members["text"]
    tar = folder / "set-w0-000000.tar"
    return tar, tar.read_bytes(), (row.json_offset, text.offset + 4 * text.length - 1)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), sampling=st.sampled_from(["mft", "mcn"]), seed=st.integers(0, 9))
def test_any_flipped_bit_of_a_narration_costs_that_video_at_most(narrated, data, sampling, seed):
    tar, whole, (first, last) = narrated
    at, bit = data.draw(st.integers(first, last), label="byte"), data.draw(st.integers(0, 7), label="bit")
    tar.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
    clips = ClipSettings(sampling=sampling, per_video=4, misaligned_audio=sampling == "mft", damaged="skip")
    (batch,) = TrainingLoader(ShardSet(tar.parent), clips, batch_videos=2, seed=seed)
    assert set(batch["video_index"].tolist()) in ({0, 1}, {0, -1})
    assert int(batch["word_ids"].max()) < len(WORDS)


_NARRATION = r"set-w0-000000\.tar: the narration at byte \d+ is unusable: {}.*pipeline\.shards verify"


@pytest.mark.parametrize(
    ("caption", "place", "value", "message"),
    [
        (1, 0, np.nan, "a caption's times are none"),
        (0, 1, 1e30, "a caption's times are none"),
        (1, 2, 2.5, "its captions' word offsets do not cut"),
        (1, 2, 99.0, "its captions' word offsets do not cut"),
        (-1, 2, 3.0, "its captions' word offsets do not cut"),
    ],
)
def test_times_that_cannot_be_right_are_named(narrated, caption, place, value, message):
    tar, whole, _ = narrated
    row = ShardSet(tar.parent).row(1)
    at = row.times_offset + 24 * (caption % row.captions) + 8 * place
    tar.write_bytes(whole[:at] + np.float64(value).tobytes() + whole[at + 8 :])
    with pytest.raises(ShardError, match=_NARRATION.format(message)):
        list(TrainingLoader(ShardSet(tar.parent), SETTINGS, batch_videos=2, seed=1))


def test_an_unknown_word_is_named(narrated):
    tar, whole, (_, last) = narrated
    tar.write_bytes(whole[: last - 3] + b"\xff\xff\xff\xff" + whole[last + 1 :])
    with pytest.raises(ShardError, match=_NARRATION.format(r"a word's id is none of the 7 of words\.parquet")):
        list(TrainingLoader(ShardSet(tar.parent), SETTINGS, batch_videos=2, seed=1))


@pytest.mark.parametrize("damaged", ["fatal", "skip"])
def test_without_words_there_is_no_unknown_word(tmp_path, damaged):
    """No caption has a known word: the vocabulary is empty, as are the word ids."""
    samples = [small_sample(f"v{number}") for number in range(4)]
    for sample in samples:
        sample.arrays.pop("text")
        sample.caption_words = [0]
    write_shards(tmp_path, samples)
    WordVectors([], np.zeros((0, 4), np.float32)).save(tmp_path / "words.parquet")
    clips = ClipSettings(per_video=3, damaged=damaged)
    (batch,) = TrainingLoader(ShardSet(tmp_path), clips, batch_videos=4, seed=1)
    assert set(batch["video_index"].tolist()) == {0, 1, 2, 3}
    assert not decode_batch(batch)["text_mask"].any()


def test_words_of_an_empty_vocabulary_are_unknown(tmp_path):
    write_shards(tmp_path, [small_sample(f"v{number}") for number in range(4)])
    WordVectors([], np.zeros((0, 4), np.float32)).save(tmp_path / "words.parquet")
    clips = ClipSettings(per_video=3, damaged="skip")
    (batch,) = TrainingLoader(ShardSet(tmp_path), clips, batch_videos=4, seed=1)
    assert set(batch["video_index"].tolist()) == {-1}
    with pytest.raises(ShardError, match=_NARRATION.format(r"a word's id is none of the 0 of words\.parquet")):
        list(TrainingLoader(ShardSet(tmp_path), ClipSettings(per_video=3), batch_videos=4, seed=1))


def test_shards_without_times_give_the_same_batches(tmp_path):
    samples = [make_sample(f"v{number}") for number in range(5)]
    samples += [make_sample("silent", modalities=("2d", "3d", "audio")), make_sample("unknown", modalities=("2d",))]
    samples[-1].captions = samples[0].captions  # captions, of which no word was known
    for name in ("new", "old"):
        write_shards(tmp_path / name, samples, shard_bytes=200_000)
    without_times(tmp_path / "old")
    for report in (verify(tmp_path / "old"), verify(tmp_path / "new")):
        assert report.problems == []
    for sampling in ("mft", "avlnet"):
        drawn = replace(SETTINGS, sampling=sampling)
        loaders = [TrainingLoader(ShardSet(tmp_path / name), drawn, 7, seed=1) for name in ("new", "old")]
        assert all(itertools.starmap(same, zip(*loaders, strict=True)))


@pytest.mark.parametrize(
    ("found", "instead", "message"),
    [
        (b'"caption_words":[0,3,', b'"caption_words":[0.3,', ".*not as many starts, ends and word offsets"),
        (b'"start":[0.0,4.0', b'"start":[0.0:4.0', "JSONDecodeError"),
        (b'"caption_words":[0,3,', b'"caption_words":[0,7,', "its captions' word offsets do not cut"),
    ],
)
def test_captions_that_cannot_be_right_are_named_without_times(tmp_path, found, instead, message):
    folder = without_times(write_shards(tmp_path, [make_sample(name, modalities=("text", "2d")) for name in "ab"]))
    tar = folder / "set-w0-000000.tar"
    whole = tar.read_bytes()
    at = whole.rindex(found)
    tar.write_bytes(whole[:at] + instead + whole[at + len(instead) :])
    with pytest.raises(ShardError, match=_NARRATION.format(message)):
        list(TrainingLoader(ShardSet(folder), SETTINGS, batch_videos=2, seed=1))


def test_bytes_that_are_no_text_are_not_quoted_whole(tmp_path):
    sample = make_sample("long", modalities=("text", "2d"))
    sample.extra = {"text": "x" * 5000}
    folder = without_times(write_shards(tmp_path, [sample]))
    tar = folder / "set-w0-000000.tar"
    whole = tar.read_bytes()
    at = whole.index(b'"extra"')
    tar.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
    for read in (
        lambda: list(TrainingLoader(ShardSet(folder), SETTINGS, batch_videos=1, seed=1)),
        lambda: ShardSet(folder).read("long"),
    ):
        with pytest.raises(ShardError, match="can't decode byte 0xff") as caught:
            read()
        assert len(str(caught.value)) < 600


def test_features_of_several_widths_are_refused(tmp_path):
    samples = [make_sample("one"), make_sample("two")]
    samples[1].arrays["2d"] = samples[1].arrays["2d"][:, :4]
    shards = ShardSet(write_shards(tmp_path, samples))
    with pytest.raises(InputError, match=r"2d features .* several widths \(4, 6\)"):
        TrainingLoader(shards, SETTINGS, batch_videos=2, seed=1)


def test_what_the_disk_gives_later_is_the_same(shards, monkeypatch):
    expected = list(TrainingLoader(shards, SETTINGS, batch_videos=23, seed=1))
    monkeypatch.setattr(Tars, "read_soon", lambda self, tar, reads: list(reads))
    assert all(map(same, TrainingLoader(shards, SETTINGS, batch_videos=23, seed=1), expected))


def test_a_disk_that_fails_later_leaves_out_those_videos_alone(shards, monkeypatch):
    (expected,) = TrainingLoader(shards, SETTINGS, batch_videos=23, seed=1)
    read_into = Tars.read_into

    def failing(self, tar, read):
        if tar == 1 and isinstance(read[2][0], memoryview):  # features, not narrations
            raise self.damaged(tar, "Input/output error")
        read_into(self, tar, read)

    monkeypatch.setattr(Tars, "read_soon", lambda self, tar, reads: list(reads))
    monkeypatch.setattr(Tars, "read_into", failing)
    with pytest.raises(ShardError, match=r"set-w0-000001\.tar: Input/output error"):
        list(TrainingLoader(shards, SETTINGS, batch_videos=23, seed=1))
    (batch,) = TrainingLoader(shards, replace(SETTINGS, damaged="skip"), batch_videos=23, seed=1)
    lost = expected["video_index"] == shards.number("v04")  # the other videos of that shard lack 3D and sound
    assert int(lost.sum()) == 3
    assert torch.equal(batch["video_index"] == -1, lost)
    decoded, expected = decode_batch(batch), decode_batch(expected)
    assert all(torch.equal(decoded[name][~lost], expected[name][~lost]) for name in expected)
    assert not any(decoded[name][lost].any() for name in ("text_mask", "video", "video_mask", "audio", "audio_mask"))
