"""MiningYouTube (Kuehne et al., 2019): egg dishes, the test videos with an action for each frame."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from pipeline.datasets.files import existing, read_lines
from pipeline.errors import InputError
from pipeline.types import Caption, Video

SOURCE = "github.com/hildekuehne/Mining_YouTube_dataset"
LISTS = {"test": "test/videos_test.txt", "validation": "test/videos_val.txt", "train": "train/videos_train.txt"}
BACKGROUND = frozenset({"background", "bg", "none", "sil", "0", "-1", "no_action"})
"""Labels of frames in which nothing is done."""


def read_mining_youtube(
    folder: Path | str, annotations: Path | str | None = None, labels_per_second: float = 1.0
) -> Iterator[Video]:
    """Videos of the lists that are there; where there are labels, runs of equal ones are the captions.

    Args:
        folder: the checked-out repository, or a folder with the same lists.
        annotations: the unpacked folder ``groundTruth``: ``<video>.txt`` or ``.gt`` with a label per line and frame.
        labels_per_second: lines of a second: frames per second where every frame has one, as published.

    Raises:
        InputError: there is no list, or labels are missing for every test video.
    """
    folder = existing(folder, SOURCE)
    lists = {split: folder / name for split, name in LISTS.items() if (folder / name).is_file()}
    if not lists:
        raise InputError(f"{folder}: none of {', '.join(LISTS.values())} is in it; it comes from {SOURCE}")
    labels = existing(annotations, SOURCE) if annotations is not None else None
    files = {path.stem: path for path in labels.iterdir() if path.suffix in (".txt", ".gt")} if labels else {}
    if labels is not None and not files:
        raise InputError(f"{labels}: no <video>.txt or <video>.gt with labels in it")
    for split, path in lists.items():
        for video_id in read_lines(path, SOURCE):
            file = files.get(video_id)
            captions = _segments(read_lines(file, SOURCE), labels_per_second) if file is not None else None
            yield Video(video_id, split=split, category_1="Cooking", captions=captions)


def _segments(labels: list[str], per_second: float) -> list[Caption]:
    """Runs of equal labels, in seconds; ``crack_egg`` reads as "crack egg"."""
    captions: list[Caption] = []
    position = 0
    for label, run in groupby(labels):
        begin, position = position, position + len(list(run))
        if label.lower() not in BACKGROUND:
            captions.append(Caption(begin / per_second, position / per_second, label.replace("_", " ")))
    return captions
