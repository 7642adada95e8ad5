"""Whether shards are what they should be: structure, checksums, indexes, repetitions, coverage."""

from __future__ import annotations

import contextlib
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.shards.files import ShardError, Stem, stems
from pipeline.shards.index import IndexRow, read_index, rows_of
from pipeline.shards.recovery import END_OF_TAR, can_be_sealed
from pipeline.shards.remote import remote_url
from pipeline.shards.scan import NO_SAMPLE, describe, difference
from pipeline.shards.tars import Tars


@dataclass
class Problem:
    """Something that is wrong."""

    path: Path
    what: str
    redo: list[str] = field(default_factory=list)
    """The videos whose samples are lost by it."""

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass
class ShardReport:
    """One shard, looked at."""

    stem: Stem
    ids: list[str] = field(default_factory=list)
    """The videos that its index lists. What else it says is not kept: of a million videos it would be gigabytes."""
    damaged: set[str] = field(default_factory=set)
    """Videos whose sample is not what the index says."""
    problems: list[Problem] = field(default_factory=list)

    def add(self, what: str, redo: Collection[str] = ()) -> None:
        """Notes a problem of the tar."""
        self.problems.append(Problem(self.stem.tar, what, sorted(redo)))
        self.damaged.update(redo)


@dataclass
class Report:
    """All shards of a folder, looked at."""

    shards: list[ShardReport]
    problems: list[Problem]
    repeated: dict[str, list[Stem]]
    """Videos that several shards have."""

    @property
    def redo(self) -> list[str]:
        """The videos that have to be extracted again, since no shard has a good sample of them."""
        return sorted({video_id for problem in self.problems for video_id in problem.redo} - self.good)

    @property
    def good(self) -> set[str]:
        """The videos of which a good sample is there."""
        return {video_id for shard in self.shards for video_id in shard.ids if video_id not in shard.damaged}


def sealed_stems(folder: Path) -> list[Stem]:
    """The shards of a folder of which the tar or the index is there, in order of their names."""
    return sorted({*stems(folder, ".tar"), *stems(folder, ".parquet")})


def tar_bytes(stem: Stem) -> int:
    """The size of a shard's tar; of one that is not here: what its index says, if that can be read."""
    if stem.tar.exists():
        return stem.tar.stat().st_size
    with contextlib.suppress(ShardError):
        return int(read_index(stem, ["video_id"]).schema.metadata[b"tar_size"])
    return 0


def verify(folder: Path, workers: int = 4, progress: Callable[[int], None] = lambda size: None) -> Report:
    """Looks at every byte of the sealed shards of a folder.

    Args:
        folder: the shards' folder.
        workers: shards looked at at once.
        progress: called with the bytes of each shard that is done.
    """

    def check(stem: Stem) -> ShardReport:
        report = check_shard(stem)
        progress(tar_bytes(stem))
        return report

    sealed = sealed_stems(folder)
    with ThreadPoolExecutor(workers) as pool:
        shards = list(pool.map(check, sealed))
    where: dict[str, list[Stem]] = defaultdict(list)
    for shard in shards:
        for video_id in shard.ids:
            where[video_id].append(shard.stem)
    repeated = {video_id: found for video_id, found in where.items() if len(found) > 1}
    problems = [problem for shard in shards for problem in shard.problems]
    problems += [
        Problem(found[1].tar, f"repeats {video_id}, which {found[0].tar.name} has")
        for video_id, found in sorted(repeated.items())
    ]
    return Report(shards, problems, repeated)


def check_shard(stem: Stem) -> ShardReport:
    """Looks at one sealed shard: its index against every byte of its tar."""
    report = ShardReport(stem)
    if not stem.index.exists():
        if not stem.journal.exists():
            report.add("has no index")
        elif not can_be_sealed(stem):
            report.add("has lost some of what its journal lists, and no index yet; repair gives it the rest back")
        return report
    try:
        table = read_index(stem)
    except ShardError as error:
        report.problems.append(Problem(stem.index, str(error).removeprefix(f"{stem.index}: ")))
        return report
    rows = rows_of(table)
    report.ids = [row.video_id for row in rows]
    elsewhere = remote_url(stem.folder) is not None
    if not elsewhere and not stem.tar.exists():
        report.add("is gone, its index is there", report.ids)
        return report
    for what, redo in _check_tar(stem, rows, int(table.schema.metadata[b"tar_size"])):
        report.add(what, redo)
    return report


def _check_tar(stem: Stem, rows: list[IndexRow], expected_size: int) -> Iterator[tuple[str, list[str]]]:
    tar = Tars([stem.tar], [-1])
    try:
        size = tar.size(0)
    except ShardError as error:
        yield error.why, [row.video_id for row in rows]
        return
    if size != expected_size:
        yield f"has {size} bytes, its index was made for {expected_size}", []
    end = 0
    for row in rows:
        if row.offset != end:
            yield f"{row.video_id} begins at byte {row.offset}, the sample before it ends at {end}", []
        end = row.end
        wrong = "is cut off" if end > size else _check_sample(tar, row)
        if wrong:
            yield f"{row.video_id} at byte {row.offset}: {wrong}", [row.video_id]
    if size != end + len(END_OF_TAR) or not _ends_at(tar, end):
        yield f"does not end after its last sample, at byte {end}", []


def _check_sample(tar: Tars, row: IndexRow) -> str | None:
    try:
        data = tar.read(0, row.offset, row.size)
        if zlib.crc32(data) != row.checksum:
            return "its checksum is wrong"
        return difference(row, describe(data, row.checksum))
    except ShardError as error:
        return error.why or str(error)
    except NO_SAMPLE as error:
        return str(error)


def _ends_at(tar: Tars, end: int) -> bool:
    try:
        return tar.read(0, end, len(END_OF_TAR)) == END_OF_TAR
    except ShardError:
        return False
