"""What a shard's files are called, and the few operations on files that must survive a crash."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError

FORMAT_VERSION = 1
"""Version of shards, journals and indexes; readers refuse a newer one."""

_FILE = re.compile(r"(?P<name>.+)-(?P<writer>[A-Za-z0-9_]+)-(?P<number>\d{6,})\.(tar|tar\.part|journal|parquet)")
_WRITER = re.compile(r"[A-Za-z0-9_]+")


class ShardError(InputError):
    """A shard, journal or index is not what it should be; the message names the file and what to do."""

    why = ""
    """Of a tar that is damaged: what is wrong with it, without its name and advice."""


class NewerFormatError(ShardError):
    """A newer version of the program wrote it: nothing may be concluded from it, nor changed."""


@dataclass(frozen=True, order=True)
class Stem:
    """What the files of one shard have in common: ``<name>-<writer>-<number>``."""

    folder: Path
    name: str
    writer: str
    number: int

    def __str__(self) -> str:
        return f"{self.name}-{self.writer}-{self.number:06d}"

    @property
    def tar(self) -> Path:
        """The sealed shard."""
        return self.folder / f"{self}.tar"

    @property
    def part(self) -> Path:
        """The shard in the making."""
        return self.folder / f"{self}.tar.part"

    @property
    def journal(self) -> Path:
        """Which samples of the shard in the making count."""
        return self.folder / f"{self}.journal"

    @property
    def index(self) -> Path:
        """The sealed shard's index."""
        return self.folder / f"{self}.parquet"

    @classmethod
    def parse(cls, path: Path) -> Stem | None:
        """The stem of a shard's file; None: the file is not one of a shard's (``words.parquet``)."""
        match = _FILE.fullmatch(path.name)
        return cls(path.parent, match["name"], match["writer"], int(match["number"])) if match else None


def one_line(error: BaseException) -> str:
    """What an error says, with its kind, short enough for a message: some errors quote all of the bytes they met."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def check_writer(writer: str) -> None:
    """Raises ValueError when ``writer`` cannot be part of a file name from which it is read back."""
    if not _WRITER.fullmatch(writer):
        raise ValueError(f"a writer's name is of letters, digits and _, not {writer!r}")


def stems(folder: Path, suffix: str) -> list[Stem]:
    """The shards of a folder that have a file with ``suffix`` (``.tar``, ``.journal``...), in order of their names."""
    found = (Stem.parse(path) for path in sorted(folder.glob(f"*{suffix}")))
    return [stem for stem in found if stem is not None]


def no_folder(folder: Path) -> str:
    """What to say of a folder of shards that is none."""
    if folder.is_file():
        return f"{folder}: this is a file; give the folder of shards that it is in"
    return (
        f"{folder}: there is no such folder of shards; make it with python -m pipeline.extract, or "
        "of released features with python -m pipeline.convert"
    )


def write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Writes all of ``data``; a short write is continued."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives an OSError that does not say which file it is about (``os.write``, ``os.fsync``) the file's name."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


class WriterLock:
    """Held by the one process that may write a writer's shards; freed by the system when that process dies.

    It keeps a run that was killed but still breathes apart from the run that takes its place.
    """

    def __init__(self, folder: Path, name: str, writer: str, wait: float):
        """Takes the lock.

        Args:
            folder: the shards' folder.
            name: the data set's name.
            writer: the writer's name.
            wait: seconds to wait for another process to let go.

        Raises:
            InputError: another process still holds it.
        """
        self.path = folder / f"{name}-{writer}.lock"
        deadline = time.monotonic() + wait
        while not self._try():
            if time.monotonic() >= deadline:
                raise InputError(
                    f"{self.path}: another process is writing these shards; wait until it ends or stop it, then run "
                    "the same command again"
                )
            time.sleep(0.05)

    def _try(self) -> bool:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # whoever held the lock removes its file: a lock on a removed file guards nothing
            if os.fstat(descriptor).st_ino == self.path.stat().st_ino:
                self._descriptor = descriptor
                return True
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(descriptor)
        return False

    def release(self) -> None:
        """Lets go; a second call does nothing."""
        if self._descriptor >= 0:
            try:
                self.path.unlink(missing_ok=True)
            finally:
                os.close(self._descriptor)
                self._descriptor = -1
