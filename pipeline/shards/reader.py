"""Reading sealed shards: whole samples, or a few steps of an array, by offset."""

from __future__ import annotations

import contextlib
import logging
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.shards.files import Stem, no_folder, one_line, stems
from pipeline.shards.index import IndexRow, Member, rows_of
from pipeline.shards.indexes import read_indexes
from pipeline.shards.recovery import leftovers
from pipeline.shards.sample import Sample, decode_array, decode_json
from pipeline.shards.tars import Tars
from pipeline.wording import counted

log = logging.getLogger(__name__)


class ShardSet:
    """The sealed shards of a folder.

    Attributes:
        folder: the folder.
        stems: its shards, in order of their names.
        table: the indexes one behind the other, with the column ``shard``, a position in ``stems``. A video that
            several shards have appears once, as the first of them has it.
        repeated: how many samples were left out for that.
        unindexed: sealed shards whose index is missing: nothing of them is here, which a warning says.
        tars: reads their bytes.
    """

    def __init__(self, folder: Path, warn: bool = True):
        """Reads the indexes.

        Args:
            folder: the shards'.
            warn: whether to warn of what is left out; of many processes that read the same folder one is enough.

        Raises:
            InputError: no sealed shard is there (the message says what to run), or an index cannot be read.
        """
        self.folder = Path(folder)
        self.unindexed = unindexed(self.folder)
        self.stems = stems(self.folder, ".parquet") if self.folder.is_dir() else []
        if not self.stems:
            raise InputError(_nothing(self.folder, self.unindexed))
        if self.unindexed and warn:
            log.warning("left out: %s", _without_index(self.folder, self.unindexed))
        table, sizes = read_indexes(self.folder, self.stems)
        self._numbers: dict[str, int] = {}
        for video_id in table["video_id"].to_pylist():
            self._numbers.setdefault(video_id, len(self._numbers))
        self.repeated = len(table) - len(self._numbers)
        if self.repeated:
            first = pc.index_in(pa.array(list(self._numbers)), table["video_id"])
            table = table.take(first).combine_chunks()
        self.table = table
        self.tars = Tars([stem.tar for stem in self.stems], sizes)

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, video_id: object) -> bool:
        return video_id in self._numbers

    @property
    def ids(self) -> list[str]:
        """The videos, shard by shard in the order in which they were written."""
        return list(self._numbers)

    def number(self, video_id: str) -> int:
        """A video's row in ``table``; raises KeyError."""
        return self._numbers[video_id]

    @property
    def words(self) -> int:
        """How many ids ``words.parquet`` has; as many as there can be, where it is not there or not to be read."""
        with contextlib.suppress(OSError, pa.ArrowException):
            return int(pq.read_metadata(self.folder / "words.parquet").num_rows)
        return 1 << 31

    def row(self, number: int) -> IndexRow:
        """One row of the index."""
        return rows_of(self.table.slice(number, 1))[0]

    def shard(self, number: int) -> int:
        """Which of ``stems`` has row ``number``."""
        return int(self.table["shard"][number].as_py())

    def read(self, video_id: str, arrays: bool = True, check: bool = False) -> Sample:
        """A whole sample; without ``arrays`` only what its JSON says; with ``check`` compared with its checksum.

        Raises:
            KeyError: no shard has it.
            ShardError: the shard is damaged.
        """
        number = self.number(video_id)
        row = self.row(number)
        if check and zlib.crc32(self.read_bytes(number, row.offset, row.size)) != row.checksum:
            raise self.tars.damaged(self.shard(number), f"the checksum of {video_id} is wrong")
        sample = self.read_json(number, row)
        if arrays:
            sample.arrays = {name: self.read_steps(number, member) for name, member in row.members.items()}
        return sample

    def read_json(self, number: int, row: IndexRow) -> Sample:
        """The sample of ``row`` without its arrays."""
        data = self.read_bytes(number, row.json_offset, row.json_size)
        try:
            sample = decode_json(data)
        except (ValueError, KeyError, TypeError) as error:
            why = f"the JSON of {row.video_id} cannot be read: {one_line(error)}"
            raise self.tars.damaged(self.shard(number), why) from None
        if sample.video_id != row.video_id:
            raise self.tars.damaged(self.shard(number), f"has {sample.video_id} where its index says {row.video_id}")
        return sample

    def read_steps(self, number: int, member: Member, first: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Steps ``first`` to ``stop`` of an array, ``[stop - first, width]``, and not a byte more."""
        stop = member.length if stop is None else min(stop, member.length)
        first = min(max(first, 0), stop)
        step = np.dtype(member.dtype).itemsize * (member.width or 1)
        data = self.read_bytes(number, member.offset + first * step, (stop - first) * step)
        return decode_array(data, member, stop - first)

    def read_bytes(self, number: int, offset: int, size: int) -> bytearray:
        """Bytes of the shard that has row ``number``; raises ShardError."""
        return self.tars.read(self.shard(number), offset, size)


def unindexed(folder: Path) -> list[Stem]:
    """The sealed shards whose index is missing; one that has a journal is on its way to being sealed."""
    # in this order: what is sealed meanwhile is not taken for one of them
    tars, journals = stems(folder, ".tar"), set(stems(folder, ".journal"))
    indexed = set(stems(folder, ".parquet"))
    return [stem for stem in tars if stem not in journals and stem not in indexed]


def _without_index(folder: Path, found: list[Stem]) -> str:
    more = f" (and of {counted(len(found) - 1, 'other')})" if len(found) > 1 else ""
    return f"{found[0].tar}: its index{more} is missing; make it again: python -m pipeline.shards repair {folder}"


def _nothing(folder: Path, without_index: list[Stem]) -> str:
    if not folder.is_dir():
        return no_folder(folder)
    unsealed = sum(1 for _ in leftovers(folder))
    if unsealed:
        return f"{folder}: no shard is sealed yet ({unsealed} in the making); run the same pipeline.extract to its end"
    if without_index:
        return _without_index(folder, without_index)
    return f"{folder}: holds no shards; make them with python -m pipeline.extract"
