"""Damage of every kind: found, named, mended, and nothing good lost by it."""

import errno
import os
import shutil

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.shards import repair as repair_module
from pipeline.shards.files import ShardError
from pipeline.shards.index import read_index, rows_of, write_index
from pipeline.shards.recovery import completed_ids
from pipeline.shards.repair import repair
from pipeline.shards.verify import verify
from pipeline.shards.writer import ShardWriter
from tests.shards.mending import IDS, assert_mended, flip, stem
from tests.shards.samples import SMALL_BYTES, small_sample, write_shards


def test_good_shards_are_clean(folder):
    report = verify(folder)
    assert (report.problems, report.redo, len(report.shards)) == ([], [], 3)
    assert report.good == set(IDS)
    assert repair(folder).done == []


@settings(max_examples=25, deadline=None)
@given(at=st.integers(0, 2 * SMALL_BYTES + 1023))
def test_any_flipped_bit_is_found_and_mended(tmp_path_factory, whole, at):
    folder = shutil.copytree(whole, tmp_path_factory.mktemp("flip") / "set")
    flip(stem(folder).tar, at)
    report = verify(folder)
    assert report.problems
    assert all(problem.path == stem(folder).tar for problem in report.problems)
    lost = [f"video{2 + at // SMALL_BYTES}"] if at < 2 * SMALL_BYTES else []
    assert report.redo == lost
    assert_mended(folder, lost)


@settings(max_examples=20, deadline=None)
@given(size=st.integers(0, 2 * SMALL_BYTES + 1023))
def test_any_cut_is_found_and_mended(tmp_path_factory, whole, size):
    folder = shutil.copytree(whole, tmp_path_factory.mktemp("cut") / "set")
    tar = stem(folder).tar
    tar.write_bytes(tar.read_bytes()[:size])
    lost = [video_id for video_id, end in (("video2", SMALL_BYTES), ("video3", 2 * SMALL_BYTES)) if size < end]
    assert verify(folder).redo == lost
    assert_mended(folder, lost)


def test_a_lost_tar(folder):
    stem(folder).tar.unlink()
    assert verify(folder).redo == ["video2", "video3"]
    assert_mended(folder, ["video2", "video3"])


@pytest.mark.parametrize("where", ["index", "sample"])
def test_what_a_newer_version_wrote_is_left_alone(folder, where):
    path = stem(folder).index
    if where == "index":
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata(table.schema.metadata | {b"format_version": b"2"}), path)
    else:
        path.unlink()
        tar = stem(folder).tar
        tar.write_bytes(tar.read_bytes().replace(b'"format":1', b'"format":2'))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert verify(folder).problems
    with pytest.raises(ShardError, match="format version 2 is not one this program reads; use a newer one"):
        repair(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("at", [0, 1100, SMALL_BYTES + 20, 2 * SMALL_BYTES])
def test_bytes_that_a_disk_does_not_give(folder, at, monkeypatch):
    """The first sample's header, its array's, the second's header, and the end of the tar."""
    inode, pread, preadv = stem(folder).tar.stat().st_ino, os.pread, os.preadv

    def failing(descriptor, offset, size):
        if os.fstat(descriptor).st_ino == inode and offset <= at < offset + size:
            raise OSError(errno.EIO, "Input/output error")

    def failing_pread(descriptor, size, offset):
        failing(descriptor, offset, size)
        return pread(descriptor, size, offset)

    def failing_preadv(descriptor, buffers, offset, *flags):
        failing(descriptor, offset, sum(memoryview(buffer).nbytes for buffer in buffers))
        return preadv(descriptor, buffers, offset, *flags)

    monkeypatch.setattr(os, "pread", failing_pread)
    monkeypatch.setattr(os, "preadv", failing_preadv)
    lost = IDS[2 + at // SMALL_BYTES : 3 + at // SMALL_BYTES] if at < 2 * SMALL_BYTES else []
    assert verify(folder).redo == lost
    repairs = repair(folder)  # the new tar is another file, on other blocks
    assert repairs.redo == lost
    assert verify(folder).problems == []
    assert completed_ids(folder) == set(IDS) - set(lost)


def test_a_repeated_video_leaves_the_later_shard(folder):
    write_shards(folder, [small_sample("video5"), small_sample("video1")], writer="w1")
    report = verify(folder)
    assert sorted(report.repeated) == ["video1", "video5"]
    assert report.redo == []
    assert_mended(folder, [])
    assert not stem(folder, 0, "w1").tar.exists()


def test_a_video_that_its_own_shard_repeats(folder):
    tar = stem(folder).tar
    tar.write_bytes(2 * tar.read_bytes()[:SMALL_BYTES] + bytes(1024))
    (row, _) = rows_of(read_index(stem(folder)))
    write_index(stem(folder), [row, row.moved(SMALL_BYTES)])
    assert [problem.what for problem in verify(folder).problems] == [f"repeats video2, which {tar.name} has"]
    repair(folder)
    assert verify(folder).problems == []
    assert completed_ids(folder) == set(IDS) - {"video3"}


def test_a_damaged_video_that_another_shard_repeats_is_not_lost(folder):
    write_shards(folder, [small_sample("video2")], writer="w1")
    flip(stem(folder).tar, 700)
    assert verify(folder).redo == []
    assert_mended(folder, [])
    assert stem(folder, 0, "w1").tar.exists()


def test_unsealed_shards_are_sealed(folder):
    writer = ShardWriter(folder, "set", "w2")
    writer.add(small_sample("video6"))
    with pytest.raises(InputError, match="another process"):
        repair_module.seal_leftovers(folder, wait=0)
    writer.abandon()
    assert verify(folder).problems == []
    assert repair(folder).done == [f"{stem(folder, 0, 'w2').tar}: sealed"]
    assert "video6" in completed_ids(folder)


@pytest.mark.parametrize("call", range(1, 5))
def test_a_repair_that_is_killed_can_be_started_again(folder, call, monkeypatch):
    flip(stem(folder).tar, 700)
    count = 0

    def dying(original):
        def operation(*arguments):
            nonlocal count
            count += 1
            if count >= call:
                raise KeyboardInterrupt
            return original(*arguments)

        return operation

    with monkeypatch.context() as patch:
        patch.setattr(repair_module, "write_index", dying(repair_module.write_index))
        patch.setattr(repair_module, "sync_folder", dying(repair_module.sync_folder))
        patch.setattr(repair_module, "write_all", dying(repair_module.write_all))
        with pytest.raises(KeyboardInterrupt):
            repair(folder)
    repair(folder)
    assert verify(folder).problems == []
    assert completed_ids(folder) == set(IDS) - {"video2"}
    assert {path.suffix for path in folder.iterdir()} == {".tar", ".parquet"}
