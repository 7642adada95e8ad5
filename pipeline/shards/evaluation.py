"""Clips of a benchmark: each caption of a held-out video is one clip."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pyarrow.compute as pc

from pipeline.config import ClipSettings
from pipeline.errors import InputError
from pipeline.shards.batches import Batch, ClipReader
from pipeline.shards.clips import whole_clip
from pipeline.shards.reader import ShardSet


def evaluation_clips(
    shards: ShardSet,
    split: str | None = "test",
    clips: ClipSettings | None = None,
    batch_clips: int = 64,
    max_words: int | None = None,
) -> Iterator[Batch]:
    """Batches of one clip per caption, in the order of the shards, the same each time.

    A clip is its caption's window, with its own sound. The batches are those of the training loader, and have two more
    entries: ``clip_ids``, ``<video id>/<caption>`` of each clip, and ``texts``, its caption.

    Args:
        shards: the data.
        split: only videos of this split; None: all.
        clips: sizes, and how long clips become tokens; how clips are drawn does not matter here.
        batch_clips: most clips in a batch.
        max_words: words per caption; None: as ``clips`` says.

    Raises:
        InputError: the split has no caption.
        ShardError: a shard is damaged.
    """
    settings = clips or ClipSettings()
    reader = ClipReader(shards, dataclasses.replace(settings, max_words=max_words or settings.max_words))
    captions = shards.table["captions"].to_pylist()
    numbers = [
        number
        for number, found in enumerate(shards.table["split"].to_pylist())
        if found == (split or found) and captions[number]
    ]
    if not numbers:
        known = ", ".join(sorted(pc.unique(shards.table["split"]).to_pylist()))
        raise InputError(f"{shards.folder}: no video with captions in split {split}; it has the splits {known}")
    return _batches(shards.ids, reader, numbers, captions, batch_clips)


def _batches(
    ids: list[str], reader: ClipReader, numbers: list[int], captions: list[int], batch_clips: int
) -> Iterator[Batch]:
    pending: list[tuple[int, int]] = [(number, index) for number in numbers for index in range(captions[number])]
    for first in range(0, len(pending), batch_clips):
        wanted = pending[first : first + batch_clips]
        batch = reader.empty(len(wanted))
        batch["clip_ids"], batch["texts"] = [], []
        row = 0
        while row < len(wanted):
            number = wanted[row][0]
            indices = [index for other, index in wanted[row:] if other == number]
            narration = reader.narration(number)
            found = [whole_clip(narration.starts[index], narration.ends[index], index) for index in indices]
            reader.fill(batch, row, number, found, narration)
            batch["clip_ids"] += [f"{ids[number]}/{index}" for index in indices]
            batch["texts"] += [narration.texts[index] for index in indices]
            row += len(indices)
        yield batch
