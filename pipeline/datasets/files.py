"""Reading official files, with errors that say which file, which line and what was expected."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import InputError


def existing(path: Path | str, source: str) -> Path:
    """The path if there is such a file or folder; ``source`` says where one gets it.

    Raises:
        InputError: there is not.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no {path}; it comes with {source}")
    return path


def read_json(path: Path | str, source: str) -> Any:
    """A JSON file as a whole; raises :class:`InputError`."""
    path = existing(path, source)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from None


def read_lines(path: Path | str, source: str) -> list[str]:
    """The lines of a text file that are not empty; raises :class:`InputError`."""
    path = existing(path, source)
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file in UTF-8") from None


def read_cells(path: Path | str, source: str, columns: int, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells of a delimited file without a header.

    Raises:
        InputError: a line has fewer than so many columns.
    """
    path = existing(path, source)
    with path.open(encoding="utf-8-sig", newline="") as lines:
        # sentences between tabs may hold single quotation marks
        tabs = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        reader = tabs if delimiter == "\t" else csv.reader(lines, delimiter=delimiter)
        for cells in reader:
            if not any(cells):
                continue
            if len(cells) < columns:
                raise InputError(f"{path}: line {reader.line_num} has {len(cells)} columns, not {columns}")
            yield reader.line_num, cells


def seconds(text: str, path: Path | str, line: int) -> float:
    """A time in seconds; raises :class:`InputError`."""
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{path}: line {line}: {text!r} is not a time in seconds") from None
