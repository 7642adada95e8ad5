"""What became of an item that was given to an actor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkerDied(Exception):  # noqa: N818 - it reports what happened to an item
    """The actor's process died under an item, again and again."""


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What became of one item.

    Exactly one of these holds: ``error`` is None and ``result`` is what the actor's method returned; ``error`` is what
    it raised, or :class:`WorkerDied`; ``recovered`` is True and the item was found done after its actor's death.
    """

    item: Item
    result: Result | None = None
    error: BaseException | None = None
    recovered: bool = False
    slot: int = -1
    """The actor's slot, for :meth:`~pipeline.ray_pool.pool.ActorPool.retire`."""
