"""A page from its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import jinja2

_FOLDER = Path(__file__).parent


@dataclass
class Section:
    """A titled part of a page; ``body`` is HTML."""

    key: str
    title: str
    body: str
    note: str = ""


@dataclass
class Tile:
    """A number that is worth a large print."""

    value: str
    label: str


def render_report(
    title: str, recipe: Mapping[str, Any], headline: Sequence[Tile], sections: Sequence[Section], made_at: datetime
) -> str:
    """The whole page as HTML; it refers to nothing outside itself.

    Args:
        title: the page's heading.
        recipe: ``name``, ``description`` and ``seeded`` of the run's recipe.
        headline: the figures to see first.
        sections: the rest, in order.
        made_at: when the page was made.
    """
    return _template("report.html.j2").render(
        title=title,
        style=(_FOLDER / "style.css").read_text(),
        recipe=recipe,
        headline=headline,
        sections=sections,
        made_at=made_at.strftime("%Y-%m-%d %H:%M"),
    )


def table(header: Sequence[str], rows: Sequence[Sequence[object]], text_columns: Sequence[int] = (0,)) -> str:
    """An HTML table; the columns in ``text_columns`` are set to the left, the others are numbers."""
    marks = [' class="text"' if index in text_columns else "" for index in range(len(header))]
    head = "".join(f"<th{mark}>{escape(name)}</th>" for name, mark in zip(header, marks, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{mark}>{escape(str(value))}</td>" for value, mark in zip(row, marks, strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


@cache
def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True)
    return environment.get_template(name)
