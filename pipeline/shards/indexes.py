"""All indexes of a folder at once, and a copy of them that opens in no time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.replacing import replace_file
from pipeline.shards.files import FORMAT_VERSION, Stem
from pipeline.shards.index import SCHEMA, load_index, read_index
from pipeline.shards.index_checks import first_wrong

COPY = ".indexes.arrow"
_WORTH_A_COPY = 64
_AT_ONCE = 64
"""Indexes that a thread reads one after the other: handing out each by itself costs more than reading it."""


def read_indexes(folder: Path, stems: Sequence[Stem]) -> tuple[pa.Table, list[int]]:
    """The indexes one behind the other, with the column ``shard``, a position in ``stems``; and the tars' sizes.

    Of many shards a copy is left in the folder, if that can be written, and taken as long as every index is the same
    file as when the copy was made.

    Raises:
        ShardError: an index cannot be read.
    """
    if len(stems) < _WORTH_A_COPY:
        return _read_all(stems)
    state = _state(stems)
    with contextlib.suppress(OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        with pa.memory_map(str(folder / COPY)) as file:
            table = pa.ipc.open_file(file).read_all()
        if table.schema.metadata[b"state"].decode() == state:
            return table, json.loads(table.schema.metadata[b"tar_sizes"])
    table, sizes = _read_all(stems)
    with contextlib.suppress(OSError):  # the folder may be someone else's
        _write(folder, table.replace_schema_metadata({"state": state, "tar_sizes": json.dumps(sizes)}))
    return table, sizes


def _state(stems: Sequence[Stem]) -> str:
    """What changes when an index is written, replaced, added or removed."""
    digest = hashlib.sha256(f"{FORMAT_VERSION} {SCHEMA.names}".encode())
    for stem in stems:
        found = stem.index.stat()
        digest.update(f"\n{stem} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}".encode())
    return digest.hexdigest()


def _read_all(stems: Sequence[Stem]) -> tuple[pa.Table, list[int]]:
    groups = [stems[first : first + _AT_ONCE] for first in range(0, len(stems), _AT_ONCE)]
    with ThreadPoolExecutor() as pool:
        found = [
            index for group in pool.map(lambda group: [load_index(stem) for stem in group], groups) for index in group
        ]
    tables, sizes = [table for table, _ in found], [size for _, size in found]
    lengths = [len(table) for table in tables]
    shard = np.repeat(np.arange(len(tables), dtype=np.int32), lengths)
    table = pa.concat_tables(tables, promote_options="default").append_column("shard", pa.array(shard))
    table = table.combine_chunks()
    if not _sound(table, np.repeat(np.array(sizes, np.int64), lengths)):
        for stem in stems:
            read_index(stem)  # raises, and names the one that is damaged
    return table, sizes


def _sound(table: pa.Table, tar_sizes: NDArray[np.int64]) -> bool:
    """Whether :func:`read_index` would take each: of all at once it costs a fraction."""
    try:
        table.validate(full=True)
    except pa.ArrowException:
        return False
    return first_wrong(table, tar_sizes) is None


def _write(folder: Path, table: pa.Table) -> None:
    def write(part: Path) -> None:
        with pa.OSFile(str(part), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)

    replace_file(folder / COPY, write, folder / f"{COPY}.tmp{os.getpid()}")
