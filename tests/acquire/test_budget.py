import fcntl
import threading

import pytest

from pipeline.acquire.budget import DiskBudget, wait_for_others
from pipeline.acquire.layout import incoming_path, lock_path, video_path
from pipeline.errors import InputError


def put(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return path


def test_what_is_there_counts_and_a_download_counts_with_the_most_it_may_take(tmp_path):
    put(video_path(tmp_path, "abc", "mp4"), 100)
    put(video_path(tmp_path, "abc", "en.vtt"), 10)
    put(incoming_path(tmp_path, "abd", "mp4.part"), 30)
    put(tmp_path / "notes.txt", 5)
    budget = DiskBudget(tmp_path, 400)
    assert budget.there == {"abc"} and budget.used == budget.measure() == 145
    assert budget.reserve("abd", 200) and budget.used == 315  # the 30 are a part of the 200
    assert not budget.reserve("abe", 86) and budget.used == 315
    assert budget.reserve("abe", 85) and budget.used == 400
    assert budget.measure() == 145

    incoming_path(tmp_path, "abd", "mp4.part").rename(put(video_path(tmp_path, "abd", "mp4"), 0))
    budget.settle("abd")
    assert budget.used == 100 + 10 + 30 + 5 + 85
    put(incoming_path(tmp_path, "abe", "mp4.part"), 80)
    assert budget.measure() == 225 and budget.peak == 225
    budget.delete("abc")
    assert budget.used == 120 and not video_path(tmp_path, "abc", "mp4").exists()
    assert not video_path(tmp_path, "abc", "en.vtt").exists() and (tmp_path / "notes.txt").exists()
    budget.settle("abe")
    assert budget.used == budget.measure() == 115


def test_partial_files_make_room_but_not_those_in_flight(tmp_path):
    put(video_path(tmp_path, "abc", "mp4"), 100)
    for name in ("abd", "abe"):
        put(incoming_path(tmp_path, name, "mp4.part"), 50)
    budget = DiskBudget(tmp_path, 250)
    assert budget.reserve("abe", 60)
    assert budget.drop_partial_files() == 50 and budget.used == 160
    assert incoming_path(tmp_path, "abe", "mp4.part").exists() and video_path(tmp_path, "abc", "mp4").exists()
    assert budget.drop_partial_files() == 0


def test_another_process_at_work_is_waited_for(tmp_path):
    stale, held = lock_path(tmp_path, "abc"), put(lock_path(tmp_path, "abd"), 0)
    put(stale, 0)
    with held.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process downloads into it"):
            wait_for_others(tmp_path, 0.2)
        threading.Timer(0.3, lambda: fcntl.flock(lock, fcntl.LOCK_UN)).start()
        wait_for_others(tmp_path, 20)
    assert not stale.exists() and not held.exists()
