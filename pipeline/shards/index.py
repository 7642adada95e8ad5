"""A shard's index: one row per sample, as a Parquet table beside the tar, as lines of a journal before that."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.replacing import replace_file
from pipeline.shards.files import FORMAT_VERSION, NewerFormatError, ShardError, Stem, one_line
from pipeline.types import Modality

MODALITIES: tuple[Modality, ...] = ("text", "2d", "3d", "audio")
"""The arrays of a sample, in the order of its members; each has columns ``<modality>_offset``, ``_length``..."""
NUMBERS = "fiu"
"""The kinds of NumPy types that an array's values may be of."""
TIMES_BYTES = 24
"""Bytes of a caption in ``times``."""
_DIGITS = 18
"""Digits of the largest tar: sums with such numbers do not overflow."""


class Member(NamedTuple):
    """Where a sample's array is."""

    offset: int
    """First byte of the array's values (behind the ``npy`` header), from the start of the tar."""
    length: int
    """Steps in time, or words."""
    width: int
    """Values per step; 0: the array has one dimension."""
    dtype: str
    rate: float
    """Steps per second; 0: not timed."""


@dataclass(frozen=True)
class IndexRow:
    """Where a sample is in its tar, and what one must know of it before reading it."""

    video_id: str
    offset: int
    """First byte of the sample, a member's header."""
    size: int
    """Bytes, headers and padding included."""
    checksum: int
    """CRC-32 of these bytes."""
    json_offset: int
    json_size: int
    duration: float
    captions: int
    split: str
    members: dict[Modality, Member] = field(default_factory=dict)
    times_offset: int | None = None
    """First value of the captions' times; None: there are none, or a program wrote it that knew no such member."""

    @property
    def end(self) -> int:
        """The byte after the sample's last."""
        return self.offset + self.size

    def moved(self, by: int) -> IndexRow:
        """The row of the same sample ``by`` bytes further on."""
        return dataclasses.replace(
            self,
            offset=self.offset + by,
            json_offset=self.json_offset + by,
            members={name: member._replace(offset=member.offset + by) for name, member in self.members.items()},
            times_offset=None if self.times_offset is None else self.times_offset + by,
        )


_PLAIN = [field.name for field in dataclasses.fields(IndexRow) if field.name not in ("members", "times_offset")]
_MEMBER_TYPES = {
    "offset": pa.int64(),
    "length": pa.int32(),
    "width": pa.int32(),
    "dtype": pa.string(),
    "rate": pa.float64(),
}
SCHEMA = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("checksum", pa.uint32(), nullable=False),
        pa.field("json_offset", pa.int64(), nullable=False),
        pa.field("json_size", pa.int32(), nullable=False),
        pa.field("duration", pa.float64(), nullable=False),
        pa.field("captions", pa.int32(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("times_offset", pa.int64()),
        *(pa.field(f"{member}_{name}", kind) for member in MODALITIES for name, kind in _MEMBER_TYPES.items()),
    ]
)


def write_index(stem: Stem, rows: Sequence[IndexRow]) -> None:
    """Writes the index of a sealed shard: it is whole or not there."""
    table = pa.Table.from_pylist([_flat(row) for row in rows], schema=SCHEMA)
    metadata = {"format_version": FORMAT_VERSION, "tar_size": stem.tar.stat().st_size, "samples": len(rows)}
    table = table.replace_schema_metadata({key: str(value) for key, value in metadata.items()})

    def write(part: Path) -> None:
        # a small file is read three times as fast without compression
        pq.write_table(table, part, compression="none", write_page_checksum=True)

    replace_file(stem.index, write, stem.index.with_name(stem.index.name + ".new"))


def load_index(stem: Stem, columns: list[str] | None = None) -> tuple[pa.Table, int]:
    """An index as it is, in the columns of ``SCHEMA``, and the size of the tar it was made for; for :func:`read_index`.

    Raises:
        ShardError: it cannot be read, lacks a column, or is of no version.
        NewerFormatError: a newer version wrote it.
    """
    try:
        table = pq.ParquetFile(stem.index, page_checksum_verification=True).read(columns, use_threads=False)
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        check_version(metadata.get("format_version", "?"), stem.index)
        table = _as_expected(stem, table, SCHEMA if columns is None else pa.schema(map(SCHEMA.field, columns)))
    except (OSError, pa.ArrowException, ValueError, TypeError) as error:
        raise _unreadable(stem, one_line(error)) from None
    size = metadata.get("tar_size", "")
    if not (size.isascii() and size.isdigit() and len(size) <= _DIGITS):
        raise _unreadable(stem, "it does not say the size of its tar")
    if metadata.get("samples", str(len(table))) != str(len(table)):
        raise _unreadable(stem, f"it has {len(table)} samples of {metadata['samples']}")
    return table, int(size)


def _as_expected(stem: Stem, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table in a schema's columns and types, which other programs may have written as similar ones."""
    if table.schema.equals(schema):
        return table
    if "times_offset" in schema.names and "times_offset" not in table.schema.names:
        table = table.append_column("times_offset", pa.nulls(len(table), pa.int64()))  # older shards have none
    for wanted in schema:
        there = table.schema.names.count(wanted.name)
        if there != 1:
            raise _unreadable(stem, f"it {'has twice' if there else 'lacks'} the column {wanted.name}")
        if table[wanted.name].null_count and not wanted.nullable:
            raise _unreadable(stem, f"its column {wanted.name} lacks values")
    metadata = table.schema.metadata
    return table.select(schema.names).cast(schema).replace_schema_metadata(metadata)


def read_index(stem: Stem, columns: list[str] | None = None) -> pa.Table:
    """The index of a sealed shard; its metadata has ``tar_size``, the size of the tar it was made for.

    With all columns, what it says is possible in a tar of that size.

    Raises:
        ShardError: it cannot be read, lacks a column, says what cannot be, or is of no version.
        NewerFormatError: a newer version wrote it.
    """
    from pipeline.shards.index_checks import first_wrong  # which needs what is above

    table, tar_size = load_index(stem, columns)
    try:
        table.validate(full=True)  # texts may be none
    except pa.ArrowException as error:
        raise _unreadable(stem, one_line(error)) from None
    wrong = first_wrong(table, np.full(len(table), tar_size)) if columns is None else None
    if wrong is not None:
        raise _unreadable(stem, f"{table['video_id'][wrong[0]]}: {wrong[1]}")
    return table


def _unreadable(stem: Stem, why: str) -> ShardError:
    return ShardError(
        f"{stem.index}: the index cannot be read ({why}); rebuild it: python -m pipeline.shards repair {stem.folder}"
    )


def rows_of(table: pa.Table) -> list[IndexRow]:
    """The rows of an index as objects."""
    return [_from_flat(values) for values in table.to_pylist()]


def check_version(version: str, path: Path) -> None:
    """Raises ShardError when files of this version cannot be understood, NewerFormatError when a newer program can."""
    if not version.isdigit():
        raise ShardError(f"{path}: does not say its format version; it is not one of this program's files")
    if int(version) > FORMAT_VERSION:
        raise NewerFormatError(f"{path}: format version {version} is not one this program reads; use a newer one")


def _flat(row: IndexRow) -> dict[str, Any]:
    fields = {field.name: getattr(row, field.name) for field in dataclasses.fields(row) if field.name != "members"}
    values = {name: value for name, value in fields.items() if value is not None}
    for name, member in row.members.items():
        values.update({f"{name}_{key}": value for key, value in member._asdict().items()})
    return values


def _from_flat(values: dict[str, Any]) -> IndexRow:
    members = {
        name: Member(*(values[f"{name}_{key}"] for key in Member._fields))
        for name in MODALITIES
        if values.get(f"{name}_offset") is not None
    }
    plain = {name: values[name] for name in _PLAIN}
    return IndexRow(**plain, members=members, times_offset=values.get("times_offset"))


def journal_line(row: IndexRow | None) -> bytes:
    """A line of a journal: a CRC-32 of what follows, and the row as JSON; None: the first line, with the version."""
    values = {"format": FORMAT_VERSION} if row is None else _flat(row)
    body = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def read_journal(path: Path) -> tuple[list[IndexRow], list[int]]:
    """The rows of a journal up to the first line that is not whole, and where the head and each row end in it.

    Raises:
        ShardError: a newer version wrote it.
    """
    rows: list[IndexRow] = []
    ends: list[int] = []
    for number, line in enumerate(_whole_lines(path.read_bytes())):
        values = json.loads(line[9:])
        if number == 0:
            check_version(str(values.get("format")), path)
        else:
            row = _from_flat(values)
            if row.offset != (rows[-1].end if rows else 0):
                break
            rows.append(row)
        ends.append((ends[-1] if ends else 0) + len(line))
    return rows, ends


def _whole_lines(data: bytes) -> Iterable[bytes]:
    for line in data.splitlines(keepends=True):
        body = line[9:-1]
        if not line.endswith(b"\n") or line[:9] != b"%08x " % zlib.crc32(body):
            return
        yield line
