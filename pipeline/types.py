"""The things that every room speaks of: a video of a manifest, its captions, the modalities of a sample."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

Modality = Literal["2d", "3d", "audio", "text"]
"""What a sample can hold: frame features, clip features, log-mel spectrogram, word ids."""


_SURROGATE = re.compile("[\ud800-\udfff]")

LATEST_TIME = 1e9
"""Seconds, or words, that no video has: a number that large is of damaged bytes."""


class Caption(NamedTuple):
    """A piece of narration, or an annotated segment of a benchmark."""

    start: float
    """Seconds from the start of the video."""
    end: float
    text: str


@dataclass
class Video:
    """One row of a manifest."""

    video_id: str
    url: str | None = None
    """None: the source's template says where it is."""
    split: str = "train"
    category_1: str | None = None
    category_2: str | None = None
    task_id: str | None = None
    rank: int | None = None
    captions: list[Caption] | None = None
    """None: not known; an empty list: known to have none."""


def without_surrogates(text: str) -> str:
    """A text that UTF-8 can hold: half of a surrogate pair, which JSON and file names can spell, becomes U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)
