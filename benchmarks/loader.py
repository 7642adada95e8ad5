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
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.config import ClipSettings, ModelSettings
from pipeline.media.logmel import log_mel
from pipeline.models import build_model
from pipeline.shards.batches import ClipReader
from pipeline.shards.files import Stem
from pipeline.shards.filling import fill_training_batch
from pipeline.shards.foreign.npz_tree import write_tree
from pipeline.shards.index import IndexRow, read_index, rows_of, write_index
from pipeline.shards.loader import TrainingLoader
from pipeline.shards.reader import ShardSet
from pipeline.shards.sample import Sample, encode_captions, to_8bit, to_decibels
from pipeline.shards.tars import Read, Tars
from pipeline.shards.writer import ShardWriter
from pipeline.training.batches import to_device
from pipeline.training.memory import keep_freed_memory
from pipeline.training.text import WordTable
from pipeline.types import Caption

SECONDS = 390
VOCABULARY = 5000
SETTINGS = ClipSettings()
BATCH_VIDEOS = 32


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


class Window(NamedTuple):
    """A clip as the published program draws it, one by one."""

    start: float
    end: float
    captions: list[int]
    audio_first: int
    audio_stop: int


def published_window(starts: list[float], ends: list[float], start: float) -> Window:
    """The clip that a random window finds: ours of :mod:`pipeline.shards.clips`, for one at a time."""
    end = start + SETTINGS.seconds
    for time_of in (start, end):
        first = max(0, bisect_left(starts, time_of) - 1)
        if not starts[first] <= time_of <= ends[first]:
            continue
        last, captions = first, [first]
        while ends[last] - starts[first] < SETTINGS.seconds and (first > 0 or last + 1 < len(ends)):
            later = last + 1 < len(ends)
            if first > 0 and not (later and ends[last] - starts[first - 1] > ends[last + 1] - starts[first]):
                first -= 1
                captions.append(first)
            else:
                last += 1
                captions.append(last)
        start, end = starts[first], ends[last]
        sound = (start + SETTINGS.seconds / 2, start + SETTINGS.seconds * 1.5)
        return Window(start, end, captions, *(max(0, (int(one * 16000) - 200) // 160) for one in sound))
    return Window(start, end, [], *(max(0, (int(one * 16000) - 200) // 160) for one in (start, end)))


class PublishedDataset(Dataset[dict[str, Tensor]]):
    """One video's files, loaded whole, as in the published ``HowTo_Dataset``; the same windows as the loader's."""

    def __init__(self, tree: Path, shards: ShardSet, vectors: Mapping[str, np.ndarray]):
        self.tree, self.vectors = tree, vectors
        self.ids = shards.ids
        self.captions = {}
        for video_id in self.ids:
            sample = shards.read(video_id)
            words = [
                [f"word{word}" for word in sample.arrays["text"][first:stop]]
                for first, stop in zip(sample.caption_words, sample.caption_words[1:], strict=False)
            ]
            starts, ends = [caption.start for caption in sample.captions], [caption.end for caption in sample.captions]
            self.captions[video_id] = (starts, ends, words)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        video_id = self.ids[place]
        here = self.tree / video_id
        features_2d = torch.from_numpy(np.load(here / f"{video_id}_2d.npz")["features"]).float()
        features_3d = torch.from_numpy(np.load(here / f"{video_id}_3d.npz")["features"]).float()
        spectrogram = np.load(here / f"{video_id}_spec.npz")["arr_0"]
        starts, ends, words = self.captions[video_id]
        room = int((spectrogram.shape[1] * 160 + 200) / 16000) - SETTINGS.seconds
        shares = np.random.default_rng([1, place]).random(SETTINGS.per_video)
        clips = [published_window(starts, ends, float(share) * room) for share in shares]
        parts = [self._clip(clip, features_2d, features_3d, spectrogram, words) for clip in clips]
        return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}

    def _clip(
        self, clip: Window, features_2d: Tensor, features_3d: Tensor, spectrogram: np.ndarray, words: list[list[str]]
    ) -> dict[str, Tensor]:
        track_2d = features_2d[int(clip.start) : int(clip.end) + 1]
        track_3d = features_3d[int(clip.start * 1.5) : int(clip.end * 1.5) + 1]
        tokens = SETTINGS.max_video_tokens
        video, video_mask = torch.zeros(tokens, 4096), torch.zeros(tokens)
        if len(track_2d) and len(track_3d):
            stretched = F.interpolate(track_2d.T[None], size=len(track_3d), mode="nearest")[0].T
            video[: len(track_3d), :2048] = F.normalize(stretched[:tokens], dim=1)
            video[: len(track_3d), 2048:] = F.normalize(track_3d[:tokens], dim=1)
            video_mask[: len(track_3d)] = 1
        frames = spectrogram[:, clip.audio_first : min(clip.audio_stop, clip.audio_first + SETTINGS.max_audio_frames)]
        audio = np.zeros((40, SETTINGS.max_audio_frames), np.float32)
        audio_mask = np.zeros(SETTINGS.max_audio_frames, np.float32)
        audio[:, : frames.shape[1]] = frames
        audio_mask[: frames.shape[1]] = 1
        spoken = [word for index in clip.captions for word in words[index] if word in self.vectors]
        text = np.zeros((SETTINGS.max_words, 300), np.float32)
        text_mask = np.zeros(SETTINGS.max_words, np.float32)
        for place, word in enumerate(spoken[: SETTINGS.max_words]):
            text[place] = self.vectors[word]
            text_mask[place] = 1
        return {
            "video": video,
            "video_mask": video_mask,
            "audio": torch.from_numpy(audio),
            "audio_mask": torch.from_numpy(audio_mask),
            "text": torch.from_numpy(text),
            "text_mask": torch.from_numpy(text_mask),
        }


class Published:
    """Batches of clips of epoch after epoch, as the published trainer flattens them."""

    ahead = 0
    """Batches that are made of an epoch before it is asked for."""

    def __init__(self, dataset: PublishedDataset, workers: int):
        self.loader = DataLoader(
            dataset, BATCH_VIDEOS, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0
        )

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self.loader:
            yield {name: values.flatten(0, 1) for name, values in batch.items()}

    def close(self) -> None:
        """Ends the workers."""
        del self.loader


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


def drop(folder: Path) -> None:
    """Takes a folder's files out of the page cache."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(folder: Path) -> None:
    """Gets a folder's files into the page cache: clips of one epoch are a quarter of them only."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(1 << 24):
                    pass


def children() -> list[int]:
    """The processes that this one has started and that still run."""
    return [int(child) for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def cpu_seconds() -> float:
    """CPU time of this process and its children so far."""
    ticks = 0
    for process in (os.getpid(), *children()):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


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


def consume(batches: Iterable[object]) -> None:
    """Takes all."""
    for _ in batches:
        pass


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
    own = [_rollup(child)["Private_Dirty"] + _rollup(child)["Private_Clean"] for child in children()]
    main = _rollup(os.getpid())
    loader.close()
    return {"videos": len(shards), "workers": len(own), "main process MB": main["Pss"] / 1e3,
            "private MB of a worker": max(own) / 1e3, "all workers MB": sum(own) / 1e3}  # fmt: skip


def _rollup(process: int) -> dict[str, int]:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) for line in lines}


def eight_bits() -> list[dict[str, Any]]:
    """What an 8-bit spectrogram changes in DAVEnet's tokens and in the embedding of sound, against float32."""
    generator = np.random.default_rng(0)
    seconds = np.arange(8 * 16_000) / 16_000
    tone = np.sin(2 * np.pi * (200 + 300 * np.sin(seconds)) * seconds) * np.abs(np.sin(3 * seconds))
    pcm = (8000 * tone + 300 * generator.standard_normal(len(tone))).astype(np.int16)
    spectrogram = log_mel(pcm)[:768]
    stored = {"float16": spectrogram.astype(np.float16), "8bit": to_decibels(to_8bit(spectrogram))}
    rows = []
    for kind, frames in stored.items():
        worst, changes = 0.0, []
        for seed in range(3):
            torch.manual_seed(seed)
            model = build_model(ModelSettings(davenet_width=32, embed_dim=256, projection_dim=256, heads=4)).eval()
            exact, found = (_sound(model, values.astype(np.float32)) for values in (spectrogram, frames))
            changes.append(float((found - exact).norm() / exact.norm()))
            worst = max(worst, float(1 - F.cosine_similarity(exact, found).min()))
        rows.append({"stored as": kind, "dB off": float(np.abs(frames.astype(np.float32) - spectrogram).max()),
                     "embedding changes by %": 100 * max(changes), "1 - cosine": f"{worst:.1e}",
                     "MB per 6.5 minutes": (1.56 if kind == "8bit" else 3.12) + 4.01})  # fmt: skip
    return rows


def _sound(model: torch.nn.Module, frames: np.ndarray) -> Tensor:
    batch = {
        "text": torch.zeros(1, 4, 300),
        "text_mask": torch.zeros(1, 4),
        "video": torch.zeros(1, 4, 4096),
        "video_mask": torch.zeros(1, 4),
        "audio": torch.from_numpy(np.ascontiguousarray(frames.T))[None],
        "audio_mask": torch.ones(1, len(frames)),
        "audio_nframes": torch.tensor([float(len(frames))]),
    }
    with torch.no_grad():
        return model(batch)["audio_embed"]


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
