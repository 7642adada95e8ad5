"""Reading bytes of sealed tars by offset."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.shards.files import ShardError

_OPEN_FILES = 64


class Tars:
    """The tars of a folder, opened when they are first read, a bounded number at once.

    It can be sent to another process, which opens them for itself.
    """

    def __init__(self, paths: Sequence[Path], sizes: Sequence[int]):
        """Opens nothing yet.

        Args:
            paths: the tars.
            sizes: the bytes that each must have; -1: not known.
        """
        self.paths = list(paths)
        self.sizes = list(sizes)
        self._descriptors: OrderedDict[int, int] = OrderedDict()

    def read(self, tar: int, offset: int, size: int) -> bytearray:
        """``size`` bytes from ``offset`` of the tar at a position in ``paths``.

        Raises:
            ShardError: the tar is missing, has another size than its index says, or cannot be read.
        """
        buffer = bytearray(size)
        self.read_into(tar, offset, memoryview(buffer))
        return buffer

    def read_into(self, tar: int, offset: int, buffer: memoryview) -> None:
        """Fills ``buffer`` with the bytes from ``offset`` on; else like :meth:`read`."""
        try:
            size = os.preadv(self._descriptor(tar), [buffer], offset)
        except OSError as error:
            raise self.damaged(tar, error.strerror or str(error)) from None
        if size != len(buffer):
            raise self.damaged(tar, f"ends before byte {offset + len(buffer)}")

    def damaged(self, tar: int, what: str) -> ShardError:
        """The error that names a tar and what is wrong with it."""
        path = self.paths[tar]
        return ShardError(f"{path}: {' '.join(what.split())}; see python -m pipeline.shards verify {path.parent}")

    def close(self) -> None:
        """Closes what is open; reading opens it again."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_descriptors"):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptors": OrderedDict()}

    def _descriptor(self, tar: int) -> int:
        if tar in self._descriptors:
            self._descriptors.move_to_end(tar)
            return self._descriptors[tar]
        descriptor = os.open(self.paths[tar], os.O_RDONLY | os.O_CLOEXEC)
        size = os.fstat(descriptor).st_size
        if self.sizes[tar] not in (-1, size):
            os.close(descriptor)
            raise self.damaged(tar, f"has {size} bytes, its index was made for {self.sizes[tar]}")
        self._descriptors[tar] = descriptor
        if len(self._descriptors) > _OPEN_FILES:
            os.close(self._descriptors.popitem(last=False)[1])
        return descriptor
