"""What tars say without their indexes, as they are and as a disk may leave them."""

import json
import shutil
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.shards.index import read_index, rows_of
from pipeline.shards.reader import ShardSet
from pipeline.shards.recovery import completed_ids
from pipeline.shards.repair import repair
from pipeline.shards.sample import encode
from pipeline.shards.scan import describe, scan
from pipeline.shards.verify import verify
from tests.shards.mending import IDS, assert_mended, flip, stem
from tests.shards.samples import SMALL_BYTES, assert_same, make_sample, small_sample, write_shards


def test_scanning_finds_what_the_index_says(whole, tmp_path):
    samples = [make_sample("a.b-c_"), make_sample("two", modalities=("2d",)), make_sample("one", modalities=("audio",))]
    write_shards(tmp_path, samples)
    found = stem(tmp_path, 0)
    assert list(scan(found.tar)) == rows_of(read_index(found))


def test_samples_of_another_program_are_read_past(folder, tmp_path):
    """A tar with a sample that is none of ours keeps ours."""

    tar = stem(folder).tar
    extra = json.dumps({"label": 1}).encode()
    (tmp_path / "other.json").write_bytes(extra)
    with tarfile.open(tar, "a") as archive:
        archive.add(tmp_path / "other.json", "other.json")
    assert verify(folder).problems
    assert_mended(folder, [])


def test_arrays_in_fortran_order_are_refused(tmp_path):
    sample = make_sample("v", modalities=("2d",))
    sample.arrays["2d"] = np.asfortranarray(sample.arrays["2d"])
    data, row = encode(sample)
    assert describe(data) == row
    with pytest.raises(ValueError, match=r"2d\.npy does not hold"):
        describe(data.replace(b"'fortran_order': False", b"'fortran_order': True "))


def test_times_that_are_not_the_captions_are_refused():
    data, row = encode(small_sample("v"))
    assert describe(data) == row
    changed = bytearray(data)
    changed[row.times_offset + 8 : row.times_offset + 16] = np.float64(3.25).tobytes()
    with pytest.raises(ValueError, match="v: its times are not those of its captions"):
        describe(changed)


@pytest.mark.parametrize("blocks", [1, 3, SMALL_BYTES // 512, SMALL_BYTES // 512 + 1])
@pytest.mark.parametrize("index", [True, False])
def test_zeros_between_samples_end_no_tar(tmp_path, blocks, index):
    """A disk that lost a block gives zeros, as if the tar ended there."""
    folder = write_shards(tmp_path / "set", map(small_sample, IDS[:4]))
    tar = stem(folder, 0).tar
    data = bytearray(tar.read_bytes())
    data[SMALL_BYTES : SMALL_BYTES + 512 * blocks] = bytes(512 * blocks)
    tar.write_bytes(data)
    if not index:
        stem(folder, 0).index.unlink()
    kept = [name for number, name in enumerate(IDS[:4]) if not 0 < number <= -(-512 * blocks // SMALL_BYTES)]
    assert any("(an empty block)" in action for action in repair(folder).done)
    assert verify(folder).problems == []
    assert ShardSet(folder).ids == kept


def test_the_zeros_that_fill_up_another_programs_tar_are_its_end(folder):
    path = stem(folder).tar
    path.write_bytes(path.read_bytes() + bytes(9 * 1024))
    assert repair(folder).done == [f"{path}: made again with its 2 good samples"]


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, 127), bit=st.integers(0, 7), index=st.booleans())
def test_any_flipped_bit_of_an_arrays_header_costs_that_sample_at_most(tmp_path_factory, whole, at, bit, index):
    folder = shutil.copytree(whole, tmp_path_factory.mktemp("npy") / "set")
    tar = stem(folder).tar
    data = bytearray(tar.read_bytes())
    data[rows_of(read_index(stem(folder)))[0].members["2d"].offset - 128 + at] ^= 1 << bit
    tar.write_bytes(data)
    if not index:
        stem(folder).index.unlink()
    assert verify(folder).problems
    repair(folder)
    assert verify(folder).problems == []
    found = completed_ids(folder)
    assert found in (set(IDS), set(IDS) - {"video2"})
    shards = ShardSet(folder)
    for video_id in found - {"video2"}:
        assert_same(shards.read(video_id, check=True), small_sample(video_id))


@pytest.mark.parametrize(
    ("found", "instead"),
    [(b'{"2d":1.0}', b'["2d",1.0]'), (b'"train"', b"1234567"), (b'"duration":8.0', b'"duration":NaN')],
)
def test_json_of_other_kinds_is_no_sample(folder, found, instead):
    tar = stem(folder).tar
    tar.write_bytes(tar.read_bytes().replace(found, instead, 1))
    stem(folder).index.unlink()
    repair(folder)
    assert verify(folder).problems == []
    assert completed_ids(folder) == set(IDS) - {"video2"}


@pytest.mark.parametrize("at", [10, SMALL_BYTES + 10, SMALL_BYTES + 1100])
def test_a_tar_without_index_keeps_what_is_whole(folder, at):
    """A broken header of the first sample, of the second, and of one of the second's members."""
    flip(stem(folder).tar, at)
    stem(folder).index.unlink()
    repair(folder)
    assert verify(folder).problems == []
    lost = "video2" if at < SMALL_BYTES else "video3"
    assert completed_ids(folder) == set(IDS) - {lost}
    assert_same(
        ShardSet(folder).read({"video2": "video3", "video3": "video2"}[lost]),
        small_sample({"video2": "video3", "video3": "video2"}[lost]),
    )
