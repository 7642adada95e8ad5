"""MSR-VTT (Xu et al., CVPR 2016): 10,000 clips of YouTube videos with 20 captions each."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from pipeline.datasets.files import existing, open_text, read_json
from pipeline.datasets.generic import delimiter_of, read_table
from pipeline.errors import InputError
from pipeline.types import Caption, Video

SOURCE = "MSR-VTT's annotations, as distributed for JSFusion (MSRVTT_data.json)"
SPLITS = {"train": "train", "validate": "validation", "test": "test"}
UNUSED = "unused"
"""Split of the clips that the lists given leave out."""


def read_msrvtt(
    data: Path | str, test: Path | str | None = None, train: Path | str | None = None, from_youtube: bool = False
) -> Iterator[Video]:
    """One row per clip.

    Args:
        data: ``MSRVTT_data.json``.
        test: ``MSRVTT_JSFUSION_test.csv``, the 1k-A test: these clips are the test, each with its one sentence.
        train: the list of training clips (7k or 9k), a CSV with a column ``video_id``.
        from_youtube: a row stands for the whole YouTube video, captions have their times in it. Otherwise a row is the
            file of the clip, as the authors distribute it, and its captions span it.

    Raises:
        InputError: a file is missing or of another layout.
    """
    content = read_json(data, SOURCE)
    sentences: defaultdict[str, list[str]] = defaultdict(list)
    tested = _tested(test) if test is not None else None
    trained = {video.video_id for video in read_table(train)} if train is not None else None
    try:
        for one in content["sentences"]:
            sentences[one["video_id"]].append(one["caption"])
        for clip in content["videos"]:
            name, begin, end = clip["video_id"], float(clip["start time"]), float(clip["end time"])
            span = (begin, end) if from_youtube else (0.0, end - begin)
            texts = [tested[name]] if tested is not None and name in tested else sentences[name]
            yield Video(
                name,
                clip["url"] if from_youtube else None,
                split=_split(name, SPLITS.get(clip["split"], clip["split"]), tested, trained),
                category_1=str(clip["category"]),
                captions=[Caption(*span, text) for text in texts],
            )
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{data}: not MSR-VTT's layout ({reason})") from None


def _split(name: str, official: str, tested: dict[str, str] | None, trained: set[str] | None) -> str:
    if tested is not None and name in tested:
        return "test"
    if trained is not None:
        return "train" if name in trained else UNUSED
    return UNUSED if tested is not None and official == "test" else official


def _tested(path: Path | str) -> dict[str, str]:
    """The sentence of each clip of the 1k-A test."""
    path = existing(path, "the 1k-A split of JSFusion (MSRVTT_JSFUSION_test.csv)")
    with open_text(path) as lines:
        header = lines.readline()
        lines.seek(0)
        rows = list(csv.DictReader(lines, delimiter=delimiter_of(header)))
    try:
        return {row["video_id"]: row["sentence"] for row in rows}
    except KeyError as error:
        raise InputError(f"{path}: not the JSFusion test, the column {error} is missing") from None
