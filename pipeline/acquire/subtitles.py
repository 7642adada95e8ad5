"""Which of a site's subtitles to take."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

FORMATS = ("json3", "vtt")
"""What can be read, the one with word times first."""


@dataclass(frozen=True)
class Subtitles:
    """One file of subtitles."""

    language: str
    ending: str
    url: str
    kind: str
    """``written`` by people or ``recognised``."""


def choose_subtitles(information: Mapping[str, Any], language: str) -> Subtitles | None:
    """The best subtitles of a language: written by people before recognised ones, the very language before a variant.

    Recognised ones count only where the language is the spoken one; sites also offer machine translations.

    Args:
        information: what yt-dlp says of the video.
        language: ``en`` takes ``en``, ``en-US`` and so on.
    """
    for kind, key in (("written", "subtitles"), ("recognised", "automatic_captions")):
        tracks = information.get(key) or {}
        for name in _variants(tracks, language):
            for ending in FORMATS:
                url = _url(tracks[name], ending)
                if url is not None:
                    return Subtitles(name, ending, url, kind)
    return None


def _variants(tracks: Mapping[str, Any], language: str) -> list[str]:
    """Names of tracks of the language, best first.

    ``en-orig`` is YouTube's name of the spoken language, ``en-eEY6OEpapPo`` of a track that has a name.
    """
    pattern = re.compile(rf"{re.escape(language)}(-[A-Za-z0-9_]+)*", re.IGNORECASE)
    names = [name for name in tracks if pattern.fullmatch(name)]
    return sorted(names, key=lambda name: (name != f"{language}-orig", name != language, name))


def _url(formats: Sequence[Mapping[str, Any]], ending: str) -> str | None:
    urls = (str(one["url"]) for one in formats or () if one.get("ext") == ending and one.get("url"))
    return next((url for url in urls if not _is_translation(url)), None)


def _is_translation(url: str) -> bool:
    return "tlang" in parse_qs(urlsplit(url).query)
