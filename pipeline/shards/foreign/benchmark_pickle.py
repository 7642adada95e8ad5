"""The ``.pkl`` files of clips that MCN and MFT evaluate on: YouCook2 and MSR-VTT.

A list of dictionaries, one per clip: ``id``; ``2d`` and ``3d`` features, pooled over time in the YouCook2 files, whose
sequences are ``2d_full`` and ``3d_full`` (those of LSMDC are ``2d_pooled`` and ``3d_pooled``); ``audio`` ``[40,
frames]``; ``caption``, a text or the list of a clip's texts; ``eval_caption``, the one of these that the test asks for.
Some entries lack some keys. Features of MFT's stronger backbones are in files of their own, under ``clip`` and ``s3d``:
the same clips in the same order.
"""

from __future__ import annotations

import math
import numbers
import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.replacing import replace_file
from pipeline.shards.clips import feature_window, time_to_frame
from pipeline.shards.foreign.features import Foreign, time_first
from pipeline.shards.foreign.unpickle import read_arrays
from pipeline.shards.reader import ShardSet
from pipeline.shards.sample import Sample, to_decibels
from pipeline.types import Caption, Modality
from pipeline.wording import counted

_Names = Mapping[Modality, tuple[str, ...]]
_KEYS: _Names = {"2d": ("2d_full", "2d", "2d_pooled"), "3d": ("3d_full", "3d", "3d_pooled"), "audio": ("audio",)}


def read_clips(
    path: Path,
    split: str,
    complete: bool = False,
    refused: Callable[[str], None] = lambda message: None,
    features: Path | None = None,
    keys: Mapping[Modality, str | None] | None = None,
    seen: Counter[str] | None = None,
) -> Iterator[Foreign]:
    """The clips of a file, in its order; each becomes a video of its own.

    Where there are several texts, a ``test`` split takes ``eval_caption`` and any other all of ``caption``. An id that
    comes again (YouCook2's are those of videos) gets its number behind a dot. Clips without one are called after the
    split, the file and their place in it, so that those of several files can be in the same shards. Ids follow from
    the files and their order alone: a conversion that goes on gives the same.

    Args:
        path: the ``.pkl`` file.
        split: what its clips are for.
        complete: leave out clips that lack a modality which the file has, as the published evaluation does.
        refused: told of each clip, array or caption that is left out.
        features: a file of the same clips in the same order whose 2D and 3D features are taken instead; the first file
            still says which clips are complete.
        keys: what features are called, by modality; None: as above.
        seen: how often an id came in the files before this one; those of this one are added. None: there is none.

    Raises:
        InputError: a file is not there, holds what a pickle should not, is no such list, has other clips, or has
            features of that name in none.
    """
    entries = _read(path)
    visual = entries if features is None else _read(features)
    names = {**_KEYS, **{modality: (key,) for modality, key in (keys or {}).items() if key is not None}}
    lacking = _lacking(visual, names, features or path)
    if features is not None:
        _check_same_clips(entries, visual, path, features)
        lacking = [{*first, *second} for first, second in zip(_lacking(entries, _KEYS, path), lacking, strict=True)]
    seen = Counter() if seen is None else seen
    for place, entry in enumerate(entries):
        video_id = _id_or_place(entry, place, split, path)
        seen[video_id] += 1
        if seen[video_id] > 1:
            video_id = f"{video_id}.{seen[video_id] - 1}"
        if complete and lacking[place]:
            refused(f"{path}: clip {place} ({video_id}) is left out, it has no {', '.join(sorted(lacking[place]))}")
            continue
        arrays: dict[Modality, NDArray[Any]] = {}
        for modality, known in names.items():
            source = entry if modality == "audio" else visual[place]
            key = next((key for key in known if source.get(key) is not None), None)
            if key is not None:
                try:
                    arrays[modality] = time_first(modality, source[key])
                except ValueError as error:
                    refused(f"{path}: clip {place} ({video_id}): {key} is left out: {error}")
        texts: list[str] = []
        for caption in _captions(entry, split):
            text = _text(caption)
            if text is None:
                shown = " ".join(repr(caption).split())[:40]
                refused(f"{path}: clip {place} ({video_id}): a caption is left out: not a text but {shown}")
            else:
                texts.append(text)
        yield Foreign(video_id, arrays, None, texts, split, path.name)


def _read(path: Path) -> list[Mapping[str, Any]]:
    entries = read_arrays(path)
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise InputError(f"{path}: not a list of clips, each a dictionary")
    return entries


def _lacking(entries: list[Mapping[str, Any]], names: _Names, path: Path) -> list[set[Modality]]:
    """Of each clip: the modalities that it lacks and others have.

    What counts is the first known key that any clip has: of files with ``2d_full`` a clip with only a pooled ``2d`` is
    lacking, since MFT's program leaves out just these (11 of YouCook2's test clips, which then count as mistakes).
    """
    keys = {key for entry in entries for key in entry}
    there = {modality: next((key for key in known if key in keys), None) for modality, known in names.items()}
    for modality, known in names.items():
        if known != _KEYS[modality] and there[modality] is None:
            raise InputError(
                f"{path}: no clip has the key {known[0]}; there are {', '.join(sorted(map(str, keys))) or 'none'}"
            )
    return [{modality for modality, key in there.items() if key and entry.get(key) is None} for entry in entries]


def _check_same_clips(
    entries: list[Mapping[str, Any]], others: list[Mapping[str, Any]], path: Path, features: Path
) -> None:
    if len(entries) != len(others):
        raise InputError(
            f"{features}: has {counted(len(others), 'clip')} and {path} {len(entries):,}: not the same clips"
        )
    for place, (entry, other) in enumerate(zip(entries, others, strict=True)):
        if "id" in entry and "id" in other and _id(entry["id"]) != _id(other["id"]):
            raise InputError(
                f"{features}: clip {place} is {_id(other['id'])} and that of {path} {_id(entry['id'])}: not the same "
                "clips in the same order"
            )


def _id(value: Any) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9_-]", "_", str(value))[:48]
    return cleaned or "_"


def _id_or_place(entry: Mapping[str, Any], place: int, split: str, path: Path) -> str:
    if entry.get("id") is not None:
        return _id(entry["id"])
    return f"{_id(f'{split}-{path.stem}')[:40]}-{place}"


def _captions(entry: Mapping[str, Any], split: str) -> Iterable[Any]:
    captions = entry.get("caption")
    if split == "test" and entry.get("eval_caption") is not None:
        captions = entry["eval_caption"]
    if captions is None:
        return []
    if isinstance(captions, np.ndarray):
        return captions.ravel().tolist()
    return captions if isinstance(captions, list | tuple) else [captions]


def _text(caption: Any) -> str | None:
    """A caption as a text, None where it is none: tables put a NaN where a text is missing."""
    if isinstance(caption, bytes):
        return caption.decode("utf-8", "replace")
    if isinstance(caption, str) or (isinstance(caption, numbers.Real) and math.isfinite(caption)):
        return str(caption)
    return None


def captioned_videos(shards: ShardSet, split: str) -> list[str]:
    """The videos of a split that have captions, in the order of the shards.

    Raises:
        InputError: there is none; the message names the splits that are there.
    """
    columns = (shards.table[name].to_pylist() for name in ("split", "captions"))
    captioned = [(video_id, found) for video_id, found, captions in zip(shards.ids, *columns, strict=True) if captions]
    if not captioned:
        raise InputError(f"{shards.folder}: none of its videos has captions, so there are no clips to write")
    videos = [video_id for video_id, found in captioned if found == split]
    if not videos:
        known = ", ".join(sorted({found for _, found in captioned}))
        raise InputError(f"{shards.folder}: no captions in split {split}; there are some in {known}: give --split")
    return videos


def write_clips(
    shards: ShardSet, path: Path, videos: Iterable[str], progress: Callable[[], None] = lambda: None
) -> int:
    """Writes the captions of some videos as clips of such a file, which the published programs read.

    Returns:
        how many clips it has.
    """
    entries: list[dict[str, Any]] = []
    for video_id in videos:
        sample = shards.read(video_id, check=True)
        entries += [_entry(sample, index, caption) for index, caption in enumerate(sample.captions)]
        progress()

    def write(part: Path) -> None:
        with part.open("wb") as file:
            pickle.dump(entries, file, protocol=4)

    replace_file(path, write)
    return len(entries)


def _entry(sample: Sample, index: int, caption: Caption) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": f"{sample.video_id}_{index}",
        "caption": caption.text,
        "eval_caption": caption.text,
    }
    for modality in ("2d", "3d"):
        if modality in sample.arrays:
            array = sample.arrays[modality]
            first, stop = feature_window(caption.start, caption.end, sample.rates[modality], len(array))
            if stop > first:
                entry[f"{modality}_full"] = np.array(array[first:stop], np.float32)
                entry[modality] = entry[f"{modality}_full"].max(axis=0)
    if "audio" in sample.arrays:
        frames = to_decibels(sample.arrays["audio"])[time_to_frame(caption.start) : time_to_frame(caption.end)]
        entry["audio"] = torch.from_numpy(np.ascontiguousarray(frames.T, np.float32))
    return entry
