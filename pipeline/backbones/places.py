"""Where an input stands in a batch, and where its feature stands among its video's."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

import numpy as np

_BLOCK_ROWS = 256


class _Placed(Protocol):
    """What can wait for a place."""

    @property
    def place(self) -> int:
        """In any batch it stands at this place, modulo the batch's size."""


_Item = TypeVar("_Item", bound=_Placed)


class Waiting(Generic[_Item]):
    """Inputs of one network and one shape, each waiting for its own place in a batch.

    On a GPU two places of a batch need not be the same: kernels may split sums differently there, and the last bit of
    a feature would tell what was computed beside it. So a place is a video's own choice, and inputs that chose the same
    one follow each other.
    """

    def __init__(self, batch_size: int) -> None:
        self._queues: list[deque[_Item]] = [deque() for _ in range(batch_size)]
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[_Item]:
        for queue in self._queues:
            yield from queue

    def add(self, item: _Item) -> None:
        """Puts an item behind those of its place."""
        self._queues[item.place % len(self._queues)].append(item)
        self._count += 1

    def full(self) -> bool:
        """Whether a batch is worth computing now: each place is taken, or so many wait that most are."""
        return self._count >= 2 * len(self._queues) or (self._count >= len(self._queues) and all(self._queues))

    def take(self) -> dict[int, _Item]:
        """The first item of each place, by place in the batch."""
        taken = {place: queue.popleft() for place, queue in enumerate(self._queues) if queue}
        self._count -= len(taken)
        return taken

    def drop(self, unwanted: Callable[[_Item], bool]) -> None:
        """Removes items."""
        self._queues = [deque(item for item in queue if not unwanted(item)) for queue in self._queues]
        self._count = sum(map(len, self._queues))


class Rows:
    """Rows of one width by number, in large blocks: many small arrays between large ones would split up the heap."""

    def __init__(self) -> None:
        self._blocks: dict[int, np.ndarray] = {}
        self._count = 0

    def put(self, number: int, row: np.ndarray) -> None:
        """Copies a row; each number from zero on comes once, in any order."""
        block, place = divmod(number, _BLOCK_ROWS)
        if block not in self._blocks:
            self._blocks[block] = np.empty((_BLOCK_ROWS, *row.shape), row.dtype)
        self._blocks[block][place] = row
        self._count += 1

    def joined(self) -> np.ndarray:
        """All rows in one array; each block goes as soon as it is copied, so that memory is not needed twice."""
        first = self._blocks[0]
        result = np.empty((self._count, *first.shape[1:]), first.dtype)
        for number in range(len(self._blocks)):
            start = number * _BLOCK_ROWS
            result[start : start + _BLOCK_ROWS] = self._blocks.pop(number)[: self._count - start]
        return result
