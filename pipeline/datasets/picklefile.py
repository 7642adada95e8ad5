"""A large pickled dictionary, read as a stream and without running what a pickle may tell Python to run."""

from __future__ import annotations

import json
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import InputError

REMEMBERED = 200_000
"""Objects that a later one may refer to, besides the first ones. Pickle notes every text, of which a caption file has
a hundred million; what is referred to again are the few names of fields, and these come first."""
FIRST = 1000

_VALUES = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"} | {
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MARK = object()


def pickle_to_json(source: Path | str, target: Path, on_bytes: Callable[[int], None] | None = None) -> None:
    """Writes a pickled dictionary as one JSON object, item by item.

    Args:
        source: the pickle, of any protocol; it may hold dictionaries, lists, tuples, texts and numbers.
        target: the JSON file.
        on_bytes: called with the number of bytes read so far.

    Raises:
        InputError: the file is missing, cut, or holds anything else.
    """
    source = Path(source)
    if not source.is_file():
        raise InputError(f"there is no file {source}")
    with source.open("rb") as file, target.open("w", encoding="utf-8") as out:
        separator = "{"
        for key, value in _Machine(source).items(file):
            out.write(f"{separator}{json.dumps(str(key))}: {json.dumps(value)}")
            separator = ",\n"
            if on_bytes is not None:
                on_bytes(file.tell())
        out.write("{}" if separator == "{" else "}")


class _Machine:
    """Pickle's stack machine, as far as plain data needs it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack: list[Any] = []
        self._first: dict[int, Any] = {}
        self._latest: OrderedDict[int, Any] = OrderedDict()
        self._count = 0
        self._top: dict[Any, Any] | None = None

    def items(self, file: BinaryIO) -> Iterator[tuple[Any, Any]]:
        """The items of the outermost dictionary, in order."""
        try:
            for opcode, argument, _ in pickletools.genops(file):
                self._step(opcode.name, argument)
                if self._top:
                    yield from self._top.items()
                    self._top.clear()
            if self._top is None:
                raise ValueError("its outermost object is another")
        except (ValueError, IndexError, KeyError, TypeError) as error:
            raise InputError(f"{self._path}: not a whole pickle of a dictionary ({error})") from None

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            self._note(self._count if name == "MEMOIZE" else int(argument), stack[-1])
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self._recall(int(argument)))
        elif name not in ("PROTO", "FRAME", "STOP"):
            self._build(name)

    def _build(self, name: str) -> None:
        """Lists, dictionaries and tuples, and what is put into them."""
        stack = self._stack
        if name in ("EMPTY_DICT", "DICT"):
            values = self._to_mark() if name == "DICT" else []
            made = dict(zip(values[::2], values[1::2], strict=True))
            if not stack and self._top is None:
                self._top = made
            stack.append(made)
        elif name in ("EMPTY_LIST", "LIST", "EMPTY_TUPLE", "TUPLE"):
            stack.append([] if name.startswith("EMPTY") else self._to_mark())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [stack[-count:]]
        elif name in ("APPEND", "APPENDS"):
            values = [stack.pop()] if name == "APPEND" else self._to_mark()
            stack[-1].extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            values = [stack.pop(-2), stack.pop()] if name == "SETITEM" else self._to_mark()
            stack[-1].update(zip(values[::2], values[1::2], strict=True))
        else:
            raise InputError(
                f"{self._path}: it holds more than dictionaries, lists, texts and numbers ({name}), which is not read "
                "because it could run anything; use caption.json"
            )

    def _to_mark(self) -> list[Any]:
        """Takes all values above the latest mark, and the mark."""
        position = len(self._stack) - 1
        while self._stack[position] is not _MARK:
            position -= 1
            if position < 0:
                raise ValueError("values without a mark")
        values = self._stack[position + 1 :]
        del self._stack[position:]
        return values

    def _note(self, number: int, value: Any) -> None:
        self._count += 1
        if number < FIRST:
            self._first[number] = value
            return
        self._latest[number] = value
        if len(self._latest) > REMEMBERED:
            self._latest.popitem(last=False)

    def _recall(self, number: int) -> Any:
        if number < FIRST:
            return self._first[number]
        if number not in self._latest:
            raise ValueError("it refers far back, as caption files do not; use caption.json")
        return self._latest[number]
