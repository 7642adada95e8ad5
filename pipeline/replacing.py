"""Files that are whole or not there: written beside, made durable, renamed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def replace_file(path: Path, write: Callable[[Path], object], beside: Path | None = None) -> None:
    """Writes a file beside and renames it: whoever reads, even after a power cut, sees the old one or the new one.

    Args:
        path: the file, whether it is there or not; its folder is.
        write: writes what is to be in it into the path that it is given.
        beside: where it is written first, in the same folder; default: ``path`` with ``.part`` after it. Processes that
            may do so at once each need their own.
    """
    beside = beside or path.with_name(path.name + ".part")
    try:
        write(beside)
        sync_file(beside)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Makes a file's bytes durable."""
    _sync(path, os.O_RDONLY)


def sync_folder(folder: Path) -> None:
    """Makes the creation, renaming and removal of a folder's files durable."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
