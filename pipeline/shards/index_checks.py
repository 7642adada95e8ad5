"""Whether an index can be of a tar of its size: a bit that flipped in it is to be named, not to be read by."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.shards.index import MODALITIES, NUMBERS, TIMES_BYTES
from pipeline.shards.members import column
from pipeline.types import Modality

_ABSENT = -1
"""Stands for null, and is no value that a column can have."""

Flags = NDArray[np.bool_]


def first_wrong(table: pa.Table, tar_sizes: NDArray[np.int64]) -> tuple[int, str] | None:
    """The first row of an index that cannot be, and why; None: there is none.

    Args:
        table: one or several indexes, with all columns.
        tar_sizes: ``[rows]``, the bytes of each row's tar.
    """
    for wrong, what in _findings(table, tar_sizes):
        if wrong.any():
            return int(np.argmax(wrong)), what
    return None


def _findings(table: pa.Table, tar_sizes: NDArray[np.int64]) -> Iterator[tuple[Flags, str]]:
    offset, size = column(table, "offset", 0), column(table, "size", 0)
    yield (
        (offset < 0) | (offset > tar_sizes) | (size <= 0) | (size > tar_sizes - offset),
        "its bytes are not in the tar",
    )
    end = offset + size
    json_offset, json_size = column(table, "json_offset", 0), column(table, "json_size", 0)
    yield _outside(json_offset, json_size, offset, end), "its JSON is not among its bytes"
    yield ~np.isfinite(column(table, "duration", 0.0)), "its duration is not a finite number"
    captions = column(table, "captions", 0)
    yield (captions < 0) | (captions > json_size), "its JSON cannot hold so many captions"
    times = column(table, "times_offset", _ABSENT)
    outside = _outside(times, TIMES_BYTES * captions.astype(np.int64), offset, end)
    yield (times != _ABSENT) & outside, "its times are not among its bytes"
    for modality in MODALITIES:
        yield _wrong_member(table, modality, offset, end), f"it cannot have such an array as its {modality}"


def _wrong_member(table: pa.Table, modality: Modality, offset: NDArray[np.int64], end: NDArray[np.int64]) -> Flags:
    first = column(table, f"{modality}_offset", _ABSENT)
    length, width = (column(table, f"{modality}_{name}", _ABSENT) for name in ("length", "width"))
    rate, itemsize = column(table, f"{modality}_rate", _ABSENT), _itemsizes(table, modality)
    there = first != _ABSENT
    whole = (length >= 0) & (width >= 0) & (rate >= 0) & np.isfinite(rate) & (itemsize > 0)
    none = (length == _ABSENT) & (width == _ABSENT) & (rate == _ABSENT) & (itemsize == _ABSENT)
    size = length.astype(np.float64) * np.maximum(width, 1) * itemsize  # of damaged numbers beyond what integers hold
    return np.where(there, ~whole | _outside(first, size, offset, end), ~none)


def _itemsizes(table: pa.Table, modality: Modality) -> NDArray[np.int64]:
    """Bytes of a value; 0: the type is none of numbers."""
    names = pc.fill_null(table[f"{modality}_dtype"], "")
    known = pc.unique(names)
    sizes = np.array([_itemsize(name) for name in known.to_pylist()], np.int64)
    return sizes[np.asarray(pc.index_in(names, known).to_numpy(), np.int64)]


def _itemsize(name: str) -> int:
    if not name:
        return _ABSENT
    try:
        dtype = np.dtype(name)
    except Exception:  # a type can be written in many ways, and each way of being none has an error of its own
        return 0
    return dtype.itemsize if dtype.name == name and dtype.kind in NUMBERS else 0


def _outside(
    first: NDArray[np.int64], size: NDArray[np.int64 | np.float64], offset: NDArray[np.int64], end: NDArray[np.int64]
) -> Flags:
    return (first < offset) | (size < 0) | (first > end) | (size > end - first)
