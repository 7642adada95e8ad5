"""The loader against the disk: bytes per second beside ``pread`` alone of the same ranges."""

from __future__ import annotations

import os
import time
from functools import partial
from itertools import islice
from typing import Any

from machine import consume, drop
from published_loader import BATCH_VIDEOS, SETTINGS

from pipeline.shards.batches import ClipReader
from pipeline.shards.filling import fill_training_batch
from pipeline.shards.loader import TrainingLoader
from pipeline.shards.reader import ShardSet
from pipeline.shards.tars import Read, Tars


def against_pread(shards: ShardSet, epochs: int) -> list[dict[str, Any]]:
    """Bytes per second of the loader in one process, and of ``pread`` alone of the same ranges in the same order.

    ``pread`` reads into one buffer, which stays in the processor's cache; ``into batches`` to where the loader reads,
    two batches in turn, without which there is no batch.
    """
    ranges: list[tuple[int, Read]] = []
    clips = ClipReader(shards, SETTINGS)
    batches = [clips.layout.allocate(BATCH_VIDEOS * SETTINGS.per_video) for _ in range(2)]
    read_into, read_soon = Tars.read_into, Tars.read_soon

    def noting(self: Tars, tar: int, read: Read) -> None:
        ranges.append((tar, read))
        read_into(self, tar, read)

    def note_epoch(epoch: int) -> None:
        ranges.clear()
        Tars.read_into, Tars.read_soon = noting, lambda self, tar, reads: reads  # type: ignore[method-assign,assignment]
        for place, request in enumerate(islice(loader.plan(epoch, 0), len(loader))):
            fill_training_batch(clips, batches[place % 2], 1, *request)
        Tars.read_into, Tars.read_soon = read_into, read_soon  # type: ignore[method-assign]

    def one_buffer() -> None:
        buffer = memoryview(bytearray(max(size for _, (_, size, _) in ranges)))
        for tar, (offset, size, _) in ranges:
            os.preadv(descriptors[tar], [buffer[:size]], offset)

    def into_batches() -> None:
        for tar, (offset, _, buffers) in ranges:
            os.preadv(descriptors[tar], buffers, offset)

    rows = []
    descriptors = [os.open(stem.tar, os.O_RDONLY) for stem in shards.stems]
    for cache in ("cold", "warm"):
        loader = TrainingLoader(shards, SETTINGS, BATCH_VIDEOS, seed=1)
        consume(loader)
        ways = {"loader": partial(consume, loader), "pread": one_buffer, "into batches": into_batches}
        spent = {name: [0.0, 0.0] for name in ways}
        read = 0
        for epoch in range(1, epochs + 1):
            note_epoch(epoch)
            read += sum(size for _, (_, size, _) in ranges)
            for name, run in ways.items():
                if cache == "cold":
                    drop(shards.folder)
                started, started_cpu = time.perf_counter(), time.process_time()
                run()
                spent[name][0] += time.perf_counter() - started
                spent[name][1] += time.process_time() - started_cpu
        rows.append({"cache": cache, "MB": read / epochs / 1e6, "reads": len(ranges)})
        for name, (seconds, cpu) in spent.items():
            rows[-1] |= {f"{name} MB/s": read / seconds / 1e6, f"{name} MB/CPU s": read / cpu / 1e6}
        for name in ("pread", "into batches"):
            shares = (before / after for before, after in zip(spent[name], spent["loader"], strict=True))
            rows[-1] |= zip((f"share of {name}", f"CPU share of {name}"), shares, strict=True)
    for descriptor in descriptors:
        os.close(descriptor)
    whole = sum(stem.tar.stat().st_size for stem in shards.stems)
    rows.append({"share of the videos' bytes that is read": read / epochs / whole})
    return rows
