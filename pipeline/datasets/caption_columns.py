"""Captions as a column of a table, and back, without a dictionary for each of 136 million."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.types import LATEST_TIME, Caption

CAPTIONS = pa.list_(pa.struct([("start", pa.float32()), ("end", pa.float32()), ("text", pa.string())]))
"""The column's type: a list of captions for each video, null where they are not known."""


def to_column(lists: Sequence[Sequence[Caption] | None]) -> pa.Array:
    """The captions of videos as an array of :data:`CAPTIONS`."""
    offsets, total = [], 0
    for captions in lists:
        offsets.append(None if captions is None else total)
        total += len(captions or ())
    flat = [caption for captions in lists for caption in captions or ()]
    fields = [
        pa.array([caption.start for caption in flat], pa.float32()),
        pa.array([caption.end for caption in flat], pa.float32()),
        pa.array([caption.text for caption in flat], pa.string()),
    ]
    structs = pa.StructArray.from_arrays(fields, fields=list(CAPTIONS.value_type))
    return pa.ListArray.from_arrays(pa.array([*offsets, total], pa.int32()), structs, type=CAPTIONS)


def from_column(column: Any) -> list[list[Caption] | None]:
    """The captions of each video of an array of :data:`CAPTIONS`."""
    flat = column.flatten()
    captions = [Caption(*values) for values in zip(*(part.to_pylist() for part in flat.flatten()), strict=True)]
    lengths = column.value_lengths().to_pylist()
    lists: list[list[Caption] | None] = []
    start = 0
    for length in lengths:
        lists.append(None if length is None else captions[start : start + length])
        start += length or 0
    return lists


def first_incomplete(column: Any) -> tuple[int, int] | None:
    """The first caption without a text, or with a time that is missing or of no video.

    Returns:
        its row in the array and its place in the row, from 0; None: there is no such caption.
    """
    starts, ends, texts = column.flatten().flatten()
    there = texts.is_valid()
    for times in (starts, ends):
        there = pc.and_(there, pc.fill_null(pc.less(pc.abs(times), LATEST_TIME), False))  # NaN is less than nothing
    place = pc.index(there, False).as_py()
    if place < 0:
        return None
    for row, length in enumerate(column.value_lengths().to_pylist()):
        if place < (length or 0):
            return row, place
        place -= length or 0
    raise AssertionError("unreachable")
