"""Frames and clips of several videos at once through the networks of one device.

Threads that decode submit what they have; one thread of the engine computes, in batches of a fixed size that hold
what came first, of whichever video, each at the place that it would have alone too, and zeros where nothing came. A
feature therefore depends on its own video only, and not on what was beside it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pipeline.backbones.places import Rows, Waiting

PENDING_BYTES = 64 << 20
"""Frames that may wait to be computed, or two batches if those are more; who submits more waits for room."""

_NO_MEMORY = ("CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED", "unable to find an engine")

_Bucket = tuple[str, tuple[int, ...]]
"""What can be in one batch: inputs of one network and one shape."""


@dataclass
class _Item:
    session: Session
    frames: np.ndarray
    number: int
    """How many of its session went to the network before it."""
    place: int
    """Of a batch, modulo its size: the video's own choice."""


@dataclass
class _Batch:
    """What a device computes, or has computed."""

    key: str
    items: dict[int, _Item]
    """By place."""
    features: torch.Tensor
    """Float16 ``[batch, dim]`` on the CPU; it holds once :attr:`ready` has come."""
    ready: torch.cuda.Event | None
    """None: it is computed."""


def _lacks_memory(error: Exception) -> bool:
    """Whether a device had too little memory: libraries beneath PyTorch say so in their own ways."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _NO_MEMORY)


def _is_lost(device: torch.device) -> bool:
    """Whether a GPU is of no more use to this process: after a fault of memory access it fails whatever it is told."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


class Session:
    """One video's way through the engine: made by :meth:`Engine.session`, used by one thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.features: dict[str, Rows] = {}
        """For each network, what was computed so far, by number of submission."""
        self._submitted: dict[str, tuple[int, int]] = {}
        """For each network, the number of inputs so far and the place of the first."""
        self.left = 0
        """Inputs that were submitted and not computed yet."""
        self.failure: Exception | None = None
        self.closed = False

    def submit(self, key: str, frames: np.ndarray) -> None:
        """Hands a frame or clip, uint8 ``[..., height, width, 3]``, to the network ``key``; it must not change later.

        All that a session gives to one network has one shape. Waits while too much is pending; raises what the
        computation failed with.
        """
        # places that the frames themselves choose are the same in each run and differ between videos
        number, first = self._submitted.get(key) or (0, zlib.crc32(np.ascontiguousarray(frames).data))
        self._submitted[key] = number + 1, first
        self._engine.put(key, _Item(self, frames, number, first + number))

    def finish(self, key: str) -> np.ndarray:
        """Waits for all that was submitted; the features of one network, float16 ``[n, dim]``, given away once."""
        self._engine.wait_until(self, lambda: self.left == 0)
        rows = self.features.pop(key, None)
        return rows.joined() if rows is not None else np.empty((0, 0), np.float16)


class Engine:
    """The networks of one device, and the thread that runs them."""

    def __init__(
        self, networks: Mapping[str, nn.Module], device: torch.device, batch_size: int, *, normalize: bool = False
    ) -> None:
        """Takes the networks over.

        Args:
            networks: name and network, on ``device``, uint8 ``[batch, ...]`` to float ``[batch, dim]``.
            device: where they are.
            batch_size: inputs at once; halved, for good, when the device runs out of memory.
            normalize: whether features are L2-normalised.
        """
        self.batch_size = batch_size
        self._networks = dict(networks)
        self._device = device
        self._normalize = normalize
        self._change = threading.Condition()
        self._buckets: dict[_Bucket, Waiting[_Item]] = {}
        self._pending_bytes = 0
        self._sessions = 0
        self._blocked = 0
        self._thread: threading.Thread | None = None
        self._threads_of_torch = torch.get_num_threads()
        # copies to a GPU have a queue of their own, so that they need not wait for the batch before theirs
        self._copying = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """A video's session; what it has not computed when it is left is dropped."""
        session = Session(self)
        with self._change:
            self._sessions += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="backbones", daemon=True)
                self._thread.start()
        try:
            yield session
        finally:
            with self._change:
                self._sessions -= 1
                session.closed = True
                self._drop(session)
                self._change.notify_all()

    def put(self, key: str, item: _Item) -> None:
        """Appends an input once there is room for it."""
        size = item.frames.nbytes
        most = max(PENDING_BYTES, 2 * self.batch_size * size)
        self.wait_until(item.session, lambda: self._pending_bytes + size <= most)
        with self._change:
            self._bucket(key, item).add(item)
            self._pending_bytes += size
            item.session.left += 1
            self._change.notify_all()

    def wait_until(self, session: Session, holds: Callable[[], bool]) -> None:
        """Blocks a session's thread until something holds; raises what its computation failed with."""
        with self._change:
            self._blocked += 1
            self._change.notify_all()
            self._change.wait_for(lambda: session.failure is not None or holds())
            self._blocked -= 1
            if session.failure is not None:
                raise session.failure

    def _bucket(self, key: str, item: _Item) -> Waiting[_Item]:
        return self._buckets.setdefault((key, item.frames.shape), Waiting(self.batch_size))

    def _run(self) -> None:
        torch.set_num_threads(self._threads_of_torch)  # a new thread would take the process's first setting
        under_way: _Batch | None = None
        while True:
            with self._change:
                while under_way is None and self._ready() is None:
                    if not self._sessions:
                        self._thread = None
                        return
                    self._change.wait()
                key, items = self._take()
            # a GPU computes while the next batch is put together and the one before it is fetched
            started = self._start(key, items) if items else None
            if under_way is not None:
                self._deliver(under_way)
            under_way = started

    def _ready(self) -> _Bucket | None:
        """The fullest bucket that fills a batch; the fullest of all, if all sessions wait and nothing more can come."""
        all_wait = self._blocked >= self._sessions
        ready = [bucket for bucket, waiting in self._buckets.items() if all_wait or waiting.full()]
        return max(ready, key=lambda bucket: len(self._buckets[bucket]), default=None)

    def _take(self) -> tuple[str, dict[int, _Item]]:
        bucket = self._ready()
        if bucket is None:
            return "", {}
        items = self._buckets[bucket].take()
        if not self._buckets[bucket]:
            del self._buckets[bucket]
        self._pending_bytes -= sum(item.frames.nbytes for item in items.values())
        self._change.notify_all()
        return bucket[0], items

    def _start(self, key: str, items: dict[int, _Item]) -> _Batch | None:
        """Starts a batch; None: it failed, or has to be done in halves."""
        try:
            with torch.inference_mode():
                return _Batch(key, items, *self._compute(key, self._gathered(items)))
        except Exception as error:  # whatever it is, it ends these videos and not the thread
            if self.batch_size == 1 or not _lacks_memory(error):
                self._fail(items, error)
                return None
        # not in the handler, where the error still holds what was computed so far
        self._halve(key, items)
        return None

    def _gathered(self, items: dict[int, _Item]) -> torch.Tensor:
        """A whole batch, uint8 ``[batch, ..., height, width, 3]``; page-locked for a GPU, which then fetches it."""
        shape = (self.batch_size, *next(iter(items.values())).frames.shape)
        batch = torch.empty(shape, dtype=torch.uint8, pin_memory=self._copying is not None)
        rows = batch.numpy()
        for place, row in enumerate(rows):
            row[...] = items[place].frames if place in items else 0
        return batch

    def _compute(self, key: str, batch: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        """Queues copying there, computing and copying back; the results, and what tells that they have come."""
        if self._copying is None:
            return self._features(key, batch), None
        computing = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._copying):
            batch = batch.to(self._device, non_blocking=True)
        computing.wait_stream(self._copying)
        batch.record_stream(computing)
        # copied back right behind its own computation: later, it would wait for the next batch's too
        features = self._features(key, batch).to("cpu", non_blocking=True)
        ready = torch.cuda.Event()
        ready.record(computing)
        return features, ready

    def _features(self, key: str, batch: torch.Tensor) -> torch.Tensor:
        """Float16 ``[batch, dim]``, on the device."""
        with torch.autocast(self._device.type, torch.float16, enabled=self._device.type == "cuda"):
            features = self._networks[key](batch)
        features = features.float()
        return (functional.normalize(features, dim=1) if self._normalize else features).half()

    def _deliver(self, batch: _Batch) -> None:
        try:
            if batch.ready is not None:
                batch.ready.synchronize()
        except Exception as error:  # a GPU reports what failed when its results are waited for
            self._fail(batch.items, error)
            return
        rows = batch.features.numpy()
        with self._change:
            for place, item in batch.items.items():
                if not item.session.closed:
                    item.session.features.setdefault(batch.key, Rows()).put(item.number, rows[place])
                    item.session.left -= 1
            self._change.notify_all()

    def _halve(self, key: str, items: dict[int, _Item]) -> None:
        torch.cuda.empty_cache()
        with self._change:
            self.batch_size //= 2
            before, self._buckets = self._buckets, {}
            for item in items.values():
                if not item.session.closed:
                    self._bucket(key, item).add(item)
                    self._pending_bytes += item.frames.nbytes
            for (name, _), waiting in before.items():
                for item in waiting:
                    self._bucket(name, item).add(item)

    def _fail(self, items: dict[int, _Item], error: Exception) -> None:
        if _is_lost(self._device):
            # each further batch would fail too, and this worker be the first to ask for more videos
            print(
                f"this worker ends, its {self._device} does not answer any more: {error}", file=sys.stderr, flush=True
            )
            os._exit(1)
        with self._change:
            for item in items.values():
                item.session.failure = error
            self._change.notify_all()

    def _drop(self, session: Session) -> None:
        for bucket, waiting in list(self._buckets.items()):
            self._pending_bytes -= sum(item.frames.nbytes for item in waiting if item.session is session)
            waiting.drop(lambda item: item.session is session)
            if not waiting:
                del self._buckets[bucket]
