"""Shards from shards: other sizes, another order, some of the videos, modalities dropped or taken from elsewhere."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from filecmp import cmp
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.errors import InputError
from pipeline.shards.files import stems
from pipeline.shards.provenance import claim_repacking
from pipeline.shards.reader import ShardSet
from pipeline.shards.sample import Sample, to_8bit, to_decibels
from pipeline.shards.writer import ShardWriter
from pipeline.types import Modality
from pipeline.wording import counted

_BESIDE = ("words.parquet", "extract.yaml")


@dataclass
class Repacking:
    """What is to be changed."""

    shard_bytes: int = 1_000_000_000
    order: Literal["source", "id", "shuffled"] = "source"
    videos: Collection[str] | None = None
    """Only these; None: all."""
    split: str | None = None
    """Only this split; None: all."""
    drop: Collection[Modality] = ()
    add: dict[Modality, ShardSet] = field(default_factory=dict)
    """From which other shards ``2d``, ``3d`` or ``audio`` are taken, in place of what is there."""
    audio: Literal["keep", "float16", "8bit"] = "keep"


@dataclass
class Repacked:
    """What became of it."""

    written: int = 0
    before: int = 0
    """Already there from a run that was stopped."""
    lacking: dict[str, int] = field(default_factory=dict)
    """By modality: videos that the other shards did not have."""


def repack(source: ShardSet, folder: Path, changes: Repacking, progress: Callable[[], None] = lambda: None) -> Repacked:
    """Writes samples of ``source`` into ``folder``; started again after it was stopped, it goes on.

    Each sample is compared with its checksum when it is read. ``words.parquet`` and ``extract.yaml`` are copied, and
    ``repack.yaml`` says what was changed.

    Raises:
        InputError: a wanted video is not there, none is of the wanted split, the target is the source, or it holds
            shards of other words or settings, or was begun with other changes or from another source.
        ShardError: a sample is damaged.
    """
    if folder.resolve() == source.folder.resolve():
        raise InputError(f"{folder}: give another folder to repack into; the source is not changed")
    for modality in changes.add:
        if modality == "text":
            raise InputError("text cannot be taken from other shards: its word ids stand for their words.parquet")
    videos = wanted(source, changes)
    result = Repacked()
    with ShardWriter(folder, folder.name, "repack", changes.shard_bytes) as writer:
        done = writer.completed
        claim_repacking(folder, _options(source, changes), begun=bool(done))
        _copy_beside(source.folder, folder)
        for video_id in videos:
            if video_id in done:
                result.before += 1
            else:
                writer.add(_changed(source.read(video_id, check=True), changes, result))
                result.written += 1
            progress()
    return result


def _options(source: ShardSet, changes: Repacking) -> dict[str, Any]:
    """What decides about samples and their order, as ``repack.yaml`` keeps it. The size of shards changes neither."""
    listed = None if changes.videos is None else sorted({*changes.videos})
    mark = "" if listed is None else hashlib.blake2b("\n".join(listed).encode(), digest_size=8).hexdigest()
    return {
        "source": str(source.folder.resolve()),
        "order": changes.order,
        "videos": None if listed is None else f"of a list ({counted(len(listed), 'video')}, {mark})",
        "split": changes.split,
        "drop": sorted(changes.drop),
        "add": {modality: str(other.folder.resolve()) for modality, other in sorted(changes.add.items())},
        "audio": changes.audio,
    }


def _copy_beside(source: Path, folder: Path) -> None:
    """Copies what is of all samples. Samples that are there already need theirs: word ids are places in a list."""
    there = [name for name in _BESIDE if (source / name).is_file()]
    for name in there:
        if stems(folder, "") and (folder / name).is_file() and not cmp(source / name, folder / name, shallow=False):
            raise InputError(
                f"{folder / name}: is not the one of {source}, and shards that are there need it; give another folder"
            )
    for name in there:
        shutil.copyfile(source / name, folder / name)


def wanted(source: ShardSet, changes: Repacking) -> list[str]:
    """The videos that :func:`repack` takes, in its order; raises InputError as it does."""
    unknown = [video_id for video_id in changes.videos or () if video_id not in source]
    if unknown:
        raise InputError(f"{source.folder}: has no video {unknown[0]}" + _and_more(len(unknown) - 1))
    chosen = None if changes.videos is None else set(changes.videos)
    videos = source.ids if chosen is None else [video_id for video_id in source.ids if video_id in chosen]
    if changes.split is not None:
        split = dict(zip(source.ids, source.table["split"].to_pylist(), strict=True))
        videos = [video_id for video_id in videos if split[video_id] == changes.split]
        if not videos:
            raise InputError(
                f"{source.folder}: no video of split {changes.split}; it has {', '.join(sorted({*split.values()}))}"
            )
    if changes.order == "id":
        return sorted(videos)
    if changes.order == "shuffled":
        return [videos[place] for place in np.random.default_rng(0).permutation(len(videos))]
    return videos


def _and_more(count: int) -> str:
    return f", nor {count} more" if count else ""


def _changed(sample: Sample, changes: Repacking, result: Repacked) -> Sample:
    for modality in changes.drop:
        _remove(sample, modality)
    for modality, other in changes.add.items():
        _remove(sample, modality)
        found = other.read(sample.video_id, check=True) if sample.video_id in other else None
        if found is None or modality not in found.arrays:
            result.lacking[modality] = result.lacking.get(modality, 0) + 1
            continue
        sample.arrays[modality] = found.arrays[modality]
        sample.rates[modality] = found.rates[modality]
        if modality in found.backbones:
            sample.backbones[modality] = found.backbones[modality]
        sample.notes.append(f"{modality} from recipe {found.recipe}")
    if "audio" in sample.arrays and changes.audio != "keep":
        decibels = to_decibels(sample.arrays["audio"])
        sample.arrays["audio"] = to_8bit(decibels) if changes.audio == "8bit" else decibels
    return sample


def _remove(sample: Sample, modality: Modality) -> None:
    for values in (sample.arrays, sample.rates, sample.backbones):
        values.pop(modality, None)
    if modality == "text":
        sample.caption_words = [0]
