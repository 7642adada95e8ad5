"""Pictures for people: frames side by side with their times, a spectrogram, lines of text, one below another."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH = 1240
_MARGIN = 20
_GAP = 4
_BACKGROUND = (250, 250, 248)
_INK = (30, 30, 30)
_FAINT = (120, 120, 116)
_COLOURS = np.array([(13, 8, 60), (90, 20, 110), (190, 55, 85), (240, 130, 40), (252, 230, 140)], float)
"""From quiet to loud; brightness grows throughout, so that it reads in grey as well."""


def spectrogram_picture(decibels: np.ndarray, width: int, height: int) -> Image.Image:
    """A spectrogram ``[frames, bands]``, from -80 to 0 dB, with low bands at the bottom, at most ``width`` wide."""
    columns = min(width, len(decibels))
    edges = np.linspace(0, len(decibels), columns + 1).astype(int)
    # the loudest frame of each column, so that short sounds do not vanish from long files
    loudest = np.maximum.reduceat(decibels.astype(np.float32), edges[:-1], axis=0)
    share = np.clip(loudest.T[::-1] / 80 + 1, 0, 1) * (len(_COLOURS) - 1)
    below = np.minimum(share.astype(int), len(_COLOURS) - 2)
    mixed = _COLOURS[below] + (share - below)[..., None] * (_COLOURS[below + 1] - _COLOURS[below])
    return Image.fromarray(mixed.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)


class Sheet:
    """A page that grows downwards; :meth:`save` writes it as PNG."""

    def __init__(self) -> None:
        self._parts: list[Image.Image] = []

    def title(self, text: str) -> None:
        """A line in large letters."""
        self._text(text, size=26, space=14, ink=_INK)

    def heading(self, text: str) -> None:
        """A line that starts a part."""
        self._text(text, size=18, space=18, ink=_INK)

    def line(self, text: str) -> None:
        """A line of small text."""
        self._text(text, size=14, space=2, ink=_FAINT)

    def frames(self, frames: Sequence[np.ndarray], labels: Sequence[str], columns: int) -> None:
        """Frames uint8 ``[height, width, 3]`` of one size, in rows of ``columns``, each with a label below it."""
        cell_width = (WIDTH - 2 * _MARGIN) // columns - _GAP
        height, width = frames[0].shape[:2]
        cell_height = max(1, round(height * cell_width / width))
        label_height = 18
        rows = -(-len(frames) // columns)
        picture = Image.new("RGB", (WIDTH, rows * (cell_height + label_height)), _BACKGROUND)
        draw = ImageDraw.Draw(picture)
        for place, (frame, label) in enumerate(zip(frames, labels, strict=True)):
            left = _MARGIN + place % columns * (cell_width + _GAP)
            top = place // columns * (cell_height + label_height)
            picture.paste(Image.fromarray(frame).resize((cell_width, cell_height)), (left, top))
            draw.text((left, top + cell_height + 1), label, fill=_FAINT, font=ImageFont.load_default(12))
        self._parts.append(picture)

    def spectrogram(self, decibels: np.ndarray, seconds: float) -> None:
        """A spectrogram over the page's width, with its times."""
        inner, height = WIDTH - 2 * _MARGIN, 160
        picture = Image.new("RGB", (WIDTH, height + 20), _BACKGROUND)
        picture.paste(spectrogram_picture(decibels, inner, height), (_MARGIN, 0))
        draw = ImageDraw.Draw(picture)
        font = ImageFont.load_default(12)
        for tick in range(5):
            label = f"{seconds * tick / 4:.1f} s"
            place = _MARGIN + tick * inner / 4
            anchor = "la" if tick == 0 else "ra" if tick == 4 else "ma"
            draw.text((place, height + 3), label, fill=_FAINT, font=font, anchor=anchor)
        self._parts.append(picture)

    def save(self, path: Path) -> None:
        """Writes the page."""
        page = Image.new("RGB", (WIDTH, sum(part.height for part in self._parts) + 2 * _MARGIN), _BACKGROUND)
        top = _MARGIN
        for part in self._parts:
            page.paste(part, (0, top))
            top += part.height
        page.save(path, format="PNG")

    def _text(self, text: str, size: int, space: int, ink: tuple[int, int, int]) -> None:
        font = ImageFont.load_default(size)
        lines = wrapped(text, font.getlength, WIDTH - 2 * _MARGIN)
        picture = Image.new("RGB", (WIDTH, len(lines) * (size + 8) + space), _BACKGROUND)
        draw = ImageDraw.Draw(picture)
        for place, line in enumerate(lines):
            draw.text((_MARGIN, space + place * (size + 8)), line, fill=ink, font=font)
        self._parts.append(picture)


def wrapped(text: str, length: Callable[[str], float], width: float) -> list[str]:
    """A text in lines that are at most ``width`` long, cut between words, or within one that is longer by itself."""
    lines = [""]
    for part in re.split(r"(?<= )(?=[^ ])", text):
        if lines[-1] and length(lines[-1] + part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
        while length((line := lines[-1]).rstrip()) > width and len(line) > 1:
            cut = max(1, sum(length(line[:place]) <= width for place in range(1, len(line))))
            lines[-1:] = [line[:cut], line[cut:]]
    return [line.rstrip() for line in lines]
