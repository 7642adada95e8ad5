"""Writing shards such that a crash at any moment loses and repeats nothing.

A sample counts once its bytes and then its line in the journal are on disk. What follows the last counted sample is
cut off by the next writer of the same name, which goes on from there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from pipeline.replacing import sync_folder
from pipeline.shards.files import Stem, WriterLock, check_writer, naming, stems, write_all
from pipeline.shards.index import IndexRow, journal_line, read_index
from pipeline.shards.recovery import END_OF_TAR, counted_rows, finish_sealing
from pipeline.shards.sample import Sample, encode


class ShardWriter:
    """Writes one writer's shards ``<folder>/<name>-<writer>-000000.tar``, ``-000001.tar``...

    As a context manager it seals the last shard at the end, but after an exception it leaves it as it is: the next
    writer of the same name goes on with it.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        writer: str,
        shard_bytes: int = 1_000_000_000,
        wait: float = 10.0,
        on_seal: Callable[[], None] = lambda: None,
    ):
        """Opens the writer, and recovers what a killed one of the same name left.

        Args:
            folder: the shards' folder; made if it is not there.
            name: the data set's name.
            writer: which of several writers this is; letters, digits and ``_``.
            shard_bytes: a shard is sealed once it is this large.
            wait: seconds to wait for another process that still writes as ``writer``.
            on_seal: called when a shard was sealed.

        Raises:
            InputError: another process still writes as ``writer``.
            OSError: the disk is full, or fails.
        """
        check_writer(writer)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.name = name
        self.writer = writer
        self.shard_bytes = shard_bytes
        self._on_seal = on_seal
        self._rows: list[IndexRow] = []
        self._sealed: set[str] = set()
        self._part = self._journal = -1
        self._journal_size = 0
        self._recovered = False
        self._lock = WriterLock(folder, name, writer, wait)
        try:
            self._recover()
        except BaseException:
            self.abandon()
            raise

    @property
    def completed(self) -> set[str]:
        """The samples that count, of this writer: added now, or recovered when it was opened."""
        return self._sealed | {row.video_id for row in self._rows}

    def add(self, sample: Sample) -> None:
        """Adds a sample; when this returns, the sample is on disk and counts.

        Raises:
            ValueError: the sample is not what a shard can hold, or this writer has it already.
            OSError: the disk is full, or fails. The sample does not count; those before it do.
        """
        if sample.video_id in self._sealed or any(row.video_id == sample.video_id for row in self._rows):
            raise ValueError(f"{sample.video_id} is already in the shards of writer {self.writer}")
        data, row = encode(sample)
        try:
            self._make_ready()
            row = row.moved(self._end)
            line = journal_line(row)
            with naming(self._stem.part):
                write_all(self._part, data)
                os.fsync(self._part)
            with naming(self._stem.journal):
                write_all(self._journal, line)
                os.fsync(self._journal)
            self._journal_size += len(line)
            self._rows.append(row)
            if self._end >= self.shard_bytes:
                self._seal()
        except BaseException:
            # what the files hold now is as uncertain as after a crash, and mended in the same way
            self._close_files()
            self._recovered = False
            raise

    def close(self) -> None:
        """Seals the last shard; a shard without samples is removed."""
        try:
            if not self._recovered:
                self._recover()
            if self._part >= 0:
                self._seal()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Stops without sealing; a later writer of the same name goes on with the shard."""
        self._close_files()
        self._lock.release()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    @property
    def _end(self) -> int:
        return self._rows[-1].end if self._rows else 0

    def _mine(self, suffix: str) -> list[Stem]:
        return [stem for stem in stems(self.folder, suffix) if (stem.name, stem.writer) == (self.name, self.writer)]

    def _next_stem(self) -> Stem:
        """The shard after all that are there, whatever their state and in whatever order they came."""
        taken = [stem.number for suffix in (".tar", ".tar.part", ".journal", ".parquet") for stem in self._mine(suffix)]
        return Stem(self.folder, self.name, self.writer, max(taken, default=-1) + 1)

    def _recover(self) -> None:
        """Finishes what a crash left half sealed, and opens the shard in the making if there is one."""
        for stem in self._mine(".journal"):
            if stem.tar.exists():
                finish_sealing(stem)
        for stem in self._mine(".tar.part"):
            # a journal is made before its part: without one nothing of the part counts
            if not stem.journal.exists():
                stem.part.unlink()
        sealed = self._mine(".parquet")
        self._rows = []
        self._sealed = {video_id for stem in sealed for video_id in read_index(stem, ["video_id"])[0].to_pylist()}
        for stem in self._mine(".journal"):
            if self._part >= 0:
                self._seal()
            self._stem = stem
            self._open()
        if self._part < 0:
            self._stem = self._next_stem()
        self._recovered = True

    def _make_ready(self) -> None:
        if not self._recovered:
            self._recover()
        if self._part < 0:
            self._open()

    def _open(self) -> None:
        """Opens the shard in the making, cut back to its last counted sample."""
        stem = self._stem
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            self._journal = os.open(stem.journal, flags, 0o644)
            self._part = os.open(stem.part, flags, 0o644)
            self._rows, self._journal_size = counted_rows(stem)
            with naming(stem.part):
                os.ftruncate(self._part, self._end)
                os.fsync(self._part)
            with naming(stem.journal):
                os.ftruncate(self._journal, self._journal_size)
                if not self._journal_size:
                    head = journal_line(None)
                    write_all(self._journal, head)
                    self._journal_size = len(head)
                os.fsync(self._journal)
            sync_folder(stem.folder)
        except BaseException:
            self._close_files()
            raise

    def _seal(self) -> None:
        if self._rows:
            with naming(self._stem.part):
                write_all(self._part, END_OF_TAR)
                os.fsync(self._part)
            self._stem.part.replace(self._stem.tar)
            sync_folder(self.folder)
            self._close_files()
            finish_sealing(self._stem)
            self._sealed |= {row.video_id for row in self._rows}
            self._rows = []
            self._stem = self._next_stem()
            self._on_seal()
        else:
            self._close_files()
            self._stem.part.unlink()
            self._stem.journal.unlink()
            sync_folder(self.folder)

    def _close_files(self) -> None:
        for descriptor in (self._part, self._journal):
            if descriptor >= 0:
                os.close(descriptor)
        self._part = self._journal = -1
