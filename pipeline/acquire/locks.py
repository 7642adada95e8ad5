"""One process at a time, also beside one that somebody forgot to end."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def only_one(path: Path, keep: bool = True) -> Iterator[bool]:
    """Whether this is the only process between the lines; never waits, and a killed process holds nothing.

    Args:
        path: the file that is locked; made if need be.
        keep: whether the file stays; one for each of a million videos would be in the way.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        if not _is_still(path, lock.fileno()):
            yield False  # who held it has taken the file away
            return
        try:
            yield True
        finally:
            if not keep:
                path.unlink(missing_ok=True)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
