"""yt-dlp, kept and reused: what a page says of a video, and the transfer of the chosen format."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import yt_dlp
from yt_dlp.networking import Request
from yt_dlp.networking.exceptions import HTTPError
from yt_dlp.utils import YoutubeDLError

from pipeline.acquire.layout import MEDIA_ENDINGS, incoming_path, unfinished_files
from pipeline.acquire.options import BLOCK, Log, client_options
from pipeline.acquire.reasons import Failure, causes, classify, explained
from pipeline.acquire.sources import Credentials, without_secrets
from pipeline.acquire.transfer import Stopped, Transfer
from pipeline.config import DownloadSettings
from pipeline.datasets.identity import youtube_id
from pipeline.errors import InputError
from pipeline.types import Video

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

    Raises:
        InputError: the cookies cannot be read.
    """

    def __init__(
        self, settings: DownloadSettings, folder: Path, credentials: Credentials | None, transfer: Transfer
    ) -> None:
        self._settings, self._folder, self._credentials, self._transfer = settings, folder, credentials, transfer
        self._log = Log()
        self._client: Any = _Client(client_options(settings, transfer, self._log))
        self._client.credentials, self._client.before_request = credentials, transfer.before_request
        try:
            self._client.cookiejar  # noqa: B018 - reads them, which would else fail for each video
        except YoutubeDLError as error:
            where = settings.cookies or settings.cookies_from_browser
            raise InputError(f"{where}: the cookies cannot be read ({classify(error).message})") from None

    def close(self) -> None:
        """Closes the connections that are kept."""
        self._client.close()

    def describe(self, video: Video, url: str) -> Information:
        """What there is at a URL, with the format chosen; raises :class:`Refused`."""
        self._log.warnings.clear()
        self._client.retry_after = None
        try:
            information = self._ask(video, url)
        except Exception as error:  # when a site changes, its extractor may stumble over anything
            raise self._refused(error, self._log.warnings) from None
        return self._usable(information, url)

    def bring(self, video: Video, information: Information) -> Path:
        """Fetches what was described and returns the file, unchecked; raises :class:`Refused`."""
        template = str(incoming_path(self._folder, video.video_id, "ENDING")).replace("%", "%%")
        self._client.params["outtmpl"]["default"] = template.removesuffix("ENDING") + "%(ext)s"
        # subtitles are the caller's business: when they fail, yt-dlp would give up the video
        information = {**information, "requested_subtitles": None}
        self._client.retry_after = None
        try:
            self._client.process_info(information)
        except Stopped as stopped:
            raise Refused(stopped.failure) from None
        except Exception as error:
            parts = [path for path in unfinished_files(self._folder, video.video_id) if path.suffix == ".part"]
            size = _size_behind_refused_range(error)
            if size is None or not parts:
                raise self._no_room(video) or self._refused(error) from None
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

    def _usable(self, information: Information | None, url: str) -> Information:
        if information is None:
            raise Refused(Failure("unknown", "yt-dlp says nothing about it"))
        if information.get("_type") in ("playlist", "multi_video"):
            entries = [entry for entry in information.get("entries") or [] if entry]
            if len(entries) != 1:
                raise Refused(Failure("unsupported", f"a page with {len(entries)} videos, not one"))
            information = entries[0]
        if (youtube_id(url) or information.get("id")) != information.get("id"):
            raise Refused(Failure("members_only", f"only a trailer of it is shown ({information.get('id')})"))
        status = information.get("live_status")
        if information.get("is_live") or status in ("is_live", "is_upcoming", "post_live"):
            raise Refused(Failure("live", f"a live stream ({status or 'is_live'})"))
        duration, limit = information.get("duration"), self._settings.max_seconds
        if duration and limit and duration > limit:
            raise Refused(Failure("too_long", f"{duration:.0f} s, more than download.max_seconds = {limit:.0f}"))
        return information

    def _refused(self, error: Exception, warnings: Sequence[str] = ()) -> Refused:
        failure = explained(classify(error), warnings)
        wait, self._client.retry_after = self._client.retry_after, None
        message = without_secrets(failure.message, self._credentials)
        return Refused(Failure(failure.reason, message), _seconds(wait) if wait else None)

    def _no_room(self, video: Video) -> Refused | None:
        """Whether two tracks could not be put together because a third file of their size did not fit.

        All that yt-dlp says of it is that FFmpeg failed.
        """
        tracks = [path for path in unfinished_files(self._folder, video.video_id) if path.suffix != ".part"]
        need = sum(path.stat().st_size for path in tracks if not path.is_symlink())
        if len(tracks) < 2 or shutil.disk_usage(self._folder).free > need:
            return None
        return Refused(Failure("disk_full", f"no room for {need} bytes to put pictures and sound together"))

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
    before_request: Callable[[], None]
    retry_after: str | None = None
    """What the latest refusal said of when to come back; yt-dlp's errors do not always hold it."""

    def urlopen(self, request: Request | str) -> Any:
        """As yt-dlp's."""
        request = Request(request) if isinstance(request, str) else request
        if self.credentials is not None and self.credentials.belong_to(request.url):
            request.headers["Authorization"] = self.credentials.header
        self.before_request()
        try:
            response = super().urlopen(request)
        except HTTPError as error:
            self.retry_after = error.response.headers.get("Retry-After")
            raise
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


def _size_behind_refused_range(error: BaseException) -> int | None:
    """The file's size (-1: not said) if the server refused to continue it (416), else None."""
    for cause in causes(error):
        if isinstance(cause, HTTPError) and cause.status == 416:
            size = (cause.response.headers.get("Content-Range") or "").rpartition("/")[2]
            return int(size) if size.isdigit() else -1
    return None


def _seconds(retry_after: str) -> float | None:
    """Seconds that a header ``Retry-After`` asks for, which is a number or a date; None: it is neither."""
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max((until - datetime.now(UTC)).total_seconds(), 0.0) if until.tzinfo else None
