"""Getting one video: yt-dlp, kept and reused, and what must hold before a file counts."""

from __future__ import annotations

import fcntl
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

import yt_dlp
from yt_dlp.networking.exceptions import HTTPError
from yt_dlp.utils import YoutubeDLError

from pipeline.acquire.check import check_video, container_of
from pipeline.acquire.layout import MEDIA_ENDINGS, find_video, incoming_path, lock_path, unfinished_files, video_path
from pipeline.acquire.ledger import LedgerRow
from pipeline.acquire.reasons import RETRIED_AT_ONCE, Failure, causes, classify, is_temporary
from pipeline.acquire.transfer import Stopped, Transfer
from pipeline.config import DownloadSettings
from pipeline.errors import InputError
from pipeline.media.ffmpeg import ffmpeg_binary
from pipeline.types import Video

STAGE = "download"
LONGEST_WAIT = 120.0
"""Seconds between two tries, at most."""


class Refused(Exception):  # noqa: N818 - what it says is in the failure
    """The video cannot be had, for the reason in :attr:`failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason, failure.message)
        self.failure = failure


def source_url(video: Video, template: str) -> str:
    """Where a video is: its own URL, else the template with its id.

    Raises:
        InputError: the template has a placeholder that is not known.
    """
    if video.url is not None:
        return video.url
    try:
        return template.format(video_id=quote(video.video_id))
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(f"the template {template} cannot be filled ({error}); it may hold {{video_id}}") from None


class Downloader:
    """Fetches videos into a folder, one at a time; many threads or processes may each have their own.

    Args:
        settings: the recipe's section.
        folder: the folder of all videos.
        sleep: waits between tries; another one in tests.
    """

    def __init__(
        self, settings: DownloadSettings, folder: Path | str, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._settings, self._folder, self._sleep = settings, Path(folder), sleep
        self._transfer = Transfer(settings)
        self._client: Any = yt_dlp.YoutubeDL(self._options())

    def close(self) -> None:
        """Closes the connections that are kept."""
        self._client.close()

    def fetch(self, video: Video) -> LedgerRow:
        """Gets one video, or the reason why not. Partial files are continued; a complete one is not asked for again.

        Returns:
            a row for the ledger, ``done`` or ``failed``.

        Raises:
            InputError: the settings cannot work for any video.
        """
        started = time.monotonic()
        self._transfer.fetched = 0
        with _locked(lock_path(self._folder, video.video_id)) as mine:
            if not mine:
                failure, attempts = Failure("unknown", "another process is fetching it"), 0
            elif find_video(self._folder, video.video_id) is not None:
                failure, attempts = None, 0
            else:
                failure, attempts = self._try_often(video)
        return LedgerRow(
            video.video_id,
            STAGE,
            outcome="failed" if failure else "done",
            reason=failure.reason if failure else None,
            message=failure.message if failure else "",
            attempts=attempts,
            bytes=self._transfer.fetched,
            seconds=time.monotonic() - started,
        )

    def _try_often(self, video: Video) -> tuple[Failure | None, int]:
        attempt, described = 0, _Described()
        while True:
            attempt += 1
            try:
                self._try_once(video, described)
            except Refused as refused:
                failure = refused.failure
            else:
                return None, attempt
            if failure.reason == "corrupt" and self._transfer.continued and not described.from_scratch:
                # Parts of two versions may have been joined: what the source has now is fetched once, whole.
                described.from_scratch = True
                self._discard(video)
                continue
            if attempt >= self._settings.attempts or failure.reason not in RETRIED_AT_ONCE:
                if not is_temporary(failure.reason):
                    self._discard(video)
                return failure, attempt
            self._sleep(self._wait(attempt))

    def _wait(self, attempt: int) -> float:
        """Seconds before the next try: doubled each time, and spread so that many clients do not come back at once."""
        return min(self._settings.backoff * 2 ** (attempt - 1), LONGEST_WAIT) * random.uniform(0.5, 1.5)

    def _try_once(self, video: Video, described: _Described) -> None:
        """Raises :class:`Refused` when the video is not had."""
        self._transfer.begin(unfinished_files(self._folder, video.video_id))
        try:
            if described.information is None:
                described.information = self._describe(video)
            information = dict(described.information)
            incoming = self._bring(video, information)
        except Stopped as stopped:
            raise Refused(stopped.failure) from None
        except (YoutubeDLError, OSError) as error:
            failure = classify(error)
            if failure.reason not in ("network", "timeout"):
                described.information = None  # what the site said may have expired with it
            raise Refused(failure) from None
        self._accept(video, incoming, merged="requested_formats" in information)

    def _bring(self, video: Video, information: dict[str, Any]) -> Path:
        """Fetches what yt-dlp has described and returns the file, unchecked."""
        self._client.params["outtmpl"]["default"] = _output_template(self._folder, video.video_id)
        try:
            self._client.process_info(information)
        except YoutubeDLError as error:
            size = _size_behind_refused_range(error)
            if size is None:
                raise
            return self._settle_part(video, size, merged="requested_formats" in information)
        incoming = Path(information.get("filepath") or "")
        if not incoming.is_file():
            raise Refused(Failure("unknown", "yt-dlp reports no error, but there is no file"))
        return incoming

    def _settle_part(self, video: Video, size: int, merged: bool) -> Path:
        """The server has nothing behind the partial file: it is whole, or of another version of the video."""
        parts = [path for path in unfinished_files(self._folder, video.video_id) if path.suffix == ".part"]
        if merged or [part.stat().st_size for part in parts] != [size]:
            self._transfer.continued = True
            raise Refused(Failure("corrupt", f"the partial file is not of the server's file of {size} bytes"))
        return parts[0].rename(parts[0].with_suffix(""))

    def _accept(self, video: Video, incoming: Path, merged: bool) -> None:
        failure = check_video(incoming, None if merged else self._transfer.announced)
        if failure is not None:
            incoming.unlink()
            raise Refused(failure)
        with incoming.open("rb") as complete:
            os.fsync(complete.fileno())
        ending = incoming.suffix.lstrip(".").lower()
        ending = ending if ending in MEDIA_ENDINGS else container_of(incoming)
        incoming.replace(video_path(self._folder, video.video_id, ending))
        self._discard(video)

    def _discard(self, video: Video) -> None:
        for path in unfinished_files(self._folder, video.video_id):
            path.unlink(missing_ok=True)

    def _describe(self, video: Video) -> dict[str, Any]:
        """What yt-dlp knows of the video, with the format chosen."""
        url = source_url(video, self._settings.template)
        ending = PurePosixPath(urlsplit(url).path).suffix.lstrip(".").lower()
        if ending in MEDIA_ENDINGS:
            # The URL of a file needs no extractor, which would ask for it once more.
            direct = {"id": video.video_id, "title": video.video_id, "url": url, "ext": ending, "webpage_url": url}
            information = self._client.process_ie_result(
                {**direct, "extractor": "file", "extractor_key": "File"}, download=False
            )
        else:
            information = self._client.extract_info(url, download=False)
        return self._usable(information)

    def _usable(self, information: dict[str, Any] | None) -> dict[str, Any]:
        if information is None:
            raise Refused(Failure("unknown", "yt-dlp says nothing about it"))
        if information.get("_type") in ("playlist", "multi_video"):
            entries = [entry for entry in information.get("entries") or [] if entry]
            if len(entries) != 1:
                raise Refused(Failure("unsupported", f"a page with {len(entries)} videos, not one"))
            information = entries[0]
        status = information.get("live_status")
        if information.get("is_live") or status in ("is_live", "is_upcoming", "post_live"):
            raise Refused(Failure("live", f"a live stream ({status or 'is_live'})"))
        duration = information.get("duration")
        if duration and self._settings.max_seconds and duration > self._settings.max_seconds:
            limit = self._settings.max_seconds
            raise Refused(Failure("too_long", f"{duration:.0f} s, more than download.max_seconds = {limit:.0f}"))
        return information

    def _options(self) -> dict[str, Any]:
        height = self._settings.min_height
        return {
            "quiet": True,
            "noprogress": True,
            "logger": _Silence(),
            "color": "never",
            "noplaylist": True,
            "cachedir": False,
            # Tries are counted, spaced and explained here, so yt-dlp itself makes one.
            "retries": 0,
            "fragment_retries": 3,
            "extractor_retries": 0,
            "file_access_retries": 0,
            "continuedl": True,
            "updatetime": False,
            "overwrites": True,
            "socket_timeout": self._settings.timeout,
            "ffmpeg_location": ffmpeg_binary(),
            "fixup": "never",
            # the smallest that serves; formats of a file or an unknown site say nothing of their height
            "format": f"bv*[height>=?{height}]+ba[abr>=?40]/b[height>=?{height}]/bv*[height>=?{height}]/bv*+ba/b/bv*",
            "format_sort": ["+res", "+size", "+br", "+fps"],
            "outtmpl": {"default": "unset"},
            "progress_hooks": [self._transfer.on_progress],
        }


class _Described:
    """What was learnt about a video in earlier tries."""

    def __init__(self) -> None:
        self.information: dict[str, Any] | None = None
        self.from_scratch = False


class _Silence:
    """Swallows what yt-dlp prints; errors come as exceptions."""

    def debug(self, message: str) -> None:
        """Nothing."""

    info = warning = error = debug


def _size_behind_refused_range(error: BaseException) -> int | None:
    """The file's size (-1: not said) if the server refused to continue it (416), else None."""
    for cause in causes(error):
        if isinstance(cause, HTTPError) and cause.status == 416:
            size = (cause.response.headers.get("Content-Range") or "").rpartition("/")[2]
            return int(size) if size.isdigit() else -1
    return None


def _output_template(folder: Path, video_id: str) -> str:
    """yt-dlp's name for the file, with the ending left to it."""
    stem = str(incoming_path(folder, video_id, "ENDING")).removesuffix("ENDING")
    return stem.replace("%", "%%") + "%(ext)s"


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether this is the only process that fetches the video, for instance not beside a worker of a killed run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            with suppress(FileNotFoundError):
                path.unlink()
