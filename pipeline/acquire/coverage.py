"""How far a manifest has come: counts by stage, reason and category, and what a rerun would do.

Everything is done by columns, so that a million videos take a second or two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.acquire.ledger import Ledger
from pipeline.acquire.reasons import REASONS
from pipeline.datasets.table import Manifest

STAGES = ("download", "extract")
PERMANENT = pa.array([reason for reason, (temporary, _) in REASONS.items() if not temporary])
BUCKETS = 24
"""Parts of the time between first and last row in which throughput is counted."""


@dataclass
class StageCoverage:
    """What one stage has done with the videos of a manifest."""

    stage: str
    total: int
    """Videos there are."""
    done: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    """Videos by reason, most frequent first."""
    untried: int = 0
    bytes: int = 0
    seconds: float = 0.0
    """Sum over the videos, whichever ran at once."""
    attempts: int = 0
    first: float | None = None
    """Seconds since 1970 of the first row that counts."""
    last: float | None = None
    per_hour: list[tuple[float, int, int]] = field(default_factory=list)
    """Begin of each part of the time, videos and bytes done per hour in it."""

    @property
    def failed_for_good(self) -> int:
        """Failures that a rerun leaves alone."""
        return sum(count for reason, count in self.failed.items() if not REASONS[reason][0])

    @property
    def failed_for_now(self) -> int:
        """Failures that a rerun tries again."""
        return sum(self.failed.values()) - self.failed_for_good


@dataclass
class Coverage:
    """The whole of it."""

    name: str
    total: int
    stages: dict[str, StageCoverage]
    categories: list[dict[str, Any]]
    """``category``, ``total`` and, by stage, how many are done; largest first."""

    @property
    def next_download(self) -> int:
        """Videos that the next download asks for."""
        return self.stages["download"].untried + self.stages["download"].failed_for_now

    @property
    def next_extract(self) -> int:
        """Videos that are there and not yet extracted, nor failed in it for good."""
        extract = self.stages["extract"]
        return max(self.stages["download"].done - extract.done - extract.failed_for_good, 0)

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        stages = {
            name: {
                **vars(stage),
                "failed_for_good": stage.failed_for_good,
                "failed_for_now": stage.failed_for_now,
            }
            for name, stage in self.stages.items()
        }
        rerun = {"download": self.next_download, "extract": self.next_extract}
        return {
            "name": self.name,
            "total": self.total,
            "stages": stages,
            "categories": self.categories,
            "rerun": rerun,
        }


def coverage(manifest: Manifest, ledger: Ledger) -> Coverage:
    """Counts; rows of the ledger for videos that the manifest does not list are left out."""
    table = manifest.table(["video_id", "category_1"]).combine_chunks()
    ids = table["video_id"].combine_chunks() if table.num_rows else pa.array([], pa.string())
    rows = ledger.rows()
    done: dict[str, pa.Array] = {}
    stages: dict[str, StageCoverage] = {}
    for stage in STAGES:
        latest = ledger.latest_of(rows, stage)
        place = pc.index_in(ids, value_set=latest["video_id"].combine_chunks())
        own = latest.take(place.drop_null())
        stages[stage] = _stage(stage, len(ids), own)
        done[stage] = pc.fill_null(pc.equal(latest["outcome"].take(place), "done"), False)
    return Coverage(manifest.name, len(ids), stages, _categories(table["category_1"], done))


def _stage(stage: str, total: int, rows: pa.Table) -> StageCoverage:
    found = StageCoverage(stage, total, untried=total - rows.num_rows)
    if not rows.num_rows:
        return found
    finished = rows.filter(pc.equal(rows["outcome"], "done"))
    found.done = finished.num_rows
    others = pc.value_counts(rows.filter(pc.equal(rows["outcome"], "failed"))["reason"]).to_pylist()
    counts = {str(one["values"]): int(one["counts"]) for one in others}
    found.failed = dict(sorted(counts.items(), key=lambda item: -item[1]))
    found.bytes = pc.sum(rows["bytes"]).as_py() or 0
    found.seconds = pc.sum(rows["seconds"]).as_py() or 0.0
    found.attempts = pc.sum(rows["attempts"]).as_py() or 0
    at = pc.divide(pc.cast(rows["at"], pa.int64()), 1e6)
    found.first, found.last = pc.min(at).as_py(), pc.max(at).as_py()
    found.per_hour = _per_hour(finished, found.first, found.last)
    return found


def _per_hour(finished: pa.Table, first: float, last: float) -> list[tuple[float, int, int]]:
    span = max(last - first, 1.0) / BUCKETS
    since = pc.subtract(pc.divide(pc.cast(finished["at"], pa.int64()), 1e6), first)
    bucket = pc.min_element_wise(pc.cast(pc.floor(pc.divide(since, span)), pa.int32()), BUCKETS - 1)
    table = pa.table({"bucket": bucket, "bytes": finished["bytes"]})
    sums = table.group_by("bucket").aggregate([("bytes", "count"), ("bytes", "sum")]).to_pylist()
    known = {row["bucket"]: (row["bytes_count"], row["bytes_sum"]) for row in sums}
    hour = 3600 / span
    return [
        (first + span * number, round(known[number][0] * hour), round(known[number][1] * hour))
        if number in known
        else (first + span * number, 0, 0)
        for number in range(BUCKETS)
    ]


def _categories(category: pa.ChunkedArray, done: dict[str, pa.Array]) -> list[dict[str, Any]]:
    names = pc.fill_null(category, "(none)")
    table = pa.table({"category": names, **{stage: pc.cast(column, pa.int32()) for stage, column in done.items()}})
    sums: Sequence[tuple[str, str]] = [(stage, "sum") for stage in done]
    counted = table.group_by("category").aggregate([("category", "count"), *sums]).to_pylist()
    rows = [
        {"category": row["category"], "total": row["category_count"], **{name: row[f"{name}_sum"] for name in done}}
        for row in counted
    ]
    return sorted(rows, key=lambda row: (-row["total"], row["category"]))
