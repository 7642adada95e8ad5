"""Mending shards: what is good stays, what is not leaves, and is named so that it can be made again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import InputError
from pipeline.replacing import sync_folder
from pipeline.shards.files import NewerFormatError, ShardError, Stem, WriterLock, stems, write_all
from pipeline.shards.index import IndexRow, read_index, rows_of, write_index
from pipeline.shards.recovery import END_OF_TAR, seal_leftovers
from pipeline.shards.remote import remote_url
from pipeline.shards.scan import scan
from pipeline.shards.verify import ShardReport, verify
from pipeline.wording import counted


@dataclass
class Repairs:
    """What was done."""

    done: list[str] = field(default_factory=list)
    redo: list[str] = field(default_factory=list)
    """Videos whose samples are lost: the next extraction makes them again, since no index lists them any more."""


def repair(folder: Path, workers: int = 4) -> Repairs:
    """Mends a folder so that :func:`verify` finds nothing.

    Unsealed shards are sealed; an index that is missing, unreadable or of another tar is made again from the tar;
    damaged and repeated samples are taken out. It can be stopped at any time and started again.

    Raises:
        InputError: another process is writing, or the tars are elsewhere.
        NewerFormatError: a newer version wrote some of it, of which nothing is changed.
    """
    url = remote_url(folder)
    if url is not None:
        raise InputError(f"{folder}: its tars are at {url}; repair the folder that they were uploaded from")
    for stem in stems(folder, ".parquet"):
        _refuse_newer(stem)
    repairs = Repairs()
    repairs.done += [f"{path}: sealed" for path in seal_leftovers(folder)]
    for leftover in sorted([*folder.glob("*.tar.new"), *folder.glob("*.parquet.new")]):
        leftover.unlink()
        repairs.done.append(f"{leftover}: removed, a write that a crash cut off")
    report = verify(folder, workers)
    kept: set[str] = set()
    for shard in report.shards:
        lock = WriterLock(folder, shard.stem.name, shard.stem.writer, wait=0)
        try:
            repairs.done += _mend(shard, kept)
        finally:
            lock.release()
    repairs.redo = sorted({video_id for shard in report.shards for video_id in shard.ids} - kept)
    return repairs


def _refuse_newer(stem: Stem) -> None:
    try:
        read_index(stem, ["video_id"])
    except NewerFormatError:
        raise
    except ShardError:
        pass  # it is made again


def _mend(shard: ShardReport, kept: set[str]) -> Iterator[str]:
    stem = shard.stem
    if not stem.tar.exists():
        stem.index.unlink()
        yield f"{stem.index}: removed, its tar is gone"
        return
    if not shard.problems and kept.isdisjoint(shard.ids) and len(set(shard.ids)) == len(shard.ids):
        kept.update(shard.ids)
        return
    rows = _indexed_rows(stem)
    if shard.problems:
        # an index may be of another tar: what the tar itself says decides, and the index's checksum of a sample where
        # it is of this size; one of another size was made of other features of that video
        checksums = {(row.video_id, row.size): row.checksum for row in rows}
        rows = []
        for found in scan(stem.tar):
            if isinstance(found, str):
                yield f"{stem.tar}: {found}"
            elif found.checksum == checksums.get((found.video_id, found.size), found.checksum):
                rows.append(found)
    good = []
    for row in rows:
        if row.video_id not in kept:
            good.append(row)
            kept.add(row.video_id)
    rewrite(stem, good)
    yield f"{stem.tar}: " + (
        f"made again with its {counted(len(good), 'good sample')}" if good else "removed, nothing stays"
    )


def _indexed_rows(stem: Stem) -> list[IndexRow]:
    try:
        return rows_of(read_index(stem))
    except ShardError:
        return []


def rewrite(stem: Stem, rows: Sequence[IndexRow]) -> None:
    """Makes a sealed shard again of some of its samples; of none: removes it.

    After a crash between the two renames the tar is whole and its index is of the old one, which :func:`repair` mends.
    """
    if not rows:
        stem.index.unlink(missing_ok=True)
        stem.tar.unlink()
        sync_folder(stem.folder)
        return
    beside = stem.tar.with_name(stem.tar.name + ".new")
    moved: list[IndexRow] = []
    with stem.tar.open("rb") as old, beside.open("wb") as new:
        for row in rows:
            write_all(new.fileno(), os.pread(old.fileno(), row.size, row.offset))
            moved.append(row.moved((moved[-1].end if moved else 0) - row.offset))
        write_all(new.fileno(), END_OF_TAR)
        os.fsync(new.fileno())
    beside.replace(stem.tar)
    sync_folder(stem.folder)
    write_index(stem, moved)
