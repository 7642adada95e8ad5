"""What became of each video: append-only Parquet parts, of which the latest row per video and stage counts.

Only a verb's driver writes. Each part is written beside and renamed, so that a reader sees whole parts only.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.acquire.locks import only_one
from pipeline.errors import InputError
from pipeline.replacing import replace_file
from pipeline.types import without_surrogates

SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("stage", pa.string()),
        ("outcome", pa.string()),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("attempts", pa.int32()),
        ("bytes", pa.int64()),
        ("seconds", pa.float64()),
        ("host", pa.string()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("recipe", pa.string()),
    ]
)
MANY_PARTS = 64
"""More parts than this are merged into one."""


def now() -> datetime:
    """The time, as the ledger notes it."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class LedgerRow:
    """What became of one video in one stage."""

    video_id: str
    stage: str
    """``download`` or ``extract``."""
    outcome: str
    """``done``, ``failed`` or ``skipped``."""
    reason: str | None = None
    """One of :data:`pipeline.acquire.reasons.REASONS`; None when done."""
    message: str = ""
    attempts: int = 1
    bytes: int = 0
    """Bytes fetched or read."""
    seconds: float = 0.0
    host: str = field(default_factory=socket.gethostname)
    at: datetime = field(default_factory=now)
    """When it ended."""
    recipe: str | None = None
    """Fingerprint of the settings under which extraction failed: under others the video may be of use."""
    closed_source: str | None = None
    """Of what was skipped, the source that is not asked any more; it is not stored."""


class Ledger:
    """The ledger of a manifest.

    Args:
        folder: by custom ``manifests/<name>.ledger``; made when the first row is written.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._numbers = itertools.count()

    def append(self, rows: Sequence[LedgerRow]) -> None:
        """Adds rows as one new part; they are on disk when this returns."""
        if not rows:
            return
        columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
        columns["message"] = [text and without_surrogates(text) for text in columns["message"]]
        self._write(pa.table(columns, schema=SCHEMA))
        if len(self._parts()) > MANY_PARTS:
            self._merge()

    def latest(self, stage: str) -> dict[str, LedgerRow]:
        """The row that counts for each video of a stage."""
        rows = self.latest_table(stage).to_pylist()
        return {row["video_id"]: LedgerRow(**row) for row in rows}

    def latest_table(self, stage: str) -> pa.Table:
        """The rows that count as a table of the ledger's columns: a million of them in about a second."""
        return self.latest_of(self.rows(), stage)

    @staticmethod
    def latest_of(rows: pa.Table, stage: str) -> pa.Table:
        """The rows that count for a stage among all of a ledger's :meth:`rows`."""
        table = rows.filter(pc.equal(rows["stage"], stage))
        if not table.num_rows:
            return table
        ids = table["video_id"].combine_chunks().dictionary_encode()
        codes = ids.indices.to_numpy()
        order = np.argsort(table["at"].to_numpy(), kind="stable")
        last = np.empty(len(ids.dictionary), np.int64)
        last[codes[order]] = order  # of equal indices the last assignment, thus the latest row, stays
        counts = np.zeros(len(table), bool)
        counts[last] = True
        return table.filter(pa.array(counts))  # take would lay all messages end to end, of which 2 GiB are too many

    def rows(self) -> pa.Table:
        """All rows of all stages, oldest part first."""
        for _ in range(10):
            try:
                tables = [pq.read_table(path, schema=SCHEMA) for path in self._parts()]
                return pa.concat_tables(tables) if tables else SCHEMA.empty_table()
            except FileNotFoundError:
                continue  # merged by the driver meanwhile
            except (pa.ArrowInvalid, OSError) as error:
                raise InputError(
                    f"{self.folder}: a part of the ledger cannot be read ({error}); move it away"
                ) from None
        raise InputError(f"{self.folder}: its parts change faster than they can be read")

    def _parts(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*.parquet") if not path.name.startswith("."))

    def _write(self, table: pa.Table) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Parts sort by time; host, process and number keep two drivers apart.
        name = f"{time.time_ns():020d}-{socket.gethostname()}-{os.getpid()}-{next(self._numbers)}.parquet"
        unfinished = self.folder / f".{name}.part"
        replace_file(self.folder / name, lambda part: pq.write_table(table, part, compression="zstd"), unfinished)
        return self.folder / name

    def _merge(self) -> None:
        """Makes one part of many. Killed in between, rows stand twice, which changes nothing."""
        with only_one(self.folder / ".merging") as mine:
            if not mine:
                return
            parts = self._parts()
            self._write(pa.concat_tables([pq.read_table(path, schema=SCHEMA) for path in parts]))
            for path in parts:
                path.unlink()
