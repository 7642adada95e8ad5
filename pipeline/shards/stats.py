"""What shards hold, in lines of text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow.compute as pc

from pipeline.shards.index import MODALITIES
from pipeline.shards.reader import ShardSet
from pipeline.wording import counted


def describe_shards(shards: ShardSet) -> Iterator[str]:
    """Sizes, hours, captions, and how many videos have each modality."""
    table = shards.table
    if not len(table):
        yield f"{shards.folder}: {counted(len(shards.stems), 'shard')} without videos"
        return
    hours = pc.sum(table["duration"]).as_py() / 3600
    size = pc.sum(table["size"]).as_py()
    there = f"{counted(len(shards.stems), 'shard')}, {counted(len(shards), 'video')}"
    yield f"{shards.folder}: {there}, {hours:,.2f} hours, {_bytes(size)}"
    for split in pc.value_counts(table["split"]).to_pylist():
        yield f"  split {split['values']}: {counted(split['counts'], 'video')}"
    captions = pc.sum(table["captions"]).as_py()
    with_captions = pc.sum(pc.greater(table["captions"], 0)).as_py()
    yield f"  captions: {captions:,} in {counted(with_captions, 'video')}"
    yield f"  a video: {_bytes(size / len(shards))}, {60 * hours / len(shards):.2f} minutes"
    if hours:
        yield f"  an hour: {_bytes(size / hours)}"
    for modality in MODALITIES:
        present = table.filter(pc.is_valid(table[f"{modality}_offset"]))
        if len(present):
            yield f"  {modality}: {counted(len(present), 'video')}, " + _arrays(present, modality)
    if shards.repeated:
        repeated = counted(shards.repeated, "repeated sample")
        yield f"  left out: {repeated}; mend with python -m pipeline.shards repair {shards.folder}"


def _arrays(table: object, modality: str) -> str:
    columns = {name: table[f"{modality}_{name}"] for name in ("length", "width", "dtype", "rate")}  # type: ignore[index]
    length = columns["length"].to_numpy().astype(np.int64)
    width = np.maximum(columns["width"].to_numpy(), 1)
    items = {name: np.dtype(name).itemsize for name in pc.unique(columns["dtype"]).to_pylist()}
    size = (length * width * np.array([items[name] for name in columns["dtype"].to_pylist()])).sum()
    kinds = ", ".join(sorted(items))
    if modality == "text":
        return f"{counted(int(length.sum()), 'word')}, {kinds}, {_bytes(size)}"
    widths = ", ".join(str(found) for found in sorted(set(width.tolist())))
    rates = ", ".join(f"{rate:g}" for rate in sorted(pc.unique(columns["rate"]).to_pylist()))
    return f"{kinds} [time, {widths}], {rates} per second, {_bytes(size)}"


def describe_sample(shards: ShardSet, video_id: str) -> Iterator[str]:
    """What one sample says of itself, its arrays with their ranges, and its captions."""
    number = shards.number(video_id)
    row = shards.row(number)
    sample = shards.read(video_id, check=True)
    yield f"{video_id}: {shards.stems[shards.shard(number)].tar}, bytes {row.offset:,} to {row.end:,}"
    yield f"  duration {sample.duration:.2f} s, split {sample.split}, recipe {sample.recipe}"
    for name in ("category_1", "category_2", "task_id"):
        if getattr(sample, name) is not None:
            yield f"  {name} {getattr(sample, name)}"
    for modality, array in sample.arrays.items():
        rate = f", {sample.rates[modality]:g} per second" if modality in sample.rates else ""
        backbone = f", {sample.backbones[modality]}" if modality in sample.backbones else ""
        spread = f", {array.min():.4g} to {array.max():.4g}" if array.size else ""
        yield f"  {modality}: {array.dtype} {list(array.shape)}{rate}{spread}{backbone}"
    for note in sample.notes:
        yield f"  note: {note}"
    for index, caption in enumerate(sample.captions):
        words = sample.caption_words[index + 1] - sample.caption_words[index] if "text" in sample.arrays else 0
        yield f"  {caption.start:8.2f} – {caption.end:8.2f}  {caption.text}  ({words} known words)"


def _bytes(size: float) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.2f} {unit}"
    return f"{size:.0f} bytes"
