"""Caption files as YouTube gives them (json3, WebVTT) to captions with times."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.media.errors import MediaError
from pipeline.types import LATEST_TIME, Caption

_TIMES = re.compile(r"^\s*(?:(\d+):)?(\d\d):(\d\d[.,]\d{1,3})\s+-->\s+(?:(\d+):)?(\d\d):(\d\d[.,]\d{1,3})")
_WORD_TIME = re.compile(r"<\d\d:\d\d:\d\d\.\d{3}>")
_TAG = re.compile(r"<[^>]*>")


def read_captions(path: str | Path) -> list[Caption]:
    """Reads a ``.json3`` or ``.vtt`` file.

    Captions without words are left out, and are in the order of their start; written ones may overlap. Recognised ones
    roll: a line stays on the screen while the next is spoken. Each is taken once, where it first appears, and where the
    words have times it lasts from its first word to the first of the next line.

    Raises:
        MediaError: ``corrupt``: neither format; ``not_found``: no such file.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MediaError("not_found", f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise MediaError("corrupt", f"{path}: captions that are not text") from None
    try:
        if text.lstrip().startswith("WEBVTT"):
            captions = _from_vtt(text)
        else:
            events = json.loads(text)["events"]
            captions = [caption for event in events if (caption := _from_event(event)) is not None]
            if any("tOffsetMs" in segment for event in events for segment in event.get("segs") or []):
                captions = _without_overlap(sorted(captions))
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError):
        raise MediaError("corrupt", f"{path}: captions neither in WebVTT nor in YouTube's json3") from None
    for caption in captions:
        if not max(abs(caption.start), abs(caption.end)) < LATEST_TIME:
            raise MediaError("corrupt", f"{path}: a caption from {caption.start:g} to {caption.end:g} s")
    return sorted(captions, key=lambda caption: (caption.start, caption.end))


def _from_event(event: dict[str, Any]) -> Caption | None:
    """A json3 event: its start and length in milliseconds, its words or lines as segments."""
    spoken = [segment for segment in event.get("segs") or [] if _words(segment.get("utf8", ""))]
    if not spoken:
        return None
    text = _words("".join(segment.get("utf8", "") for segment in event["segs"]))
    shown, first = event.get("tStartMs", 0), spoken[0].get("tOffsetMs", 0)
    end = (shown + max(event.get("dDurationMs", 0), first)) / 1000
    return Caption((shown + first) / 1000, end, text)


def _without_overlap(captions: list[Caption]) -> list[Caption]:
    """Captions in order, each of which ends where the next begins, at the latest."""
    begins = [caption.start for caption in captions[1:]]
    return [
        caption._replace(end=min(caption.end, begin))
        for caption, begin in zip(captions, [*begins, math.inf], strict=True)
    ]


def _from_vtt(text: str) -> list[Caption]:
    # recognised captions roll: a cue shows the line before, then a new line with a time at each word
    rolling = _WORD_TIME.search(text) is not None
    captions: list[Caption] = []
    shown = ""
    for start, end, lines in _cues(text):
        lines = [line for line in map(_one_line, lines) if line]
        fresh = [line for line in lines if line != shown] if rolling else lines
        if fresh:
            captions.append(Caption(start, end, " ".join(fresh)))
            shown = fresh[-1]
    return captions


def _cues(text: str) -> Iterator[tuple[float, float, list[str]]]:
    """Start, end and lines of each cue; an empty line ends a cue, one of a space does not."""
    times: re.Match[str] | None = None
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        match = _TIMES.match(line)
        if (match or not line) and times:
            yield _seconds(*times.group(1, 2, 3)), _seconds(*times.group(4, 5, 6)), lines
            times = None
        if match:
            times, lines = match, []
        elif times:
            lines.append(line)


def _seconds(hours: str | None, minutes: str, seconds: str) -> float:
    return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))


def _one_line(text: str) -> str:
    return _words(_TAG.sub("", text))


def _words(text: str) -> str:
    """A text in one line; in json3 there are no tags, and a ``<`` is what was written."""
    return " ".join(html.unescape(text).replace("\u200b", "").split())
