"""yt-dlp, kept and reused: what a page says of a video, and the transfer of the chosen format."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import yt_dlp
from yt_dlp.networking import Request
from yt_dlp.networking.exceptions import HTTPError
from yt_dlp.utils import YoutubeDLError

from pipeline.acquire.layout import MEDIA_ENDINGS, incoming_path, unfinished_files
from pipeline.acquire.reasons import Failure, causes, classify
from pipeline.acquire.sources import Credentials, without_secrets
from pipeline.acquire.transfer import Stopped, Transfer
from pipeline.config import DownloadSettings
from pipeline.errors import InputError
from pipeline.media.ffmpeg import ffmpeg_binary
from pipeline.types import Video

BLOCK = 256 * 1024
"""Bytes that are read at once, at most."""
Information = dict[str, Any]
"""What yt-dlp knows of a video."""


class Refused(Exception):  # noqa: N818 - what it says is in the failure
    """The video cannot be had, for the reason in :attr:`failure`."""

    def __init__(self, failure: Failure, retry_after: float | None = None) -> None:
        super().__init__(failure.reason, failure.message)
        self.failure = failure
        self.retry_after = retry_after
        """Seconds that the server wants to be left alone."""


class Site:
    """One ``YoutubeDL`` for many videos; a new one for each would cost more than the rest of a small download.

    Args:
        settings: the recipe's section.
        folder: the folder of all videos.
        credentials: of the one host that wants them.
        transfer: follows what comes in.
    """

    def __init__(
        self, settings: DownloadSettings, folder: Path, credentials: Credentials | None, transfer: Transfer
    ) -> None:
        self._settings, self._folder, self._credentials, self._transfer = settings, folder, credentials, transfer
        self._client: Any = _Client(_options(settings, transfer))
        self._client.credentials = credentials

    def close(self) -> None:
        """Closes the connections that are kept."""
        self._client.close()

    def describe(self, video: Video, url: str) -> Information:
        """What there is at a URL, with the format chosen; raises :class:`Refused`."""
        try:
            return self._usable(self._ask(video, url))
        except (YoutubeDLError, OSError) as error:
            raise self._refused(error) from None

    def bring(self, video: Video, information: Information) -> Path:
        """Fetches what was described and returns the file, unchecked; raises :class:`Refused`."""
        template = str(incoming_path(self._folder, video.video_id, "ENDING")).replace("%", "%%")
        self._client.params["outtmpl"]["default"] = template.removesuffix("ENDING") + "%(ext)s"
        # subtitles are the caller's business: when they fail, yt-dlp would give up the video
        information = {**information, "requested_subtitles": None}
        try:
            self._client.process_info(information)
        except Stopped as stopped:
            raise Refused(stopped.failure) from None
        except (YoutubeDLError, OSError) as error:
            parts = [path for path in unfinished_files(self._folder, video.video_id) if path.suffix == ".part"]
            size = _size_behind_refused_range(error)
            if size is None or not parts:
                raise self._refused(error) from None
            return self._settle_part(parts, size, merged=is_merged(information))
        incoming = Path(information.get("filepath") or "")
        if not incoming.is_file():
            raise Refused(Failure("unknown", "yt-dlp reports no error, but there is no file"))
        return incoming

    def read(self, url: str, limit: int) -> bytes:
        """A small file, such as subtitles; raises :class:`Refused`."""
        content = bytearray()
        try:
            with self._client.urlopen(url) as response:
                while len(content) <= limit and (piece := response.read(BLOCK)):
                    content += piece
        except (YoutubeDLError, OSError) as error:
            raise self._refused(error) from None
        if len(content) > limit:
            raise Refused(Failure("too_large", f"more than {limit} bytes"))
        return bytes(content)

    def _ask(self, video: Video, url: str) -> Information | None:
        ending = PurePosixPath(urlsplit(url).path).suffix.lstrip(".").lower()
        if ending not in MEDIA_ENDINGS:
            return self._client.extract_info(url, download=False)
        # The URL of a file needs no extractor, which would ask for it once more.
        direct: Information = {"id": video.video_id, "title": video.video_id, "url": url, "ext": ending}
        direct |= {"webpage_url": url, "extractor": "file", "extractor_key": "File"}
        return self._client.process_ie_result(direct, download=False)

    def _usable(self, information: Information | None) -> Information:
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
        duration, limit = information.get("duration"), self._settings.max_seconds
        if duration and limit and duration > limit:
            raise Refused(Failure("too_long", f"{duration:.0f} s, more than download.max_seconds = {limit:.0f}"))
        return information

    def _refused(self, error: Exception) -> Refused:
        failure = classify(error)
        waits = [cause.response.headers.get("Retry-After") for cause in causes(error) if isinstance(cause, HTTPError)]
        seconds = next((float(wait) for wait in waits if wait and wait.isdigit()), None)
        return Refused(Failure(failure.reason, without_secrets(failure.message, self._credentials)), seconds)

    def _settle_part(self, parts: Sequence[Path], size: int, merged: bool) -> Path:
        """The server has nothing behind the partial file: it is whole, or of another version of the video."""
        if merged or [part.stat().st_size for part in parts] != [size]:
            self._transfer.continued = True
            raise Refused(Failure("corrupt", f"the partial file is not of the server's file of {size} bytes"))
        return parts[0].rename(parts[0].with_suffix(""))


def is_merged(information: Mapping[str, Any]) -> bool:
    """Whether pictures and sound come as two files that are put together."""
    return "requested_formats" in information


class _Client(yt_dlp.YoutubeDL):
    """Adds user id and password to the requests of their host alone, and hands bytes on as they come."""

    credentials: Credentials | None = None

    def urlopen(self, request: Request | str) -> Any:
        """As yt-dlp's."""
        request = Request(request) if isinstance(request, str) else request
        if self.credentials is not None and self.credentials.belong_to(request.url):
            request.headers["Authorization"] = self.credentials.header
        response = super().urlopen(request)
        if hasattr(response.fp, "read1"):
            response.fp = _Prompt(response.fp)
        return response


class _Prompt:
    """A response whose reads return what is there, up to what was asked for.

    Otherwise a read waits until a whole block has come: what came before a cut or a kill would be lost, and a drip
    would not be noticed for minutes.
    """

    def __init__(self, response: Any) -> None:
        self._response = response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._response, name)

    def read(self, amount: int | None = None, **options: Any) -> bytes:
        """At most so many bytes, at least one but at the end; all of them without an amount."""
        return bytes(self._response.read1(amount, **options) if amount else self._response.read(amount, **options))


class _Silence:
    """Swallows what yt-dlp prints; errors come as exceptions."""

    def debug(self, message: str) -> None:
        """Nothing."""

    info = warning = error = debug


def _options(settings: DownloadSettings, transfer: Transfer) -> dict[str, Any]:
    height = settings.min_height
    sound = "ba[abr>=?40]"
    return {
        "quiet": True,
        "noprogress": True,
        # yt-dlp formats a line of progress for every block, which nobody sees; the hook comes all the same
        "progress_delta": 3600.0,
        "logger": _Silence(),
        "color": "never",
        "noplaylist": True,
        "cachedir": False,
        # Tries are counted, spaced and explained by the caller, so yt-dlp itself makes one.
        "retries": 0,
        "fragment_retries": 3,
        "extractor_retries": 0,
        "file_access_retries": 0,
        "continuedl": True,
        "buffersize": BLOCK,
        "noresizebuffer": True,
        "updatetime": False,
        "overwrites": True,
        "socket_timeout": settings.timeout,
        "ffmpeg_location": ffmpeg_binary(),
        "fixup": "never",
        # the smallest that serves; formats of a file or of an unknown site say nothing of their height
        "format": f"bv*[height>=?{height}]+{sound}/b[height>=?{height}]/bv*[height>=?{height}]/bv*+{sound}/b/bv*",
        "format_sort": ["+res", "+size", "+br", "+fps"],
        "outtmpl": {"default": "unset"},
        "progress_hooks": [transfer.on_progress],
        "writesubtitles": settings.subtitles is not None,
        "writeautomaticsub": settings.subtitles is not None,
        "extractor_args": settings.extractor_args,
        **({"proxy": settings.proxy} if settings.proxy else {}),
        **_cookies(settings),
    }


def _cookies(settings: DownloadSettings) -> dict[str, Any]:
    if settings.cookies_from_browser:
        browser, _, profile = settings.cookies_from_browser.partition(":")
        return {"cookiesfrombrowser": (browser, profile or None, None, None)}
    if settings.cookies:
        try:
            # yt-dlp writes changed cookies back; many at once would damage the user's file, so each gets a copy
            return {"cookiefile": io.StringIO(Path(settings.cookies).read_text(encoding="utf-8"))}
        except OSError as error:
            raise InputError(f"{settings.cookies}: the cookies cannot be read ({error.strerror})") from None
    return {}


def _size_behind_refused_range(error: BaseException) -> int | None:
    """The file's size (-1: not said) if the server refused to continue it (416), else None."""
    for cause in causes(error):
        if isinstance(cause, HTTPError) and cause.status == 416:
            size = (cause.response.headers.get("Content-Range") or "").rpartition("/")[2]
            return int(size) if size.isdigit() else -1
    return None
