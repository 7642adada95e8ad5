"""What yt-dlp is told: which format to take, how to behave, and whom to ask as."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from pipeline.acquire.transfer import Transfer
from pipeline.config import DownloadSettings
from pipeline.errors import InputError
from pipeline.media.ffmpeg import ffmpeg_binary

BLOCK = 256 * 1024
"""Bytes that are read at once, at most."""
WARNINGS = 8
"""Warnings about one video that are kept."""
LEAST_SOUND = 40
"""Kilobits per second of sound that is taken if there is any; what has less is telephone quality, or silence."""


class Log:
    """Prints nothing of what yt-dlp says. Errors come as exceptions; warnings are kept, for they explain these."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def debug(self, message: str) -> None:
        """Nothing."""

    info = error = debug

    def warning(self, message: str) -> None:
        """Keeps it."""
        if len(self.warnings) < WARNINGS and message not in self.warnings:
            self.warnings.append(message)


def client_options(settings: DownloadSettings, transfer: Transfer, log: Log) -> dict[str, Any]:
    """The parameters of a ``YoutubeDL``; raises :class:`InputError` for cookies that cannot be read."""
    return {
        "quiet": True,
        "noprogress": True,
        # yt-dlp formats a line of progress for every block, which nobody sees; the hook comes all the same
        "progress_delta": 3600.0,
        "logger": log,
        "color": "never",
        "noplaylist": True,
        "cachedir": False,
        # Tries are counted, spaced and explained by the caller, so yt-dlp itself makes one.
        "retries": 0,
        "fragment_retries": 0,
        "extractor_retries": 0,
        "file_access_retries": 0,
        # by default yt-dlp leaves out the pieces of a stream that it cannot get, and calls the rest a video
        "skip_unavailable_fragments": False,
        # FFmpeg would ask at its own pace, without the password, and with the cookies on its command line
        "external_downloader": {"m3u8": "native", "dash": "native"},
        "continuedl": True,
        "buffersize": BLOCK,
        "noresizebuffer": True,
        "updatetime": False,
        "overwrites": True,
        "socket_timeout": settings.timeout,
        "ffmpeg_location": ffmpeg_binary(),
        "fixup": "never",
        "outtmpl": {"default": "unset"},
        "progress_hooks": [transfer.on_progress],
        "writesubtitles": settings.subtitles is not None,
        "writeautomaticsub": settings.subtitles is not None,
        "extractor_args": settings.extractor_args,
        **_choice(settings.min_height),
        **({"proxy": settings.proxy} if settings.proxy else {}),
        **_cookies(settings),
    }


def _choice(least: int) -> dict[str, Any]:
    """The smallest format whose shorter side has so many pixels, with sound; where there is none, the largest."""
    return {
        "format": f"bv*+ba[abr>=?{LEAST_SOUND}]/bv*+ba/b/bv*",
        # Tracks of dubbed sound differ in size, too: the language that was spoken comes before the size.
        "format_sort": [f"+res:{least}", "lang", "+size", "+br", "+fps"],
    }


def _cookies(settings: DownloadSettings) -> dict[str, Any]:
    if settings.cookies_from_browser:
        browser, _, profile = settings.cookies_from_browser.partition(":")
        return {"cookiesfrombrowser": (browser, profile or None, None, None)}
    if settings.cookies:
        try:
            # yt-dlp writes changed cookies back; many at once would damage the user's file, so each gets a copy
            return {"cookiefile": io.StringIO(Path(settings.cookies).read_text(encoding="utf-8"))}
        except (OSError, UnicodeDecodeError) as error:
            cause = error.strerror if isinstance(error, OSError) else "not a text file"
            raise InputError(f"{settings.cookies}: the cookies cannot be read ({cause})") from None
    return {}
