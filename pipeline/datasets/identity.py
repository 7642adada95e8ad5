"""The id of a video, from the URL or the path under which a list names it."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

LONGEST_ID = 64
"""Characters of an id."""
_ID = re.compile(rf"[A-Za-z0-9_-][A-Za-z0-9_.-]{{0,{LONGEST_ID - 1}}}")
_YOUTUBE_ID = r"[A-Za-z0-9_-]{11}"
_YOUTUBE_HOSTS = re.compile(r"(?:[\w-]+\.)*(?:youtube(?:-nocookie)?\.com|youtu\.be)", re.IGNORECASE)
_YOUTUBE_PATH = re.compile(rf"^/(?:embed/|v/|shorts/|live/)?({_YOUTUBE_ID})(?:/|$)")
_YOUTUBE_FILE = re.compile(rf"^({_YOUTUBE_ID})(?:\.|_[a-z0-9]+\.)")


def is_video_id(text: str) -> bool:
    """Whether ``text`` can be a video's id: a name that is no path, hidden file or too long for a file system."""
    return _ID.fullmatch(text) is not None


def youtube_id(url: str) -> str | None:
    """The id in any of YouTube's forms of URL; None: it is none of them."""
    parts = urlsplit(url if "//" in url else f"//{url}")
    if not _YOUTUBE_HOSTS.fullmatch(parts.hostname or ""):
        return None
    candidates = parse_qs(parts.query).get("v", [])
    match = _YOUTUBE_PATH.match(parts.path)
    if match and match[1] != "playlist":
        candidates.append(match[1])
    return next((name for name in candidates if re.fullmatch(_YOUTUBE_ID, name)), None)


def id_from_url(url: str) -> str:
    """YouTube's id, else the name of the file that the URL ends in, without its ending.

    >>> id_from_url("https://youtu.be/nVbIUDjzWY4?t=3"), id_from_url("http://host/videos/cake%201.mp4")
    ('nVbIUDjzWY4', 'cake_1')
    """
    found = youtube_id(url)
    if found is not None:
        return found
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name.rpartition(".")[0] or name).lstrip(".")


def id_from_path(path: str) -> str:
    """The id in the name of a video or feature file (``.../nVbIUDjzWY4.webm``, ``nVbIUDjzWY4_2d.npy``)."""
    return youtube_id_of_file(path) or _name(path).partition(".")[0]


def youtube_id_of_file(path: str) -> str | None:
    """The id of a file that is called as :func:`id_from_path` knows it of YouTube's; None: it is called otherwise."""
    match = _YOUTUBE_FILE.match(_name(path))
    return match[1] if match else None


def _name(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).name


def id_of_name(name: str) -> str:
    """A name as an id; one that cannot be an id has what is wrong replaced, and a mark behind it that tells it apart.

    >>> id_of_name("v_YoYo_g01_c01"), id_of_name("#122_(HQ)_pick")
    ('v_YoYo_g01_c01', '_122__HQ__pick-d6c55b')
    """
    cleaned = re.sub(r"[^A-Za-z0-9_-]+", "_", name)
    if cleaned == name and 0 < len(name) <= LONGEST_ID:
        return name
    mark = hashlib.blake2b(name.encode(), digest_size=3).hexdigest()
    return f"{cleaned[: LONGEST_ID - len(mark) - 1]}-{mark}"


def other_url(url: str | None, video_id: str) -> str | None:
    """The URL, or None if it is YouTube's for this id, which the default template gives as well."""
    return None if url is None or youtube_id(url) == video_id else url
