from dataclasses import replace

import numpy as np
import pytest

from pipeline.config import ClipSettings
from pipeline.errors import InputError
from pipeline.shards.decoding import decode_batch
from pipeline.shards.evaluation import evaluation_clips
from pipeline.shards.files import ShardError
from pipeline.shards.reader import ShardSet
from pipeline.shards.repack import Repacking, repack
from pipeline.shards.sample import to_8bit, to_decibels
from pipeline.shards.verify import verify
from pipeline.shards.writer import ShardWriter
from tests.shards.samples import assert_same, make_sample, write_shards

IDS = ["delta", "alpha", "charlie", "bravo"]


@pytest.fixture
def source(tmp_path):
    folder = write_shards(
        tmp_path / "set",
        [make_sample(video_id, split="test" if video_id == "bravo" else "train") for video_id in IDS],
        shard_bytes=400_000,
    )
    (folder / "words.parquet").write_bytes(b"the words")
    return ShardSet(folder)


def test_size_and_order(source, tmp_path):
    result = repack(source, tmp_path / "new", Repacking(shard_bytes=1, order="id"))
    new = ShardSet(tmp_path / "new")
    assert (result.written, result.before, new.ids, len(new.stems)) == (4, 0, sorted(IDS), 4)
    for video_id in IDS:
        assert_same(new.read(video_id), make_sample(video_id))
    assert verify(tmp_path / "new").problems == []
    assert (tmp_path / "new" / "words.parquet").read_bytes() == b"the words"
    repack(source, tmp_path / "shuffled", Repacking(order="shuffled"))
    shuffled = ShardSet(tmp_path / "shuffled").ids
    assert sorted(shuffled) == sorted(IDS)
    assert shuffled != IDS


def test_a_subset(source, tmp_path):
    repack(source, tmp_path / "some", Repacking(videos=["bravo", "alpha"]))
    assert ShardSet(tmp_path / "some").ids == ["alpha", "bravo"]
    repack(source, tmp_path / "split", Repacking(split="test"))
    assert ShardSet(tmp_path / "split").ids == ["bravo"]
    with pytest.raises(InputError, match="has no video zulu, nor 1 more"):
        repack(source, tmp_path / "none", Repacking(videos=["zulu", "yankee"]))


def test_modalities_are_dropped_and_taken_from_elsewhere(source, tmp_path):
    others = [make_sample(video_id, seed=1) for video_id in IDS[:3]]
    for other in others:
        other.recipe, other.backbones = "ffff", {"3d": "slowfast@2"}
    other = ShardSet(write_shards(tmp_path / "other", others))
    result = repack(source, tmp_path / "new", Repacking(drop=["text"], add={"3d": other}))
    assert result.lacking == {"3d": 1}
    new = ShardSet(tmp_path / "new")
    sample = new.read("delta")
    assert sorted(sample.arrays) == ["2d", "3d", "audio"]
    np.testing.assert_array_equal(sample.arrays["3d"], others[0].arrays["3d"])
    np.testing.assert_array_equal(sample.arrays["2d"], make_sample("delta").arrays["2d"])
    assert sample.backbones == {"2d": "seeded_2d@1", "3d": "slowfast@2"}
    assert sample.notes == ["3d from recipe ffff"]
    assert sample.captions == make_sample("delta").captions
    assert sorted(new.read("bravo").arrays) == ["2d", "audio"]
    with pytest.raises(InputError, match=r"words\.parquet"):
        repack(source, tmp_path / "text", Repacking(add={"text": other}))


def test_8bit_spectrograms_halve_the_sound_and_go_back(source, tmp_path):
    repack(source, tmp_path / "small", Repacking(audio="8bit"))
    small = ShardSet(tmp_path / "small")
    assert verify(tmp_path / "small").problems == []
    exact, stored = source.read("alpha").arrays["audio"], small.read("alpha").arrays["audio"]
    assert (stored.dtype, stored.nbytes) == (np.uint8, exact.nbytes // 2)
    assert np.abs(to_decibels(stored).astype(float) - exact.astype(float)).max() < 0.19
    repack(small, tmp_path / "back", Repacking(audio="float16"))
    back = ShardSet(tmp_path / "back").read("alpha").arrays["audio"]
    assert back.dtype == np.float16
    np.testing.assert_array_equal(to_8bit(back), stored)
    for exact_batch, small_batch in zip(
        evaluation_clips(source, "test"), evaluation_clips(small, "test", ClipSettings()), strict=True
    ):
        exact_clips, small_clips = decode_batch(exact_batch), decode_batch(small_batch)
        assert (exact_clips["audio"] - small_clips["audio"]).abs().max() < 0.19
        assert (exact_clips["audio_mask"] == small_clips["audio_mask"]).all()


def test_a_repack_that_was_stopped_goes_on(source, tmp_path):
    seen = 0

    def stop():
        nonlocal seen
        seen += 1
        if seen == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repack(source, tmp_path / "new", Repacking(), stop)
    result = repack(source, tmp_path / "new", Repacking())
    assert (result.written, result.before) == (2, 2)
    assert ShardSet(tmp_path / "new").ids == IDS


@pytest.mark.parametrize(
    ("begun", "changes", "said"),
    [
        (Repacking(), Repacking(drop=["3d", "2d"]), r"drop \(none\) and not with 2d 3d"),
        (Repacking(drop=["3d"]), Repacking(), r"drop 3d and not with \(none\)"),
        (Repacking(), Repacking(audio="8bit"), "audio keep and not with 8bit"),
        (Repacking(), Repacking(order="id"), "order source and not with id"),
        (Repacking(), Repacking(split="train"), r"split \(none\) and not with train"),
        (Repacking(videos=IDS[:3]), Repacking(videos=IDS), r"videos of a list \(3 videos, .*not with of a list \(4 v"),
    ],
)
def test_other_changes_than_a_repack_was_begun_with_are_refused(source, tmp_path, begun, changes, said):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repack(source, tmp_path / "new", begun, stop)
    with pytest.raises(InputError, match=rf"new/repack\.yaml: .* begun with {said}.*; give what .* or another folder"):
        repack(source, tmp_path / "new", changes)
    repack(source, tmp_path / "new", replace(begun, shard_bytes=1))
    assert ShardSet(tmp_path / "new").ids == (IDS if begun.videos is None else IDS[:3])
    with pytest.raises(InputError, match="another folder"):
        repack(source, tmp_path / "new", changes)


def test_a_repack_does_not_go_on_from_other_shards(source, tmp_path):
    other = ShardSet(write_shards(tmp_path / "other", [make_sample(video_id, seed=1) for video_id in IDS]))
    (other.folder / "words.parquet").write_bytes(b"the words")
    repack(source, tmp_path / "new", Repacking(videos=IDS))
    with pytest.raises(InputError, match=r"begun with source .*/set and not with .*/other; give"):
        repack(other, tmp_path / "new", Repacking(videos=IDS))
    repack(source, tmp_path / "added", Repacking(add={"3d": other}))
    with pytest.raises(InputError, match=r"begun with add 3d=.*/other and not with 2d=.*/other 3d=.*/other; give"):
        repack(source, tmp_path / "added", Repacking(add={"3d": other, "2d": other}))
    repack(source, tmp_path / "added", Repacking(add={"3d": other}))


def test_a_folder_without_samples_is_begun_anew(source, tmp_path):
    def fail(*_: object) -> None:
        raise OSError("the disk")

    for changes in (Repacking(drop=["3d"]), Repacking(drop=["2d"])):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="the disk"):
            patch.setattr(ShardWriter, "add", fail)
            repack(source, tmp_path / "new", changes)
    repack(source, tmp_path / "new", Repacking(drop=["2d"]))
    assert sorted(ShardSet(tmp_path / "new").read("alpha").arrays) == ["3d", "audio", "text"]


def test_a_damaged_sample_is_not_copied(source, tmp_path):
    tar = source.stems[0].tar
    data = bytearray(tar.read_bytes())
    data[-5000] ^= 1
    tar.write_bytes(data)
    with pytest.raises(ShardError, match="the checksum of alpha is wrong"):
        repack(source, tmp_path / "new", Repacking())


def test_the_source_is_not_the_target(source):
    with pytest.raises(InputError, match="another folder"):
        repack(source, source.folder, Repacking())


def test_shards_of_other_words_are_not_mixed(source, tmp_path):
    (source.folder / "words.parquet").write_bytes(b"words")
    repack(source, tmp_path / "new", Repacking(videos=IDS[:1]))
    (source.folder / "words.parquet").write_bytes(b"other words")
    with pytest.raises(InputError, match=r"words\.parquet: is not the one of .*; give another folder"):
        repack(source, tmp_path / "new", Repacking(videos=IDS[:1]))
    assert (tmp_path / "new" / "words.parquet").read_bytes() == b"words"
    assert ShardSet(tmp_path / "new").ids == IDS[:1]
