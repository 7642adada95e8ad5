"""What is coming in: how many bytes, how fast, and whether to go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from yt_dlp.utils import DownloadCancelled

from pipeline.acquire.reasons import Failure
from pipeline.config import DownloadSettings


class Stopped(DownloadCancelled):
    """A transfer was given up; passes through yt-dlp from its progress hook."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Transfer:
    """Follows yt-dlp's progress: counts bytes, and stops what is too large or far too slow.

    Args:
        settings: the limits.
        take: called with the bytes that came; may wait, to keep to a speed.
        ask: called before each request; may wait as well.
    """

    def __init__(
        self,
        settings: DownloadSettings,
        take: Callable[[int], None],
        ask: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._take, self._ask, self._clock = settings, take, ask, clock
        self.fetched = 0
        """Bytes that came over the network since it was last set."""
        self.begin(())

    def begin(self, partial_files: Sequence[Path]) -> None:
        """Starts a try that may continue these files."""
        self._before = {path.name: path.stat().st_size for path in partial_files}
        self._have: dict[str, int] = {}
        self._window = (self._clock(), self.fetched)
        self.announced: int | None = None
        """Size of the file as the server gives it; of several files, of the last."""
        self.continued = False
        """Whether the file was put together from an earlier part and this one."""

    def on_progress(self, status: dict[str, Any]) -> None:
        """yt-dlp's progress hook."""
        name, done = Path(str(status["filename"])).name, int(status.get("downloaded_bytes") or 0)
        if name not in self._have:
            earlier = self._before.get(f"{name}.part", 0)
            # A server without ranges begins again, with fewer bytes than were there.
            self._have[name] = earlier if done >= earlier else 0
            # or all of it, one of two tracks, was there
            self.continued |= self._have[name] > 0 or name in self._before
            # what came before, such as a page with the video, or a wait that the site wants, says nothing of the speed
            self._window = (self._clock(), self.fetched)
        came = max(done - self._have[name], 0)
        self.fetched += came
        self._have[name] = done
        self.announced = status.get("total_bytes")
        self._stop_if_large(max(self.announced or 0, sum(self._have.values())))
        self._stop_if_slow()
        self._wait(lambda: self._take(came))

    def before_request(self) -> None:
        """To be called before each request."""
        self._wait(self._ask)

    def _wait(self, pause: Callable[[], None]) -> None:
        """Lets pass a time that is not the server's fault."""
        begin = self._clock()
        pause()
        since, bytes_then = self._window
        self._window = (since + self._clock() - begin, bytes_then)

    def _stop_if_large(self, size: int) -> None:
        limit = self._settings.max_bytes
        if size > limit:
            raise Stopped(Failure("too_large", f"{size} bytes, more than download.max_bytes = {limit}"))

    def _stop_if_slow(self) -> None:
        since, bytes_then = self._window
        seconds = self._clock() - since
        if seconds < self._settings.timeout:
            return
        speed = (self.fetched - bytes_then) / seconds
        if speed < self._settings.min_speed:
            limit = self._settings.min_speed
            raise Stopped(Failure("timeout", f"{speed:.0f} bytes/s, less than download.min_speed = {limit:.0f}"))
        self._window = (self._clock(), self.fetched)
