"""The processes of the loader: their memory, their end, and the end of those that use them."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pipeline.config import ClipSettings
from pipeline.errors import InputError
from pipeline.shards import pool
from pipeline.shards.loader import TrainingLoader
from pipeline.shards.reader import ShardSet
from tests.shards.samples import make_sample, same, write_shards

SETTINGS = ClipSettings(per_video=2, max_audio_frames=100)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return ShardSet(write_shards(tmp_path_factory.mktemp("set"), [make_sample(f"v{n:02d}") for n in range(12)]))


def loader(shards, workers=2):
    return TrainingLoader(shards, SETTINGS, batch_videos=2, seed=1, workers=workers)


def test_batches_that_are_kept_stay_as_they_were(shards):
    """More of them than the memory that is shared, before and after the workers are gone."""
    expected = list(loader(shards, workers=0))
    used = loader(shards)
    kept = list(used)
    part = kept[0]["features_3d"][1:2, :3]
    used.close()
    del used
    gc.collect()
    for batch, other in zip(kept, expected, strict=True):
        assert same(batch, other)
    del kept
    gc.collect()
    assert torch.equal(part, expected[0]["features_3d"][1:2, :3])


def test_memory_is_used_again(shards):
    used = loader(shards, workers=1)
    addresses = set()
    for _ in range(3):
        for batch in used:
            addresses.add(batch["features_3d"].data_ptr())
    assert len(addresses) <= 4
    used.close()


def test_closing_ends_the_processes(shards):
    used = loader(shards)
    next(iter(used))
    assert len(multiprocessing.active_children()) == 2
    used.close()
    assert multiprocessing.active_children() == []
    next(iter(used))
    del used
    gc.collect()
    assert multiprocessing.active_children() == []


def test_a_process_that_dies_is_said(shards):
    used = loader(shards, workers=1)
    stream = iter(used)
    next(stream)
    (process,) = multiprocessing.active_children()
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(InputError, match=r"a loader process died \(SIGKILL\)"):
        for _ in range(6):
            next(stream)
    assert multiprocessing.active_children() == []
    assert len(list(used)) > 0
    used.close()


def test_after_sigterm_the_processes_still_give_batches_and_then_end(shards, monkeypatch):
    """A handler of the parent, which the processes inherit, does not keep them."""
    monkeypatch.setattr(pool, "GRACE_SECONDS", 2)
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        used = loader(shards)
        stream = iter(used)
        for _ in range(2):  # one of each: both have their handlers
            next(stream)
        processes = multiprocessing.active_children()
        for process in processes:
            process.terminate()
        next(stream)
        for process in processes:
            process.join(30)
            assert process.exitcode == -signal.SIGALRM
        used.close()
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_processes_of_a_killed_parent_end(shards):
    script = (
        "import multiprocessing, os, sys, time\n"
        "from pathlib import Path\n"
        "from pipeline.config import ClipSettings\n"
        "from pipeline.shards.loader import TrainingLoader\n"
        "from pipeline.shards.reader import ShardSet\n"
        "loader = TrainingLoader(ShardSet(Path(sys.argv[1])), ClipSettings(per_video=1), 2, 1, workers=2)\n"
        "stream = iter(loader)\n"
        "next(stream)\n"
        "print(*[process.pid for process in multiprocessing.active_children()], flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, shards.folder], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 60
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_a_process_refuses_is_said_as_it_is():
    def refuse(batch, request):
        raise InputError("this clip has no such array")

    refusing = pool.WorkerPool(pool.Work(lambda memory, clips: {}, refuse, lambda request: 1, 4096), iter(range(9)), 1)
    with pytest.raises(InputError, match=r"^this clip has no such array$"):
        next(refusing)
    refusing.close()
