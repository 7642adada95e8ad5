"""SIGTERM and Ctrl-C end a run between two steps, with a checkpoint."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any, Self

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SAME = 2.0
"""Seconds in which a Ctrl-C that comes again is the same one: torchrun passes on what its processes got as well."""


class StopRequest:
    """While entered, signals are only noted; but a second Ctrl-C acts as ever.

    A second SIGTERM is no second wish: batch systems send it to all processes, and torchrun passes it on to its own.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        """The signal that asked to stop."""
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._since = number, now
        elif number == signal.SIGINT and now - self._since > _SAME:
            signal.signal(number, self._before[number])
            signal.raise_signal(number)
