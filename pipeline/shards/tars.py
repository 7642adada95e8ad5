"""Reading bytes of sealed tars by offset, from the disk or from an object store."""

from __future__ import annotations

import contextlib
import errno
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.shards.files import ShardError
from pipeline.shards.remote import filesystem, remote_url

_OPEN_FILES = 64

_NOT_FROM_DISK = getattr(os, "RWF_NOWAIT", 0)

Range = tuple[int, int, int]
"""A tar, by its position; the first byte; the number of bytes."""


Read = tuple[int, int, Sequence[Any]]
"""The first byte; the number of bytes; contiguous arrays of so many bytes in all, filled one after the other."""


class Tars:
    """The tars of a folder, opened when they are first read, a bounded number at once.

    It can be sent to another process, which opens them for itself.
    """

    def __init__(self, paths: Sequence[Path], sizes: Sequence[int]):
        """Opens nothing yet.

        Args:
            paths: the tars; of those that are not there, the folder's ``remote.json`` may say where they are.
            sizes: the bytes that each must have; -1: not known.
        """
        self.paths = list(paths)
        self.sizes = list(sizes)
        self._url = remote_url(self.paths[0].parent) if self.paths else None
        self._remote = {tar for tar, path in enumerate(self.paths) if self._url and not path.exists()}
        self._store: tuple[int, Any, str] = (0, None, "")
        self._fetched: dict[Range, bytes] = {}
        self._descriptors: OrderedDict[int, int] = OrderedDict()
        self._not_from_disk = _NOT_FROM_DISK

    def read(self, tar: int, offset: int, size: int) -> bytearray:
        """``size`` bytes from ``offset`` of the tar at a position in ``paths``.

        Raises:
            ShardError: the tar is missing, has another size than its index says, or cannot be read.
        """
        buffer = bytearray(size)
        self.read_into(tar, (offset, size, [buffer]))
        return buffer

    def read_into(self, tar: int, read: Read) -> None:
        """Fills the buffers of a read; raises ShardError as :meth:`read` does."""
        offset, expected, buffers = read
        if tar in self._remote:
            data = memoryview(self._from_store(tar, offset, expected))
            for buffer in buffers:
                target = memoryview(buffer).cast("B")
                target[:] = data[: len(target)]
                data = data[len(target) :]
            return
        try:
            size = os.preadv(self._descriptor(tar), buffers, offset)
        except OSError as error:
            raise self.damaged(tar, error.strerror or str(error)) from None
        if size != expected:
            raise self.damaged(tar, f"ends before byte {offset + expected}")

    def read_soon(self, tar: int, reads: Sequence[Read]) -> list[Read]:
        """Does the reads whose bytes are in memory, and has the disk get the others meanwhile.

        A disk that is asked for many things at once gives them twice as fast.

        Returns:
            those that are still to be done, by :meth:`read_into`, which says what is wrong with a tar.
        """
        if tar in self._remote or not self._not_from_disk:
            return list(reads)
        later = []
        preadv = os.preadv
        with contextlib.suppress(OSError, ShardError):
            descriptor = self._descriptor(tar)
            for read in reads:
                offset, size, buffers = read
                try:
                    if preadv(descriptor, buffers, offset, self._not_from_disk) == size:
                        continue
                except BlockingIOError:
                    pass
                except OSError as error:
                    if error.errno == errno.EOPNOTSUPP:
                        self._not_from_disk = 0
                later.append(read)
                os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_WILLNEED)
            return later
        return list(reads)

    def fetch(self, ranges: Sequence[Range]) -> None:
        """Gets what will soon be read in parts, all at once, from tars in a store; nothing for those on the disk.

        A request to a store costs more than the bytes of a sample that are not needed. What was fetched before goes.
        What cannot be fetched is left to the reading of it, which says why.
        """
        self._fetched = {}
        wanted = [one for one in ranges if one[0] in self._remote]
        if wanted:
            store, root = self._open_store()
            paths = [f"{root}/{self.paths[tar].name}" for tar, _, _ in wanted]
            starts, ends = [start for _, start, _ in wanted], [start + size for _, start, size in wanted]
            found = store.cat_ranges(paths, starts, ends, on_error="return")
            pairs = zip(wanted, found, strict=True)
            self._fetched = {one: data for one, data in pairs if isinstance(data, bytes) and len(data) == one[2]}

    @property
    def remote(self) -> bool:
        """Whether any of them is in a store."""
        return bool(self._remote)

    def size(self, tar: int) -> int:
        """The bytes that a tar has; raises ShardError."""
        if tar not in self._remote:
            try:
                return self.paths[tar].stat().st_size
            except OSError as error:
                raise self.damaged(tar, error.strerror or str(error)) from None
        store, root = self._open_store()
        try:
            return int(store.size(f"{root}/{self.paths[tar].name}"))
        except Exception as error:  # each store has its own errors
            raise self.damaged(tar, f"is not to be had from {self._url}: {error}") from None

    def damaged(self, tar: int, what: str) -> ShardError:
        """The error that names a tar and what is wrong with it."""
        path, why = self.paths[tar], " ".join(what.split())
        error = ShardError(f"{path}: {why}; see python -m pipeline.shards verify {path.parent}")
        error.why = why
        return error

    def close(self) -> None:
        """Closes what is open; reading opens it again."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_descriptors"):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptors": OrderedDict(), "_store": (0, None, ""), "_fetched": {}}

    def _from_store(self, tar: int, offset: int, size: int) -> bytes | memoryview:
        for (fetched_tar, start, length), data in self._fetched.items():
            if fetched_tar == tar and start <= offset and offset + size <= start + length:
                return memoryview(data)[offset - start : offset - start + size]
        if not size:  # a store takes an empty range for the whole file
            return b""
        store, root = self._open_store()
        try:
            found = bytes(store.cat_file(f"{root}/{self.paths[tar].name}", start=offset, end=offset + size))
        except Exception as error:  # each store has its own errors
            raise self.damaged(tar, f"is not to be had from {self._url}: {error}") from None
        if len(found) != size:
            raise self.damaged(tar, f"ends before byte {offset + size}")
        return found

    def _open_store(self) -> tuple[Any, str]:
        """The store, opened anew in each process: what it holds does not survive a fork."""
        if self._store[0] != os.getpid():
            self._store = (os.getpid(), *filesystem(str(self._url)))
        return self._store[1:]

    def _descriptor(self, tar: int) -> int:
        if tar in self._descriptors:
            self._descriptors.move_to_end(tar)
            return self._descriptors[tar]
        descriptor = os.open(self.paths[tar], os.O_RDONLY | os.O_CLOEXEC)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # what else it would read ahead is not wanted
        size = os.fstat(descriptor).st_size
        if self.sizes[tar] not in (-1, size):
            os.close(descriptor)
            raise self.damaged(tar, f"has {size} bytes, its index was made for {self.sizes[tar]}")
        self._descriptors[tar] = descriptor
        if len(self._descriptors) > _OPEN_FILES:
            os.close(self._descriptors.popitem(last=False)[1])
        return descriptor
