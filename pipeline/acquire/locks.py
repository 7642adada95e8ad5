"""One process at a time, also beside one that somebody forgot to end."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
"""What file systems of clusters say that know no locks: there, nobody can tell."""


@contextmanager
def only_one(path: Path, keep: bool = True, wait: float = 0.0) -> Iterator[bool]:
    """Whether this is the only process between the lines; a killed process holds nothing.

    Args:
        path: the file that is locked; made if need be.
        keep: whether the file stays; one for each of a million videos would be in the way.
        wait: seconds in which another may finish.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait
    while True:
        with path.open("w") as lock:
            if _take(lock, path):
                try:
                    yield True
                finally:
                    if not keep:
                        path.unlink(missing_ok=True)
                return
        if time.monotonic() >= deadline:
            yield False
            return
        time.sleep(0.1)


def _take(lock: IO[str], path: Path) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # who held it may have taken the file away meanwhile
        return os.path.samestat(path.stat(), os.fstat(lock.fileno()))
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return True
        raise
