import contextlib
import json
import os
import threading
import time
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.shards.files import ShardError
from pipeline.shards.reader import ShardSet
from pipeline.shards.recovery import completed_ids, seal_leftovers, wait_for_writers
from pipeline.shards.repair import repair
from pipeline.shards.verify import verify
from pipeline.shards.writer import ShardWriter
from tests.shards.samples import assert_same, small_sample, write_shards

IDS = [f"video{number}" for number in range(5)]
EXTRACTED = IDS[:3]
SHARD_BYTES = 6000  # two samples


class Crash(BaseException):
    """The process dies here."""


@contextlib.contextmanager
def crash_at(call, half=False):
    """Lets the process die at its ``call``-th operation on files; with ``half``, a write dies half-way."""
    real = {name: getattr(os, name) for name in ("write", "fsync", "replace", "unlink", "ftruncate")}
    count = 0

    def dying(name):
        def operation(*arguments, **options):
            nonlocal count
            count += 1
            if count == call and half and name == "write":
                real["write"](arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            if count >= call:
                raise Crash
            return real[name](*arguments, **options)

        return operation

    with pytest.MonkeyPatch.context() as patch:
        for name in real:
            patch.setattr(os, name, dying(name))
        yield


def extract(folder, added):
    """What an extraction does: it adds what does not count yet, then seals."""
    writer = None
    try:
        writer = ShardWriter(folder, "set", "w0", SHARD_BYTES, wait=0)
        done = completed_ids(folder)
        assert set(added) <= done
        assert writer.completed == done
        for video_id in EXTRACTED:
            if video_id not in done:
                writer.add(small_sample(video_id))
                added.append(video_id)
        writer.close()
    except Crash:
        if writer is not None:
            writer._close_files()
            with contextlib.suppress(Crash):
                writer._lock.release()
        return False
    return True


def assert_complete(folder, ids=EXTRACTED):
    shards = ShardSet(folder)
    assert sorted(shards.ids) == ids
    assert shards.repeated == 0
    for video_id in ids:
        assert_same(shards.read(video_id), small_sample(video_id))
    assert not [path.name for path in folder.iterdir() if path.suffix not in (".tar", ".parquet", ".lock")]


@pytest.mark.parametrize("half", [False, True])
def test_a_crash_at_each_step_loses_and_repeats_nothing(tmp_path, half):
    for call in range(1, 1000):
        folder = tmp_path / str(call)
        added = []
        with crash_at(call, half):
            finished = extract(folder, added)
        before = completed_ids(folder)
        assert set(added) <= before <= {*added, *EXTRACTED[len(added) : len(added) + 1]}
        assert extract(folder, added)
        assert_complete(folder)
        if finished:
            break
    assert call > 20


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=6))
def test_crashes_one_after_another(tmp_path_factory, calls):
    folder = tmp_path_factory.mktemp("crashes")
    added = []
    for call, half in calls:
        with crash_at(call, half):
            extract(folder, added)
    assert extract(folder, added)
    assert_complete(folder)


def _unsealed(folder):
    writer = ShardWriter(folder, "set", "w0")
    ends = [0]
    for video_id in IDS:
        writer.add(small_sample(video_id))
        ends.append((folder / "set-w0-000000.tar.part").stat().st_size)
    writer.abandon()
    return ends


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_prefix_of_the_bytes_recovers_to_what_was_counted(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("prefix")
    ends = _unsealed(folder)
    part, journal = folder / "set-w0-000000.tar.part", folder / "set-w0-000000.journal"
    part_bytes, journal_bytes = part.read_bytes(), journal.read_bytes()
    part_size = data.draw(st.integers(0, len(part_bytes)), label="part")
    journal_size = data.draw(st.integers(0, len(journal_bytes)), label="journal")
    garbage = data.draw(st.binary(max_size=40), label="torn")
    part.write_bytes(part_bytes[:part_size] + garbage)
    journal.write_bytes(journal_bytes[:journal_size] + data.draw(st.sampled_from([b"", garbage])))
    listed = journal_bytes[:journal_size].count(b"\n") - 1
    counted = max(0, min(listed, sum(end <= part_size for end in ends) - 1))
    assert completed_ids(folder) == set(IDS[:counted])
    with ShardWriter(folder, "set", "w0") as writer:
        assert writer.completed == set(IDS[:counted])
        for video_id in IDS[counted:]:
            writer.add(small_sample(video_id))
    assert_complete(folder, IDS)


def test_bytes_that_a_disk_lost_do_not_count(tmp_path):
    ends = _unsealed(tmp_path)
    part = tmp_path / "set-w0-000000.tar.part"
    part.write_bytes(part.read_bytes()[: ends[3] + 100] + bytes(ends[5] - ends[3] - 100))
    assert completed_ids(tmp_path) == set(IDS[:3])


def test_a_missing_folder_has_nothing(tmp_path):
    assert completed_ids(tmp_path / "none") == set()
    assert seal_leftovers(tmp_path / "none") == []


def test_an_index_without_its_tar_is_named(tmp_path):
    write_shards(tmp_path, [small_sample("one")])
    (tmp_path / "set-w0-000000.tar").unlink()
    with pytest.raises(ShardError, match=r"set-w0-000000\.tar: is gone"):
        completed_ids(tmp_path)


def test_a_newer_journal_is_refused_not_cut(tmp_path, monkeypatch):
    _unsealed(tmp_path)
    before = (tmp_path / "set-w0-000000.tar.part").read_bytes()
    monkeypatch.setattr("pipeline.shards.index.FORMAT_VERSION", 0)
    with pytest.raises(ShardError, match="format version 1"):
        ShardWriter(tmp_path, "set", "w0")
    assert (tmp_path / "set-w0-000000.tar.part").read_bytes() == before


def test_shards_left_by_copies_of_one_writer_are_all_sealed(tmp_path):
    for number, video_id in enumerate(["one", "two"]):
        writer = ShardWriter(tmp_path / "elsewhere", "set", "w0")
        writer.add(small_sample(video_id))
        writer.abandon()
        for suffix in ("journal", "tar.part"):
            (tmp_path / "elsewhere" / f"set-w0-000000.{suffix}").rename(tmp_path / f"set-w0-{number:06d}.{suffix}")
    assert completed_ids(tmp_path) == {"one", "two"}
    assert len(seal_leftovers(tmp_path)) == 2
    assert ShardSet(tmp_path).ids == ["one", "two"]


def test_what_a_last_worker_of_a_killed_run_still_adds_is_waited_for(tmp_path):
    wait_for_writers(tmp_path / "none", 0.0)
    writer = ShardWriter(tmp_path, "set", "w000")
    with pytest.raises(InputError, match=r"set-w000\.lock: another process"):
        wait_for_writers(tmp_path, 0.1)

    def finish():
        time.sleep(0.3)
        writer.add(small_sample("late"))
        writer.abandon()

    worker = threading.Thread(target=finish)
    worker.start()
    wait_for_writers(tmp_path, 20.0)
    assert completed_ids(tmp_path) == {"late"}
    worker.join()
    wait_for_writers(tmp_path, 0.0)


def half_sealed(folder):
    """A shard whose tar has its final name, and whose last sample the disk has lost; its index is not written."""
    with contextlib.suppress(Crash), ShardWriter(folder, "set", "w0") as writer:
        for video_id in IDS[:2]:
            writer.add(small_sample(video_id))
        raise Crash
    part, tar = folder / "set-w0-000000.tar.part", folder / "set-w0-000000.tar"
    with part.open("ab") as file:
        file.write(bytes(1024))
    part.rename(tar)
    data = bytearray(tar.read_bytes())
    data[-3000] ^= 1
    tar.write_bytes(data)
    return tar


def test_what_a_disk_lost_of_a_half_sealed_shard_is_cut_off(tmp_path):
    tar = half_sealed(tmp_path)
    assert [str(problem.path) for problem in verify(tmp_path).problems] == [str(tar)]
    with ShardWriter(tmp_path, "set", "w0", SHARD_BYTES) as writer:
        assert writer.completed == {IDS[0]}
        writer.add(small_sample(IDS[1]))
    assert completed_ids(tmp_path) == set(IDS[:2])
    assert verify(tmp_path).problems == []


def test_repair_mends_a_half_sealed_shard(tmp_path):
    half_sealed(tmp_path)
    repair(tmp_path)
    assert completed_ids(tmp_path) == {IDS[0]}
    assert verify(tmp_path).problems == []


def test_a_line_of_a_later_program_is_taken_back_whole(tmp_path):
    with contextlib.suppress(Crash), ShardWriter(tmp_path, "set", "w0") as writer:
        writer.add(small_sample(IDS[0]))
        writer.add(small_sample(IDS[1]))
        raise Crash
    journal, part = tmp_path / "set-w0-000000.journal", tmp_path / "set-w0-000000.tar.part"
    head, first, second = journal.read_bytes().splitlines(keepends=True)
    body = json.dumps(json.loads(second[9:]) | {"of_a_later_program": 1}).encode()
    journal.write_bytes(head + first + b"%08x %s\n" % (zlib.crc32(body), body))
    os.truncate(part, part.stat().st_size - 512)
    with ShardWriter(tmp_path, "set", "w0") as writer:
        assert writer.completed == {IDS[0]}
        assert journal.read_bytes() == head + first
        writer.add(small_sample(IDS[1]))
    assert completed_ids(tmp_path) == set(IDS[:2])
