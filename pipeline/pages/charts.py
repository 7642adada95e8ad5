"""Charts as inline SVG. Colours come from the page's style sheet, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Point = tuple[float, float]

_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 40


def line_chart(series: Mapping[str, Sequence[Point]], x_label: str, y_label: str) -> str:
    """Curves over a common axis; points that are not finite are left out, and of many those that do not show.

    Args:
        series: name → ``(x, y)`` points in the order of x. The n-th is drawn in the style sheet's colour n.
        x_label: what x is, with its unit.
        y_label: what y is, with its unit.

    Returns:
        an ``<figure>`` element with a legend; a note in its place if there is nothing to draw.
    """
    finite = {
        name: [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])]
        for name, points in series.items()
    }
    points = [point for line in finite.values() for point in line]
    if not points:
        return '<p class="empty">Nothing to draw yet.</p>'
    x_ticks = _ticks(min(x for x, _ in points), max(x for x, _ in points), count=8)
    # the curves fill the width; only a single point has its axis end at a round number
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    x_low, x_high = (x_low, x_high) if x_high > x_low else (x_ticks[0], x_ticks[-1])
    x_ticks = [tick for tick in x_ticks if x_low <= tick <= x_high]
    y_ticks = _ticks(min(0.0, min(y for _, y in points)), max(y for _, y in points))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low)
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for tick in y_ticks:
        _, y = place(x_low, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for tick in x_ticks:
        x, _ = place(tick, y_ticks[0])
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{_number(tick)}</text>')
    for index, line in enumerate(finite.values()):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in _thinned(line)))
        parts.append(f'<polyline class="line series-{index}" points="{path}"/>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    legend = "".join(
        f'<span><i class="swatch series-{index}"></i>{escape(name)}</span>' for index, name in enumerate(finite)
    )
    return (
        f'<figure><figcaption>{escape(y_label)}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(y_label)} over {escape(x_label)}">{"".join(parts)}</svg>'
        f'<div class="legend">{legend}</div></figure>'
    )


def _thinned(line: Sequence[Point], stretches: int = _WIDTH) -> Sequence[Point]:
    """A curve of a million points as one that looks the same: the lowest and the highest of each short stretch."""
    size = math.ceil(len(line) / stretches)
    if size <= 2:
        return line
    kept = [line[0]]
    for first in range(0, len(line), size):
        stretch = line[first : first + size]
        kept += sorted({min(stretch, key=_height), max(stretch, key=_height)})
    return [*kept, line[-1]]


def _height(point: Point) -> float:
    return point[1]


def bar_chart(
    bars: Sequence[tuple[str, float, str]], reference: tuple[float, str] | None = None, full: float | None = None
) -> str:
    """Horizontal bars.

    Args:
        bars: label, length (≥ 0) and the text written at its end.
        reference: a length to compare with, drawn as a line through all bars, and its name.
        full: the length that fills a row; None: the longest.

    Returns:
        a ``<div>`` of rows.
    """
    if not bars:
        return '<p class="empty">Nothing to draw yet.</p>'
    longest = full or max([length for _, length, _ in bars] + ([reference[0]] if reference else [])) or 1.0
    line = ""
    if reference:
        line = (
            f'<b class="reference" style="left:{100 * reference[0] / longest:.2f}%" title="{escape(reference[1])}"></b>'
        )
    rows = "".join(
        f"<span>{escape(label)}</span><div><i style='width:{100 * length / longest:.2f}%'></i>{line}</div>"
        f"<em>{escape(text)}</em>"
        for label, length, text in bars
    )
    note = f'<p class="note">The line is {escape(reference[1])}.</p>' if reference else ""
    return f'<div class="bars">{rows}</div>{note}'


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from at most ``low`` to at least ``high``."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    size = next(power * step for step in (1, 2, 5, 10) if power * step * count >= span)
    first, last = math.floor(low / size), math.ceil(high / size)
    return [index * size for index in range(first, max(last, first + 1) + 1)]


def _number(value: float) -> str:
    return f"{value:,.10g}" if abs(value) >= 1 or value == 0 else f"{value:.3g}"
