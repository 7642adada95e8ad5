import numpy as np
import pytest
import torch

from pipeline.config import ClipSettings
from pipeline.errors import InputError
from pipeline.shards.clips import feature_window
from pipeline.shards.decoding import decode_batch
from pipeline.shards.evaluation import evaluation_clips
from pipeline.shards.files import ShardError
from pipeline.shards.reader import ShardSet
from tests.shards.samples import make_sample, video_tokens, write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    samples = [
        make_sample("train1"),
        make_sample("test1", split="test", seconds=40),
        make_sample("silent", split="test", modalities=("2d", "3d")),
        make_sample("test2", split="test", modalities=("text", "2d", "3d")),
    ]
    return ShardSet(write_shards(folder, samples))


def test_each_caption_of_the_split_is_one_clip(shards):
    found = evaluation_clips(shards, "test", batch_clips=4)
    batches = [decode_batch(batch) for batch in found]
    assert len(batches) == len(found)
    expected = [f"{name}/{index}" for name, count in (("test1", 9), ("test2", 7)) for index in range(count)]
    assert [clip for batch in batches for clip in batch["clip_ids"]] == expected
    assert [len(batch["video"]) for batch in batches] == [4, 4, 4, 4]
    row = 0
    for batch in batches:
        for place, clip in enumerate(batch["clip_ids"]):
            name, index = clip.split("/")
            sample = shards.read(name)
            caption = sample.captions[int(index)]
            assert batch["texts"][place] == caption.text
            words = sample.arrays["text"][sample.caption_words[int(index)] : sample.caption_words[int(index) + 1]]
            assert batch["word_ids"][place][batch["text_mask"][place] > 0].tolist() == words.tolist()
            tracks = []
            for modality in ("2d", "3d"):
                first, stop = feature_window(
                    caption.start, caption.end, sample.rates[modality], len(sample.arrays[modality])
                )
                tracks.append(sample.arrays[modality][first:stop])
            np.testing.assert_array_equal(batch["video"][place], video_tokens(*tracks, 12, "clip")[0])
            if "audio" in sample.arrays:
                first, stop = (max(0, (int(time * 16000) - 200) // 160) for time in caption[:2])
                np.testing.assert_array_equal(
                    batch["audio"][place, :, : stop - first], sample.arrays["audio"][first:stop].T
                )
                assert int(batch["audio_nframes"][place]) == stop - first
            else:
                assert not batch["audio_mask"][place].any()
            row += 1


def test_words_are_cut(shards):
    batch = decode_batch(next(iter(evaluation_clips(shards, "test", ClipSettings(max_words=20), max_words=2))))
    assert batch["word_ids"].shape == (16, 2)
    assert batch["text_mask"].all()


def test_a_split_without_captions_is_refused(shards):
    with pytest.raises(
        InputError,
        match="no video with captions in split val; its videos, captioned or not, are of the splits test, train",
    ):
        evaluation_clips(shards, "val")


def test_long_clips_are_cut_into_pieces(shards):
    """Captions of three seconds: 300 frames and four or five 3D features, in pieces of 128 frames and two tokens."""
    sizes = {"max_video_tokens": 2, "max_audio_frames": 128}
    whole = ClipSettings(max_video_tokens=6, max_audio_frames=384)
    for batch, expected in zip(
        map(decode_batch, evaluation_clips(shards, "test", ClipSettings(pieces=3, **sizes), batch_clips=5)),
        map(decode_batch, evaluation_clips(shards, "test", whole, batch_clips=5)),
        strict=True,
    ):
        place = 0
        for row, clip in enumerate(expected["clip_ids"]):
            # 300 frames fill two pieces, and 44 of the third are too few; without sound the third has a token
            pieces = 2 if expected["audio_nframes"][row] else int(-(-expected["video_mask"][row].sum() // 2))
            for piece in range(pieces):
                assert batch["clip_ids"][place] == clip
                assert batch["texts"][place] == expected["texts"][row]
                assert torch.equal(batch["word_ids"][place], expected["word_ids"][row])
                tokens, frames = slice(2 * piece, 2 * piece + 2), slice(128 * piece, 128 * piece + 128)
                assert torch.equal(batch["video"][place], expected["video"][row, tokens])
                assert torch.equal(batch["video_mask"][place], expected["video_mask"][row, tokens])
                assert torch.equal(batch["audio"][place], expected["audio"][row, :, frames])
                assert torch.equal(batch["audio_mask"][place], expected["audio_mask"][row, frames])
                assert batch["audio_nframes"][place] == batch["audio_mask"][place].sum()
                place += 1
        assert place == len(batch["clip_ids"]) == len(batch["video"]) == len(batch["video_index"])


@pytest.mark.parametrize("strategy", ["nearest", "max_pool"])
def test_long_clips_are_thinned(shards, strategy):
    settings = ClipSettings(max_video_tokens=2, video_tokens=strategy)
    batch = decode_batch(next(iter(evaluation_clips(shards, "test", settings))))
    sample = shards.read("test1")
    start, end, _ = sample.captions[0]
    windows = [feature_window(start, end, sample.rates[name], len(sample.arrays[name])) for name in ("2d", "3d")]
    tracks = [sample.arrays[name][slice(*window)] for name, window in zip(("2d", "3d"), windows, strict=True)]
    np.testing.assert_array_equal(batch["video"][0], video_tokens(*tracks, 2, strategy)[0])


@pytest.mark.parametrize(
    ("found", "instead", "message"),
    [
        (b'"captions":', b'"captionz":', "KeyError: 'captions'"),
        (b'"text":[', b'"texu":[', "KeyError: 'text'"),
        (b'"text":["', b'"text":[] ', "ValueError: its captions are not as many as the index says"),
        (b'"captions":', b'"captions"!', "JSONDecodeError"),
    ],
)
def test_a_damaged_caption_is_named(tmp_path, found, instead, message):
    folder = write_shards(tmp_path, [make_sample("one", split="test")])
    tar = folder / "set-w0-000000.tar"
    whole = tar.read_bytes()
    at = whole.index(found)
    end = whole.index(b"}", at) if instead.endswith(b"[] ") else at + len(found)  # the list to its end
    tar.write_bytes(whole[:at] + instead.ljust(end - at) + whole[end:])
    with pytest.raises(ShardError, match=rf"set-w0-000000\.tar: the narration at byte \d+ is unusable: {message}"):
        list(evaluation_clips(ShardSet(folder), "test"))


def test_clips_of_damaged_videos_are_left_out_if_the_settings_say_so(tmp_path):
    samples = [make_sample(f"test{number}", split="test") for number in range(4)]
    write_shards(tmp_path, samples)
    shards = ShardSet(tmp_path)
    row = shards.table.slice(2, 1).to_pylist()[0]
    with next(tmp_path.glob("*.tar")).open("r+b") as tar:
        tar.seek(row["times_offset"])
        tar.write(b"\xff" * 64)
    with pytest.raises(ShardError, match="narration"):
        list(evaluation_clips(shards, "test", batch_clips=5))
    whole = [f"{row['video_id']}/" for row in shards.table.to_pylist() if row["video_id"] != "test2"]
    found = evaluation_clips(shards, "test", ClipSettings(damaged="skip"), batch_clips=5)
    for _ in range(2):
        ids = [clip for batch in found for clip in batch["clip_ids"]]
        assert {f"{clip.split('/')[0]}/" for clip in ids} == set(whole)
        assert found.left_out == row["captions"] and len(ids) == 3 * row["captions"]
        assert found.damaged and all("narration" in message for message in found.damaged)


@pytest.mark.parametrize("at", ["2d_offset", "audio_offset"])
def test_arrays_that_are_not_what_was_written_are_not_evaluated(tmp_path, at):
    write_shards(tmp_path, [make_sample(f"test{number}", split="test") for number in range(3)])
    shards = ShardSet(tmp_path)
    row = shards.table.slice(1, 1).to_pylist()[0]
    with next(tmp_path.glob("*.tar")).open("r+b") as tar:
        tar.seek(row[at] + 5)
        tar.write(b"\x01")
    with pytest.raises(ShardError, match=r"tar: the checksum of test1 is wrong; see python -m pipeline\.shards verify"):
        list(evaluation_clips(shards, "test", batch_clips=4))
    found = evaluation_clips(shards, "test", ClipSettings(damaged="skip"), batch_clips=4)
    ids = [clip for batch in found for clip in batch["clip_ids"]]
    assert {clip.split("/")[0] for clip in ids} == {"test0", "test2"}
    assert found.left_out == row["captions"] and "checksum of test1" in found.damaged[0]
