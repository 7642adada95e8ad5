"""Where a video may be: URL templates, local folders, and the one host that wants to know who asks."""

from __future__ import annotations

import base64
import netrc
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

from pipeline.acquire.layout import MEDIA_ENDINGS
from pipeline.config import DownloadSettings
from pipeline.datasets.identity import youtube_id_of_file
from pipeline.errors import InputError
from pipeline.types import Video

_ENDINGS: tuple[str, ...] = (*MEDIA_ENDINGS, "mts", "m2ts")
_ENDINGS += tuple(ending.upper() for ending in _ENDINGS)
"""What files end in that people bring, in the order in which they are looked for; cameras like capitals."""
USER, PASSWORD = "DOWNLOAD_USER", "DOWNLOAD_PASSWORD"
_USER_IN_URL = re.compile(r"(?<=://)[^/\s'\"]+@")
_KEY_IN_URL = re.compile(
    r"(?<=[?&])([^=&\s'\"]*(?:token|key|secret|password|signature|auth)[^=&\s'\"]*)=[^&\s'\"]+", re.I
)


@dataclass(frozen=True)
class Place:
    """Where one source says that a video is."""

    source: str
    """The host, or the folder; requests to it are paced together."""
    url: str | None = None
    folder: Path | None = None
    """A local folder, in which the video is looked for."""


@dataclass(frozen=True)
class Credentials:
    """User id and password of one host; not shown by ``repr``."""

    host: str
    user: str = field(repr=False)
    password: str = field(repr=False)

    @property
    def header(self) -> str:
        """The value of HTTP's ``Authorization``."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    def belong_to(self, url: str) -> bool:
        """Whether the URL is of the host that they are for."""
        parts = urlsplit(url)
        return self.host in (parts.hostname, parts.netloc)

    def hide_in(self, text: str) -> str:
        """The text with stars in place of the password and of what holds it."""
        for secret in (self.password, quote(self.password, safe=""), self.header.removeprefix("Basic ")):
            text = text.replace(secret, "***")
        return text


def without_secrets(text: str, credentials: Credentials | None) -> str:
    """A message that can be shown and stored."""
    text = _KEY_IN_URL.sub(r"\1=***", _USER_IN_URL.sub("***@", text))
    return credentials.hide_in(text) if credentials is not None else text


def find_credentials(settings: DownloadSettings) -> Credentials | None:
    """The credentials of ``settings.auth_host``, None where it is not set.

    Raises:
        InputError: there are none for it.
    """
    host = settings.auth_host
    if host is None:
        return None
    user, password = os.environ.get(USER), os.environ.get(PASSWORD)
    if user and password:
        return Credentials(host, user, password)
    try:
        entry = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
    except FileNotFoundError:
        entry = None
    except netrc.NetrcParseError as error:
        raise InputError(f"{error.filename}: line {error.lineno} cannot be read ({error.msg})") from None
    if entry is None or not entry[2]:
        raise InputError(f"no user id and password for {host}: set {USER} and {PASSWORD}, or add it to ~/.netrc")
    return Credentials(host, entry[0], entry[2])


class Sources:
    """The chain of sources of a run.

    Raises:
        InputError: a template has an unknown placeholder or a password in it, or a folder is not there.
    """

    def __init__(self, settings: DownloadSettings) -> None:
        if settings.proxy and urlsplit(settings.proxy).password:
            raise InputError("a proxy's password is seen by all in a setting: put the proxy into HTTPS_PROXY instead")
        self._first = [_checked(source) for source in settings.sources]
        self._template = None if settings.template is None else _checked(settings.template)
        if not self._first and self._template is None:
            raise InputError("nowhere to look: set download.template or download.sources")

    def of(self, video: Video) -> Iterator[Place]:
        """Where to look for a video, in order."""
        relative = video.url if video.url and "://" not in video.url else None
        for source in self._first:
            yield _place(source, video)
        if video.url is not None and relative is None:
            yield Place(_host(video.url), video.url)
        # somebody's copy that is called as YouTube calls the video: a site may have it too
        elif self._template is not None and (relative is None or youtube_id_of_file(relative) == video.video_id):
            yield _place(self._template, video)


def _checked(source: str) -> str:
    if "://" not in source:
        if not Path(source).is_dir():
            raise InputError(f"there is no folder {source}: give a folder that exists, or a URL with {{video_id}}")
        return str(Path(source).resolve())
    if "@" in urlsplit(source).netloc:
        raise InputError(f"a password in a URL is seen by all: set download.auth_host, {USER} and {PASSWORD} instead")
    try:
        filled = source.format(video_id="x")
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"the template {source} cannot be filled ({error}); it may hold {{video_id}}") from None
    if filled == source:
        raise InputError(f"the template {source} is the same for all videos; put {{video_id}} into it")
    return source


def _place(source: str, video: Video) -> Place:
    if "://" not in source:
        return Place(source, folder=Path(source))
    url = source.format(video_id=quote(video.video_id))
    return Place(_host(url), url)


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or url).removeprefix("www.")
    except ValueError:  # it is none; who asks for it finds that out
        return url


def find_in_folder(folder: Path, video: Video) -> Path | None:
    """A video's file in somebody's folder: at its relative URL, or by its id there or in a folder of its first two.

    A list may name no place outside the folder, but links in it may lead there.
    """
    if video.url and "://" not in video.url:
        place = folder / video.url
        for path in (place.resolve(), Path(os.path.normpath(place))):
            if path.is_relative_to(folder) and path.is_file():
                return path
    for beside in (folder, folder / video.video_id[:2]):
        for ending in _ENDINGS:
            path = beside / f"{video.video_id}.{ending}"
            if path.is_file():
                return path
    return None
