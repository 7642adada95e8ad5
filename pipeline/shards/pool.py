"""Processes that make batches ahead, in memory that they share with the process that uses them.

What a worker writes is what the consumer reads: no copy, and no fresh memory for each batch, which would cost as much
as filling it. The memory is anonymous, so that a small ``/dev/shm`` does not matter.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import signal
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.errors import InputError
from pipeline.shards.layout import Batch

_AHEAD = 2
"""Batches that each worker makes ahead."""
LENT = 2
"""Batches that the consumer can hold at once without a copy: the one in use and the one just taken."""
_ORPHAN_SECONDS = 5.0


class Work(NamedTuple):
    """What the workers do."""

    view: Callable[[memoryview, int], Batch]
    """A batch of so many clips whose tensors lie in some memory."""
    fill: Callable[[Batch, Any], list[str]]
    """Fills a batch for a request, and returns what it left out."""
    clips: Callable[[Any], int]
    """How many clips a request asks for."""
    slot_bytes: int
    """Memory of the largest batch."""


class Slots:
    """Memory for several batches. A slot that is lent comes back when the last tensor in it is gone."""

    def __init__(self, slots: int, size: int):
        """Takes memory for ``slots`` batches of ``size`` bytes; it is there once it is written to."""
        self._size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = mmap.mmap(-1, slots * self._size)
        self._pinned = False
        self._closed = False
        self.free = deque(range(slots))
        self.lent: set[int] = set()

    def pin(self) -> None:
        """Lets a GPU copy from the memory by itself, where there is one and the system allows it."""
        if torch.cuda.is_available():
            self._pinned = int(torch.cuda.cudart().cudaHostRegister(_address(self._memory), len(self._memory), 0)) == 0
            if not self._pinned:
                _forget_cuda_error()

    def memory(self, slot: int) -> memoryview:
        """A slot's bytes."""
        return memoryview(self._memory)[slot * self._size : (slot + 1) * self._size]

    def lend(self, slot: int) -> memoryview:
        """A slot's bytes, for as long as anyone refers to them."""
        whole = np.frombuffer(self.memory(slot), np.uint8)
        weakref.finalize(whole, self._come_back, slot)
        self.lent.add(slot)
        return whole.data

    def close(self) -> None:
        """No more is asked for; what is lent stays good."""
        self._closed = True
        self._unpin()

    def _come_back(self, slot: int) -> None:
        self.lent.discard(slot)
        self.free.append(slot)
        self._unpin()

    def _unpin(self) -> None:
        if self._pinned and self._closed and not self.lent:
            self._pinned = False
            torch.cuda.cudart().cudaHostUnregister(_address(self._memory))


GRACE_SECONDS = 120
"""What a process goes on for after a SIGTERM: its parent got it too, and still ends its step and saves."""


class WorkerPool:
    """Answers requests in their order, by ``workers`` processes in turn."""

    def __init__(self, work: Work, requests: Iterator[Any], workers: int):
        """Starts the processes.

        Args:
            work: what they do; they get it by forking.
            requests: what to make, without end.
            workers: how many processes.
        """
        self._work = work
        self._requests = requests
        self._slots = Slots(_AHEAD * workers + LENT, work.slot_bytes)
        self._running: deque[tuple[int, int, Any]] = deque()
        self._turn = 0
        self._workers: list[tuple[BaseProcess, Connection]] = []
        context = multiprocessing.get_context("fork")
        for _ in range(workers):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(work, self._slots, there, os.getpid()), daemon=True)
            process.start()
            there.close()
            self._workers.append((process, here))
        self._slots.pin()  # after the forks, which should inherit nothing of CUDA's
        self._stop = weakref.finalize(self, _stop, self._workers, self._slots)
        self._ask()

    def __next__(self) -> tuple[Batch, list[str]]:
        """The next batch, and what it left out.

        Raises:
            ShardError: a shard is damaged.
            InputError: a clip is not what the batch can hold, or a process died.
        """
        worker, slot, request = self._running.popleft()
        process, connection = self._workers[worker]
        try:
            answer = connection.recv()
        except (EOFError, ConnectionError):
            raise InputError(
                f"a loader process died ({_cause(process)}); if memory ran out, lower train.workers or "
                "train.batch_videos, then run the same command again"
            ) from None
        if isinstance(answer, BaseException):
            raise answer
        clips = self._work.clips(request)
        if len(self._slots.lent) < LENT:
            batch = self._work.view(self._slots.lend(slot), clips)
        else:
            batch = {name: values.clone() for name, values in self._work.view(self._slots.memory(slot), clips).items()}
            self._slots.free.append(slot)
        self._ask()
        return batch, answer

    def close(self) -> None:
        """Stops the processes; batches that were handed out stay good."""
        self._stop()

    def _ask(self) -> None:
        while len(self._running) < _AHEAD * len(self._workers):
            slot, request = self._slots.free.popleft(), next(self._requests)
            with contextlib.suppress(ConnectionError):  # it died, which is said when its answer is due
                self._workers[self._turn][1].send((slot, request))
            self._running.append((self._turn, slot, request))
            self._turn = (self._turn + 1) % len(self._workers)


def _serve(work: Work, slots: Slots, connection: Connection, parent: int) -> None:
    """What a worker does until it is told to stop, or its parent is gone."""
    # Ctrl-C and a scheduler's SIGTERM reach the whole group: the parent handles them, and still needs its next batch
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE_SECONDS))
    torch.set_num_threads(1)
    while True:
        while not connection.poll(_ORPHAN_SECONDS):
            if os.getppid() != parent:
                return
        try:
            slot, request = connection.recv()
        except EOFError:
            return
        batch = work.view(slots.memory(slot), work.clips(request))
        try:
            connection.send(work.fill(batch, request))
        except InputError as error:
            connection.send(error)


def _stop(workers: list[tuple[BaseProcess, Connection]], slots: Slots) -> None:
    for process, connection in workers:
        process.kill()  # it holds nothing that a kill could harm
        process.join()
        connection.close()
    slots.close()


def _forget_cuda_error() -> None:
    """Takes note of a refusal that CUDA would otherwise raise at the next kernel, which has nothing to do with it."""
    with contextlib.suppress(RuntimeError):
        torch.zeros(1, device="cuda")


def _cause(process: BaseProcess) -> str:
    process.join(1.0)
    code = process.exitcode or 0
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _address(memory: mmap.mmap) -> int:
    return int(np.frombuffer(memory, np.uint8).ctypes.data)
