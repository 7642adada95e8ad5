"""What counts after a crash, and what is left to finish."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.replacing import sync_folder
from pipeline.shards.files import ShardError, Stem, WriterLock, stems
from pipeline.shards.index import IndexRow, read_index, read_journal, write_index
from pipeline.shards.remote import remote_url

END_OF_TAR = bytes(1024)
"""Two empty blocks end a tar."""


def counted_rows(stem: Stem) -> tuple[list[IndexRow], int]:
    """The samples of a shard in the making that count, and the bytes of the journal that list them.

    A sample counts when its line of the journal is whole and its bytes are there. Bytes are made durable before their
    line is written, so only a disk that lost what it had promised has a line without its bytes; the last samples are
    therefore compared with their checksums, from the last one back to the first that is whole.
    """
    rows, ends = read_journal(stem.journal)
    with _open_bytes(stem) as data:
        data_size = os.fstat(data.fileno()).st_size
        while rows and (rows[-1].end > data_size or not _whole(data.fileno(), rows[-1])):
            rows.pop()
            ends.pop()
    return rows, ends[-1] if ends else 0


def _open_bytes(stem: Stem) -> BinaryIO:
    """The shard's bytes, whatever their name: a writer may rename them at any time."""
    for path in (stem.part, stem.tar, Path(os.devnull)):
        with contextlib.suppress(FileNotFoundError):
            return path.open("rb")
    raise FileNotFoundError(os.devnull)


def _whole(descriptor: int, row: IndexRow) -> bool:
    return zlib.crc32(os.pread(descriptor, row.size, row.offset)) == row.checksum


def finish_sealing(stem: Stem) -> None:
    """Writes the index of a shard that has its final name, then removes its journal: the last steps of sealing.

    Where the disk has lost some of the tar since it got that name, the shard is one in the making again.
    """
    if not stem.index.exists():
        rows, _ = counted_rows(stem)
        if not _is_of(stem, rows):
            stem.tar.replace(stem.part)
            sync_folder(stem.folder)
            return
        write_index(stem, rows)
    stem.journal.unlink()
    sync_folder(stem.folder)


def can_be_sealed(stem: Stem) -> bool:
    """Whether a shard that has its final name and its journal, but no index, is what the journal says."""
    return _is_of(stem, counted_rows(stem)[0])


def _is_of(stem: Stem, rows: list[IndexRow]) -> bool:
    return bool(rows) and stem.tar.stat().st_size == rows[-1].end + len(END_OF_TAR)


def completed_ids(folder: Path, writer: str | None = None) -> set[str]:
    """The videos whose samples count: those that a sealed index or a journal lists.

    It may be called while writers write. A folder that is not there has none.

    Args:
        folder: the shards' folder.
        writer: only what this writer wrote; None: all writers.

    Raises:
        ShardError: an index cannot be read, or its tar is gone.
    """
    # journals before indexes: a shard that is sealed meanwhile is then seen twice, not never
    completed = unsealed_ids(folder, writer)
    elsewhere = remote_url(folder) is not None
    for stem in _of(writer, stems(folder, ".parquet")):
        if not elsewhere and not stem.tar.exists():
            raise ShardError(f"{stem.tar}: is gone, but its index is there; bring it back, or remove {stem.index}")
        completed.update(read_index(stem, ["video_id"])["video_id"].to_pylist())
    return completed


def unsealed_ids(folder: Path, writer: str | None = None) -> set[str]:
    """The videos whose samples count in a shard in the making."""
    found: set[str] = set()
    for stem in _of(writer, stems(folder, ".journal")):
        with contextlib.suppress(FileNotFoundError):  # it was sealed meanwhile
            found.update(row.video_id for row in counted_rows(stem)[0])
    return found


def _of(writer: str | None, found: list[Stem]) -> list[Stem]:
    return [stem for stem in found if writer in (None, stem.writer)]


def wait_for_writers(folder: Path, wait: float) -> None:
    """Waits until nobody writes into a folder: the workers of a run that was killed live on for a moment.

    What they add in it counts, so :func:`completed_ids` tells all that is done only afterwards.

    Raises:
        InputError: a process still writes after ``wait`` seconds.
    """
    for path in sorted(folder.glob("*.lock")):
        name, _, writer = path.stem.rpartition("-")
        WriterLock(folder, name, writer, wait).release()


def leftovers(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and writer of each shard that is not sealed, each once."""
    found = stems(folder, ".journal") + stems(folder, ".tar.part")
    yield from sorted({(stem.name, stem.writer) for stem in found})


def seal_leftovers(folder: Path, except_writers: Collection[str] = (), wait: float = 10.0) -> list[Path]:
    """Recovers and seals what writers left that will not be opened again.

    Args:
        folder: the shards' folder.
        except_writers: writers to leave alone.
        wait: seconds to wait for a process that still writes.

    Returns:
        the shards that were sealed.

    Raises:
        InputError: another process is writing.
    """
    from pipeline.shards.writer import ShardWriter

    before = set(folder.glob("*.tar"))
    for name, writer in list(leftovers(folder)):
        if writer not in except_writers:
            ShardWriter(folder, name, writer, wait=wait).close()
    return sorted(set(folder.glob("*.tar")) - before)
