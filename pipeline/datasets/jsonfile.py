"""A large JSON file, read by its parts: one object of many values, of which memory holds one at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from pipeline.errors import InputError

CHUNK = 1 << 22
"""Bytes read at once."""
LARGEST = 1 << 28
"""Bytes of the largest single value."""
_DECODER = json.JSONDecoder()
_AFTER_VALUE = tuple(" \t\r\n,:]}")
_SPACE = re.compile(r"[ \t\r\n]*")


class LargeObject:
    """Random access to the values of one JSON object on disk, without ever holding it.

    One pass notes where each value lies, which costs about 200 bytes of memory per key; a value is parsed when it is
    asked for. Of a key that comes twice, the last value counts, as in :func:`json.load`.

    Args:
        path: a file that holds one object.
        on_bytes: called with the number of bytes read so far, for progress.

    Raises:
        InputError: the file is missing, cut or not one object.
    """

    def __init__(self, path: Path | str, on_bytes: Callable[[int], None] | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"there is no file {self.path}")
        self._places: dict[str, tuple[int, int]] = {}
        self._file: BinaryIO = self.path.open("rb")
        for key, start, end in _scan(self._file, self.path):
            self._places[key] = (start, end - start)
            if on_bytes is not None:
                on_bytes(end)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def get(self, key: str) -> Any:
        """The value of a key, None where there is no such key."""
        if key not in self._places:
            return None
        start, length = self._places[key]
        self._file.seek(start)
        return json.loads(self._file.read(length))

    def __enter__(self) -> LargeObject:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._file.close()


def _scan(file: BinaryIO, path: Path) -> Iterator[tuple[str, int, int]]:
    """Yields each key with the first byte of its value and the byte after it.

    The bytes are taken for Latin-1, in which a character is a byte: what gives JSON its structure is ASCII, so the
    parser finds the same ends, and they are offsets into the file.
    """
    window = _Window(file, path)
    window.expect("{")
    if window.peek() == "}":
        return
    while True:
        window.expect('"', consume=False)
        key, _, _ = window.value()
        window.expect(":")
        _, start, end = window.value()
        yield json.loads(key), start, end
        if window.expect(",}") == "}":
            return


class _Window:
    """The part of the file that the parser looks at; it grows until a whole value is in it."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._text, self._position, self._base = "", 0, 0

    def _more(self) -> bool:
        # A value larger than the window: double it, or a long value would be parsed again for each small piece.
        piece = self._file.read(max(CHUNK, len(self._text) - self._position)).decode("latin-1")
        self._base += self._position
        self._text, self._position = self._text[self._position :] + piece, 0
        return bool(piece)

    def peek(self) -> str:
        """The next character that is not space."""
        while True:
            match = _SPACE.match(self._text, self._position)
            self._position = match.end() if match else self._position
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._more():
                raise InputError(f"{self._path}: the JSON ends early, at byte {self._base}; is the file complete?")

    def expect(self, characters: str, consume: bool = True) -> str:
        """The next character that is not space, which must be one of ``characters``."""
        found = self.peek()
        if found not in characters:
            raise InputError(
                f"{self._path}: expected {' or '.join(characters)} at byte {self._base + self._position}, "
                f"not {found!r}; the file is to hold one JSON object"
            )
        self._position += consume
        return found

    def value(self) -> tuple[bytes, int, int]:
        """The next value as it stands in the file, and the offsets at which it begins and ends."""
        self.peek()
        while True:
            try:
                _, end = _DECODER.raw_decode(self._text, self._position)
                # A number at the window's edge may go on behind it (0 in "0.5").
                if self._text[end : end + 1] in _AFTER_VALUE or not self._more():
                    break
            except ValueError as error:
                if len(self._text) - self._position > LARGEST or not self._more():
                    raise InputError(f"{self._path}: not JSON after byte {self._base} ({error})") from None
        start, raw = self._base + self._position, self._text[self._position : end].encode("latin-1")
        self._position = end
        return raw, start, self._base + end
