"""Work spread over long-lived Ray actors that may die at any moment.

The pool keeps a bounded number of items in flight, hands out results as they come, replaces actors that die and tells
an item that kills its actor from its innocent neighbours. What an actor does is the business of the verb.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic

import ray
from ray.exceptions import GetTimeoutError, NodeDiedError, RayActorError, RayTaskError, WorkerCrashedError

from pipeline.errors import InputError
from pipeline.ray_pool.blame import STRIKES, Blame
from pipeline.ray_pool.outcome import Item, Outcome, Result, WorkerDied

STEP = 0.2
"""Seconds after which a stream that had nothing to hand out is asked again, and a wish to stop is noticed."""
_ADDRESS = re.compile(r"\bip=([\w.:]+)")
"""Of the machine, in what Ray says of an actor."""
_DEATHS = (RayActorError, NodeDiedError, WorkerCrashedError)


@dataclass
class _Slot(Generic[Item]):
    """A place for one actor."""

    index: int
    actor: Any
    starting: Any
    """Reference that is ready once the actor's constructor has returned; None: it has."""
    flying: dict[Any, Item] = field(default_factory=dict)
    retired: bool = False
    """Gets nothing more."""
    alone: bool = False
    """Holds an item under suspicion and gets no other beside it."""


class ActorPool(Generic[Item, Result]):
    """A fixed number of actors working through a lazy stream of items.

    Args:
        create: makes the actor of a slot (``0 .. size - 1``), also a replacement; None: the slot is given up, for
            instance because its node is gone.
        size: number of slots.
        method: name of the actors' method; it is called with one item.
        in_flight: items that an actor holds at once; the pool never holds more than ``size * in_flight`` references.
        item_id: an item's name, for ``on_replaced`` and for counting its strikes.
        on_replaced: called with the slot and the items in flight when an actor has died, before any of them is
            dispatched again; returns the ids of those that turn out to be done.
        start_timeout: seconds in which at least one actor must come up.
        stop: once it is set, :meth:`run` ends; what is in flight is left to :meth:`drain`.
    """

    def __init__(
        self,
        create: Callable[[int], Any],
        size: int,
        method: str,
        *,
        in_flight: int = 1,
        item_id: Callable[[Item], str] = str,
        on_replaced: Callable[[int, list[Item]], Collection[str]] | None = None,
        start_timeout: float = 300.0,
        stop: threading.Event | None = None,
    ) -> None:
        self._create, self._method, self._in_flight, self._item_id = create, method, in_flight, item_id
        self._on_replaced, self._start_timeout = on_replaced, start_timeout
        self._stop = stop or threading.Event()
        self._idle = False
        self._again: deque[Item] = deque()
        self._suspects: deque[Item] = deque()
        self._blame = Blame()
        self._slots: list[_Slot[Item]] = []
        for index in range(size):
            self._fill_slot(index)

    def run(self, items: Iterable[Item | None]) -> Iterator[Outcome[Item, Result]]:
        """Yields an outcome for each item, in the order in which they finish.

        Args:
            items: read as actors have room; None: there is nothing to hand out now, ask again soon.

        Raises:
            InputError: an actor's constructor raised one, or no actor came up in time.
            RuntimeError: actors die whatever they are given, or none is left.
        """
        feed = iter(items)
        while not self._stop.is_set():
            self._idle = False
            self._dispatch(feed)
            if not self.flying and (self._all_retired() or not (self._has_item(feed) or self._idle)):
                return
            yield from self._collect(self._start_timeout)

    def drain(self, seconds: float) -> Iterator[Outcome[Item, Result]]:
        """Outcomes of what is in flight and ends within ``seconds``; dispatches nothing more."""
        deadline = time.monotonic() + seconds
        while self.flying and (left := deadline - time.monotonic()) > 0:
            yield from self._collect(left, required=False)

    def retire(self, slot: int) -> None:
        """Gives a slot nothing more; when none is left, :meth:`run` ends, whatever the stream still holds."""
        for one in self._slots:
            one.retired |= one.index == slot

    def resubmit(self, item: Item) -> None:
        """Queues an item again, for instance one that an actor handed back before its slot was retired."""
        self._again.append(item)

    def _all_retired(self) -> bool:
        return bool(self._slots) and all(slot.retired for slot in self._slots)

    @property
    def deaths(self) -> int:
        """Actors that died so far."""
        return self._blame.deaths

    @property
    def flying(self) -> list[Item]:
        """The items in flight."""
        return [item for slot in self._slots for item in slot.flying.values()]

    def broadcast(self, method: str, *arguments: Any, timeout: float | None = None) -> list[Any]:
        """Calls a method of every actor that runs, and returns what those that live return.

        The first error of one is raised once all have answered.
        """
        references = [getattr(slot.actor, method).remote(*arguments) for slot in self._slots if slot.starting is None]
        values: list[Any] = []
        failure: Exception | None = None
        for reference in references:
            try:
                values.append(ray.get(reference, timeout=timeout))
            except (*_DEATHS, GetTimeoutError):
                continue
            except RayTaskError as error:
                failure = failure or error.cause or error
        if failure is not None:
            raise failure
        return values

    def close(self) -> None:
        """Ends the actors at once; items in flight are abandoned."""
        for slot in self._slots:
            ray.kill(slot.actor)
        self._slots = []

    def __enter__(self) -> ActorPool[Item, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fill_slot(self, index: int) -> None:
        actor = self._create(index)
        if actor is not None:
            self._slots.append(_Slot(index, actor, actor.__ray_ready__.remote()))

    def _dispatch(self, feed: Iterator[Item | None]) -> None:
        """Hands items to actors with room: those that lost their actor first, suspects to an actor of their own."""
        reserved = False
        for slot in sorted(self._slots, key=lambda slot: len(slot.flying)):
            if slot.starting is not None or slot.alone or slot.retired:
                continue
            if self._suspects and not slot.flying:
                slot.alone = True
                self._send(slot, self._suspects.popleft())
                continue
            if self._suspects and not reserved:
                reserved = True  # left to run empty for the suspect
                continue
            while len(slot.flying) < self._in_flight:
                if not (self._again or self._read(feed)):
                    break
                self._send(slot, self._again.popleft())

    def _has_item(self, feed: Iterator[Item | None]) -> bool:
        return bool(self._suspects or self._again or self._read(feed))

    def _read(self, feed: Iterator[Item | None]) -> bool:
        """Puts the stream's next item into the queue; False: there is none, or none now."""
        if self._idle:
            return False  # it was asked in this round already
        for item in feed:
            self._idle = item is None
            if item is not None:
                self._again.append(item)
            return item is not None
        return False

    def _send(self, slot: _Slot[Item], item: Item) -> None:
        slot.flying[getattr(slot.actor, self._method).remote(item)] = item

    def _collect(self, timeout: float, required: bool = True) -> Iterator[Outcome[Item, Result]]:
        """Waits for the next thing to happen, then takes up all that has happened."""
        owners = {reference: slot for slot in self._slots for reference in slot.flying}
        starting = {slot.starting: slot for slot in self._slots if slot.starting is not None}
        references = [*owners, *starting]
        if not references and not (self._idle and self._slots):
            raise RuntimeError("all workers are gone and none could be replaced; the same command continues")
        # Work may take as long as it likes; only a pool in which nothing has started yet runs out of patience.
        patience = timeout if not owners or not required else None
        ready = self._wait(references, STEP if self._idle else patience)
        if not ready and required and not self._idle and not self._stop.is_set():
            raise InputError(
                f"no worker could start within {timeout:.0f} s: is the cluster full? Free some CPUs and run it again"
            )
        if len(references) > 1:
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        replaced: set[int] = set()
        for reference in ready:
            slot = owners.get(reference) or starting[reference]
            if slot.index not in replaced:
                yield from self._take(slot, reference, replaced)

    def _wait(self, references: list[Any], seconds: float | None) -> list[Any]:
        """What is ready within so many seconds, or before it is time to stop; None: as long as it takes."""
        until = math.inf if seconds is None else time.monotonic() + seconds
        while True:
            left = min(max(until - time.monotonic(), 0.0), STEP)
            ready: list[Any] = []
            if references:
                ready, _ = ray.wait(references, num_returns=1, timeout=left)
            else:
                self._stop.wait(left)
            if ready or self._stop.is_set() or time.monotonic() >= until:
                return ready

    def _take(self, slot: _Slot[Item], reference: Any, replaced: set[int]) -> Iterator[Outcome[Item, Result]]:
        try:
            value = ray.get(reference)
        except _DEATHS as error:
            _raise_if_constructor_failed(error)
            replaced.add(slot.index)
            yield from self._replace(slot)
            return
        except RayTaskError as error:
            outcome = Outcome[Item, Result](slot.flying[reference], error=error.cause or error, slot=slot.index)
        else:
            if reference == slot.starting:
                slot.starting = None
                return
            outcome = Outcome(slot.flying[reference], result=value, slot=slot.index)
        yield self._finish(slot, reference, outcome)

    def _finish(self, slot: _Slot[Item], reference: Any, outcome: Outcome[Item, Result]) -> Outcome[Item, Result]:
        slot.alone = False
        self._blame.ended(self._item_id(slot.flying.pop(reference)))
        return outcome

    def _replace(self, slot: _Slot[Item]) -> Iterator[Outcome[Item, Result]]:
        """Takes a dead actor's finished results, asks what else is done and queues the rest again."""
        self._blame.death()
        ray.kill(slot.actor)  # an actor that is merely out of reach must not work on beside its replacement
        lost: list[Item] = []
        for reference in list(slot.flying):
            item = slot.flying[reference]
            try:
                result = ray.get(reference, timeout=5)
            except (*_DEATHS, GetTimeoutError):
                lost.append(slot.flying.pop(reference))
            except RayTaskError as error:
                yield self._finish(slot, reference, Outcome(item, error=error.cause or error, slot=slot.index))
            else:
                yield self._finish(slot, reference, Outcome(item, result=result, slot=slot.index))
        self._slots.remove(slot)
        done = self._on_replaced(slot.index, lost) if self._on_replaced is not None and lost else ()
        for item in lost:
            if self._item_id(item) in done:
                self._blame.forget(self._item_id(item))
                yield Outcome(item, recovered=True)
                continue
            match self._blame.strike(self._item_id(item), slot.alone):
                case "guilty":
                    yield Outcome(item, error=WorkerDied(f"its worker process died {STRIKES} times"))
                case "suspect":
                    self._suspects.append(item)
                case "innocent":
                    self._again.append(item)
        self._fill_slot(slot.index)


def _raise_if_constructor_failed(error: Exception) -> None:
    if not getattr(error, "_actor_init_failed", False):
        return
    last_line = str(error).strip().splitlines()[-1]
    name, _, message = last_line.partition(": ")
    if name.endswith(InputError.__name__):
        raise InputError(message) from None
    if name.endswith(("ModuleNotFoundError", "ImportError")):
        where = _ADDRESS.search(str(error))
        raise InputError(
            f"a worker could not start{f' on {where[1]}' if where else ''} ({message}): install the same version of "
            "this package with all that it needs, for the Python that Ray was started with there"
        ) from None
    raise RuntimeError(f"a worker could not start: {last_line}") from error
