"""The bytes that a folder of videos takes, kept under a limit."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path

from pipeline.acquire.layout import files_of, find_video, owner_of, unfinished_files
from pipeline.acquire.locks import only_one
from pipeline.errors import InputError


class DiskBudget:
    """What the videos of a folder take. Several threads may use it at once.

    A download in flight counts with the most that it may take, all else with its size.

    Args:
        folder: the folder of all videos; what is there already counts.
        limit: bytes.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._lock = threading.Lock()
        self._taken: Counter[str | None] = Counter()
        self._in_flight: set[str] = set()
        self._used = self.peak = 0
        """``peak``: the most bytes that were seen on the disk."""
        for name, size in _walk(folder):
            self._taken[owner_of(name)] += size
            self._used += size
        self.there = {name for name in self._taken if name is not None and find_video(folder, name) is not None}
        """The videos that were complete when it began."""
        self.measure()

    @property
    def used(self) -> int:
        """Bytes that are taken or reserved."""
        return self._used

    def reserve(self, video_id: str, size: int) -> bool:
        """Sets bytes aside for a download, over those that a part of it takes already; False: there is no room."""
        with self._lock:
            more = max(size - self._taken[video_id], 0)
            if self._used + more > self.limit:
                return False
            self._taken[video_id] += more
            self._used += more
            self._in_flight.add(video_id)
            return True

    def settle(self, video_id: str) -> None:
        """Counts a video with the size of its files from now on."""
        size = self._size_of(video_id)
        with self._lock:
            self._in_flight.discard(video_id)
            self._used += size - self._taken.pop(video_id, 0)
            if size:
                self._taken[video_id] = size
        self.measure()

    def delete(self, video_id: str) -> None:
        """Deletes all files of a video."""
        for path in files_of(self.folder, video_id):
            path.unlink(missing_ok=True)
        self.settle(video_id)

    def drop_partial_files(self) -> int:
        """Deletes what came of videos that are not complete and not coming in now; returns the bytes."""
        before = self._used
        with self._lock:
            idle = [name for name in self._taken if name is not None and name not in self._in_flight]
        for video_id in idle:
            if find_video(self.folder, video_id) is None:
                for path in unfinished_files(self.folder, video_id):
                    path.unlink(missing_ok=True)
                self.settle(video_id)
        return before - self._used

    def measure(self) -> int:
        """Bytes that are on the disk now."""
        with self._lock:
            coming = list(self._in_flight)
            at_rest = self._used - sum(self._taken[video_id] for video_id in coming)
        now = at_rest + sum(map(self._size_of, coming))
        self.peak = max(self.peak, now)
        return now

    def _size_of(self, video_id: str) -> int:
        return sum(_size(path) for path in files_of(self.folder, video_id))


def wait_for_others(folder: Path, seconds: float) -> None:
    """Waits until no process fetches a video into a folder, as a worker of a killed run may for a moment.

    Raises:
        InputError: one still does.
    """
    deadline = time.monotonic() + seconds
    for path in folder.glob("*/.*~lock"):
        with only_one(path, keep=False, wait=max(deadline - time.monotonic(), 0.0)) as free:
            if not free:
                raise InputError(f"{folder}: another process downloads into it; stop it, or wait for its end")


def _walk(folder: Path) -> list[tuple[str, int]]:
    """Name and size of each file below a folder."""
    return [(name, _size(Path(place, name))) for place, _, names in os.walk(folder) for name in names]


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0  # it was renamed or removed meanwhile
