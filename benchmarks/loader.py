"""The training loader against the published way of loading, and against the disk.

    python benchmarks/loader.py                          # a size that a laptop holds: 384 videos, 5.6 GB
    python benchmarks/loader.py --videos 1200 --workers 8 --json loader.json

Videos of 6.5 minutes with the features of the `mft` recipe are made up, and written as shards and as the published
programs' files. The baseline reads those files as MFT's program does: a Dataset that loads a video's three `npz` files
whole, draws the same ten windows, makes float32 tensors and looks words up one by one; a DataLoader that collates. Ours
is measured twice: `shards`, batches as a device takes them, in their stored types; `tensors`, the same with what the
device does with them done on this CPU, in one thread of the process that trains. All run with the same
number of workers, on a cold page cache (the files are dropped from it before each epoch) and a warm one. The batches
that our workers have ready when an epoch begins are not counted. CPU seconds are those of all processes, so that clips
per CPU second hold on a machine that does other things too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from eight_bits import eight_bits
from machine import children, consume, cpu_seconds, drop, memory_of, warm
from pread import against_pread
from published_loader import BATCH_VIDEOS, SETTINGS, Published, PublishedDataset
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pipeline.config import ClipSettings
from pipeline.shards.files import Stem
from pipeline.shards.foreign.npz_tree import write_tree
from pipeline.shards.index import IndexRow, read_index, rows_of, write_index
from pipeline.shards.loader import TrainingLoader
from pipeline.shards.reader import ShardSet
from pipeline.shards.sample import Sample, encode_captions, to_8bit
from pipeline.shards.writer import ShardWriter
from pipeline.training.batches import to_device
from pipeline.training.memory import keep_freed_memory
from pipeline.training.text import WordTable
from pipeline.types import Caption

SECONDS = 390
VOCABULARY = 5000


def make_shards(folder: Path, videos: int, audio: str) -> ShardSet:
    """Made-up videos with the sizes and rates of ResNet-152, 3D ResNeXt-101 and log-mel features."""
    generator = np.random.default_rng(0)
    captions = [Caption(float(start), start + 3.2, "") for start in np.arange(0, SECONDS - 4, 3.6)]
    with ShardWriter(folder, "bench", "w0", 300_000_000) as writer:
        for number in range(videos):
            text, offsets = encode_captions(captions, lambda _: generator.integers(0, VOCABULARY, 6, np.int32))
            spectrogram = generator.uniform(-80, 0, (SECONDS * 100, 40)).astype(np.float16)
            arrays: dict[Any, Any] = {
                "text": text,
                "2d": np.abs(generator.standard_normal((SECONDS, 2048), np.float32)).astype(np.float16),
                "3d": np.abs(generator.standard_normal((SECONDS * 3 // 2, 2048), np.float32)).astype(np.float16),
                "audio": to_8bit(spectrogram) if audio == "8bit" else spectrogram,
            }
            rates = {"2d": 1.0, "3d": 1.5, "audio": 100.0}
            writer.add(Sample(f"video{number:06d}", float(SECONDS), captions, arrays, rates, offsets))
    return ShardSet(folder)


class Ours:
    """Batches of the loader, as a device takes them: bytes as they are stored, which the device makes tensors of."""

    def __init__(self, shards: ShardSet, workers: int):
        self.loader = TrainingLoader(shards, SETTINGS, BATCH_VIDEOS, seed=1, workers=workers)
        self.ahead = 2 * workers

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        yield from self.loader

    def close(self) -> None:
        """Ends the workers."""
        self.loader.close()


class OursAsTensors(Ours):
    """The same, as the network takes them: this process does on the CPU what a GPU would do."""

    def __init__(self, shards: ShardSet, workers: int, vectors: np.ndarray):
        super().__init__(shards, workers)
        self.words = WordTable(vectors, torch.device("cpu"))

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        for batch in self.loader:
            yield to_device(batch, self.words, self.words.vectors.device)


def measure(batches: Published | Ours, epochs: int, before: Callable[[], None]) -> dict[str, float]:
    """Clips per second and CPU second over some epochs, after one that starts the workers."""
    consume(batches)
    seconds = cpu = clips = 0.0
    for _ in range(epochs):
        before()
        stream = iter(batches)
        consume(islice(stream, batches.ahead))
        started, started_cpu = time.perf_counter(), cpu_seconds()
        for batch in stream:
            clips += len(batch["audio"])
        seconds += time.perf_counter() - started
        cpu += cpu_seconds() - started_cpu
    batches.close()
    return {"clips/s": clips / seconds, "clips/CPU s": clips / cpu}


def against_the_published(
    shards: ShardSet, tree: Path, workers: list[int], vectors: np.ndarray, epochs: int
) -> list[dict[str, Any]]:
    """Clips per second of the published way, of the loader alone, and of the loader with the device's part.

    The published way comes first, since ours is in a process that keeps freed memory, as ``pipeline.train`` does.
    """
    dataset = PublishedDataset(tree, shards, {f"word{number}": vector for number, vector in enumerate(vectors)})
    ways: dict[str, Callable[[int], Published | Ours]] = {
        "published": partial(Published, dataset),
        "shards": partial(Ours, shards),
        "tensors": partial(OursAsTensors, shards, vectors=vectors),
    }
    rows: list[dict[str, Any]] = [{"workers": count, "cache": cache} for count in workers for cache in ("cold", "warm")]
    for way, make in ways.items():
        if way != "published":
            keep_freed_memory()
        for row in rows:
            folder = tree if way == "published" else shards.folder
            before = partial(drop if row["cache"] == "cold" else warm, folder)
            row[way] = measure(make(row["workers"]), epochs, before)
    for row in rows:
        for way in ("shards", "tensors"):
            row[f"{way} ×"] = row[way]["clips/s"] / row["published"]["clips/s"]
            row[f"{way} × per CPU"] = row[way]["clips/CPU s"] / row["published"]["clips/CPU s"]
    return rows


def large_index(folder: Path, shards: ShardSet, videos: int) -> ShardSet:
    """An index of many videos: the same tar over and over under other names."""
    stem = shards.stems[0]
    rows = rows_of(read_index(stem))
    for number in range(-(-videos // len(rows))):
        copy = Stem(folder, "large", "w0", number)
        os.link(stem.tar, copy.tar)
        renamed = [IndexRow(**{**vars(row), "video_id": f"{row.video_id}-{number:06d}"}) for row in rows]
        write_index(copy, renamed)
    return ShardSet(folder)


def resume(folder: Path, batch_videos: int, step: int) -> dict[str, float]:
    """Seconds to open the index and to have the first batch from a step in the middle of an epoch."""
    started = time.perf_counter()
    shards = ShardSet(folder)
    opened = time.perf_counter()
    loader = TrainingLoader(shards, SETTINGS, batch_videos, seed=1)
    step = min(step, len(loader) - 1)
    state = loader.state_dict() | {"epoch": 3, "batch": step}
    loader.load_state_dict(state)
    next(iter(loader))
    return {"videos": len(shards), "shards": len(shards.stems), "step": step, "open index s": opened - started,
            "first batch s": time.perf_counter() - opened}  # fmt: skip


def worker_memory(shards: ShardSet, workers: int) -> dict[str, float]:
    """Memory of the main process and what each worker adds, once all have worked."""
    loader = TrainingLoader(shards, ClipSettings(per_video=1), BATCH_VIDEOS, seed=1, workers=workers)
    stream = iter(loader)
    for _ in range(4 * workers):
        next(stream)
    own = [memory_of(child)["Private_Dirty"] + memory_of(child)["Private_Clean"] for child in children()]
    main = memory_of(os.getpid())
    loader.close()
    return {"videos": len(shards), "workers": len(own), "main process MB": main["Pss"] / 1e3,
            "private MB of a worker": max(own) / 1e3, "all workers MB": sum(own) / 1e3}  # fmt: skip


def show(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=title)
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    for name in names:
        table.add_column(name, justify="right")
    for row in flat:
        table.add_row(*(_format(row.get(name, "")) for name in names))
    Console(width=190).print(table)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat.update({f"{name} {key}": part for key, part in value.items() if key != "clips"})
        else:
            flat[name] = value
    return flat


def _format(value: Any) -> str:
    return (
        f"{value:,.2f}"
        if isinstance(value, float) and value < 100
        else f"{value:,.0f}"
        if value != "" and not isinstance(value, str)
        else str(value)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=384)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--index", type=int, default=100_000, help="videos of the large index")
    parser.add_argument("--audio", choices=["8bit", "float16"], default="8bit", help="how shards store spectrograms")
    parser.add_argument("--folder", type=Path, help="where to put the files; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        shards = make_shards(folder / "shards", arguments.videos, arguments.audio)
        write_tree(shards, folder / "tree")
        vectors = np.random.default_rng(1).standard_normal((VOCABULARY, 300)).astype(np.float32)
        results: dict[str, Any] = {}
        results["published"] = against_the_published(
            shards, folder / "tree", arguments.workers, vectors, arguments.epochs
        )
        show("Clips per second against the published way", results["published"])
        results["pread"] = against_pread(shards, arguments.epochs)
        show("Bytes per second against pread alone of the same ranges", results["pread"])
        (folder / "large").mkdir()
        large = large_index(folder / "large", shards, arguments.index)
        results["resume"] = [resume(folder / "large", 8, 10_000)]
        show("Resuming", results["resume"])
        results["memory"] = [worker_memory(large, 8)]
        show("Memory", results["memory"])
        results["8bit"] = eight_bits()
        show("8-bit spectrograms, three networks with random weights", results["8bit"])
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
