"""How fast a source is asked: slower when it complains, faster again when it does not, not at all when it refuses.

One :class:`Pacer` serves all threads of a node, because a source sees the node's one address.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.config import DownloadSettings

COMPLAINTS = frozenset({"rate_limited", "bot_check"})
"""Reasons that ask for a slower pace."""
REFUSALS = frozenset({"auth_failed", "forbidden", "network", "timeout", "no_formats", "unknown"})
"""Reasons that, if nothing else comes, mean that the source is of no use now."""
SLOWEST = 1 / 600
"""Requests per second, at least."""
GAIN = 1.03
"""What a success multiplies the pace with."""
LONGEST_WAIT = 120.0
"""Seconds between two tries, at most."""
LONGEST_PAUSE = 3600.0
LONGEST_WISH = 86400.0
"""Seconds that a source may ask to be left alone for; one that asks for more is given up."""
SAMPLE = 32
"""Requests from which the present pace is measured."""


def wait_before(attempt: int, backoff: float, retry_after: float | None) -> float:
    """Seconds to wait after a failed try: doubled each time, and spread so that many clients do not come back at once.

    Args:
        attempt: the number of the try that failed, from 1.
        backoff: seconds after the first.
        retry_after: seconds that the server wants to be left alone; None: it did not say.
    """
    wait = min(backoff * 2 ** (attempt - 1), LONGEST_WAIT) * random.uniform(0.5, 1.5)
    return max(wait, min(retry_after or 0.0, LONGEST_WAIT))


class SourceClosed(Exception):  # noqa: N818 - it says what state the source is in
    """The source refuses everything and is not asked any more by this node."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source} is not asked any more: it only answers {reason}")
        self.source, self.reason = source, reason


@dataclass(frozen=True)
class PaceState:
    """How a node asks a source now."""

    rate: float | None
    """Requests per second after complaints; None: no slower than the settings allow."""
    pause: float
    """Seconds left of a pause."""
    closed: str | None
    """The reason for which it is not asked any more."""
    lately: float = 0.0
    """Requests per second that there were of late."""

    @property
    def slowed(self) -> bool:
        """Whether there is anything to tell."""
        return self.rate is not None or self.pause > 0 or self.closed is not None

    def describe(self) -> str:
        """For the progress bar."""
        if self.closed is not None:
            return f"given up ({self.closed})"
        return f"paused for {self.pause:.0f} s" if self.pause > 0 else f"{self.rate or 0:.2g} requests/s"


@dataclass(frozen=True)
class NodeState:
    """What a node says of itself."""

    host: str
    bytes: int
    paces: dict[str, PaceState]

    @property
    def requests_per_second(self) -> float:
        """Of late, from all sources."""
        return sum(pace.lately for pace in self.paces.values())


@dataclass
class _Pace:
    """The state of one source."""

    rate: float | None
    """Requests per second; None: as fast as they come."""
    next_at: float = 0.0
    paused_at: float = -1.0
    paused_until: float = 0.0
    pauses: int = 0
    """Pauses without a success between them."""
    refusals: int = 0
    """Videos refused without a success between them."""
    closed: str | None = None
    """The reason for which it was given up."""
    starts: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLE))


class Pacer:
    """The pace of a node for each source.

    Args:
        settings: the caps (``requests_per_second``, ``megabytes_per_second``), the first ``pause`` and the number of
            pauses and refusals after which a source is given up.
        clock, sleep, jitter: time and chance; others in tests.
    """

    def __init__(
        self,
        settings: DownloadSettings,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = lambda: random.uniform(0.75, 1.25),
    ) -> None:
        self._settings, self._clock, self._sleep, self._jitter = settings, clock, sleep, jitter
        self._lock = threading.Lock()
        self._paces: dict[str, _Pace] = {}
        self._bytes, self._bytes_free_at, self._request_free_at = 0, 0.0, 0.0

    def enter(self, source: str) -> float:
        """Waits until the source may be asked; returns the time, for :meth:`report`.

        Raises:
            SourceClosed: it is not asked any more.
        """
        turn: float | None = None
        while True:
            with self._lock:
                pace, at = self._pace(source), self._clock()
                if pace.closed is not None:
                    raise SourceClosed(source, pace.closed)
                if pace.paused_until > at:
                    turn, wait = None, pace.paused_until - at  # those who waited queue again at the new pace
                else:
                    if turn is None:
                        turn = max(at, pace.next_at)
                        pace.next_at = turn + (1 / pace.rate if pace.rate is not None else 0.0)
                    wait = turn - at
                    if wait <= 0:
                        pace.starts.append(at)
                        return at
            self._sleep(min(wait, 1.0))  # in pieces, because a pause may come meanwhile

    def report(self, source: str, reason: str | None, since: float, retry_after: float | None = None) -> None:
        """Says what became of a request.

        Args:
            source: the one that was asked.
            reason: why it failed; None: it did not.
            since: when it was let in. A complaint about a request from before a pause is not news.
            retry_after: seconds that the source wants to be left alone.
        """
        with self._lock:
            pace = self._pace(source)
            if reason in COMPLAINTS:
                if since >= pace.paused_at:
                    self._slow_down(pace, str(reason), retry_after)
            elif reason in REFUSALS:
                pace.refusals += 1
                if pace.refusals >= self._settings.give_up_after:
                    pace.closed = str(reason)
            else:
                # also a video that is gone is an answer: the source works. That it bears this pace, only a video shows:
                # what is gone is said to those as well who get nothing else
                pace.refusals = 0
                if reason is None:
                    pace.pauses = 0
                if pace.rate is not None:
                    limit = self._settings.requests_per_second
                    pace.rate = min(pace.rate * GAIN, limit if limit is not None else float("inf"))

    def request(self) -> None:
        """Waits until the node may send one more request; of a video on a page it takes several."""
        limit = self._settings.requests_per_second
        if limit is None:
            return
        with self._lock:
            turn = max(self._clock(), self._request_free_at)
            self._request_free_at = turn + 1 / limit
            wait = turn - self._clock()
        if wait > 0:
            self._sleep(wait)

    def take(self, count: int) -> None:
        """Accounts for bytes that came, and waits as long as ``megabytes_per_second`` asks for."""
        limit = self._settings.megabytes_per_second
        with self._lock:
            self._bytes += count
            if limit is None:
                return
            self._bytes_free_at = max(self._bytes_free_at, self._clock()) + count / (limit * 1e6)
            wait = self._bytes_free_at - self._clock()
        if wait > 0.01:
            self._sleep(wait)

    def state(self) -> NodeState:
        """What came over the network so far, and how each source is asked."""
        with self._lock:
            at = self._clock()
            limit = self._settings.requests_per_second
            paces = {
                source: PaceState(
                    pace.rate if pace.rate != limit else None,
                    max(pace.paused_until - at, 0.0),
                    pace.closed,
                    _measured(pace.starts, at) if pace.starts else 0.0,
                )
                for source, pace in self._paces.items()
            }
            return NodeState(socket.gethostname(), self._bytes, paces)

    def _pace(self, source: str) -> _Pace:
        return self._paces.setdefault(source, _Pace(self._settings.requests_per_second))

    def _slow_down(self, pace: _Pace, reason: str, retry_after: float | None) -> None:
        at = self._clock()
        pace.rate = max((pace.rate or _measured(pace.starts, at)) / 2, SLOWEST)
        pause = min(self._settings.pause * 2**pace.pauses, LONGEST_PAUSE) * self._jitter()
        pace.pauses += 1
        pace.paused_at, pace.paused_until = at, at + max(pause, retry_after or 0.0)
        pace.next_at = 0.0
        if pace.pauses > self._settings.give_up_after_pauses or (retry_after or 0.0) > LONGEST_WISH:
            pace.closed = reason


def _measured(starts: deque[float], at: float) -> float:
    """Requests per second lately."""
    return len(starts) / max(at - starts[0], 1.0) if starts else 1.0
