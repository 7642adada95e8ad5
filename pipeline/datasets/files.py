"""Reading official files, with errors that say which file, which line and what was expected."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

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


def _as_windows(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("cp1252", errors="replace"), error.end


codecs.register_error("windows-1252", _as_windows)


def open_text(path: Path) -> TextIO:
    """An official text file to read, with its line ends as they are: UTF-8, with a mark or without.

    Bytes that are none of UTF-8 are read as Windows-1252, of which LSMDC's lists have names and quotation marks, also
    where others of the file are UTF-8. One's own list is not guessed at: see :mod:`pipeline.datasets.generic`.

    Raises:
        InputError: it has bytes that no text has, like an archive or a text in UTF-16.
    """
    with path.open("rb") as file:
        if b"\0" in file.read(4096):
            raise InputError(f"{path}: not a text file; of a spreadsheet or an archive take out the list, in UTF-8")
    return path.open(encoding="utf-8-sig", errors="windows-1252", newline="")


def read_lines(path: Path | str, source: str) -> list[str]:
    """The lines of a text file that are not empty, without space around them; raises :class:`InputError`."""
    with open_text(existing(path, source)) as file:
        return [line.strip() for line in file.read().splitlines() if line.strip()]


def read_cells(path: Path | str, source: str, columns: int, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells of a delimited file without a header.

    Raises:
        InputError: it is missing or no text, or a line has fewer than so many columns.
    """
    path = existing(path, source)
    with open_text(path) as lines:
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
