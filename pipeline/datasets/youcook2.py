"""YouCook2 (Zhou et al., AAAI 2018): cooking videos with the steps of their recipes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.datasets.files import read_json
from pipeline.datasets.identity import other_url
from pipeline.errors import InputError
from pipeline.types import Caption, Video

SOURCE = "YouCook2's annotations (youcookii_annotations_trainval.tar.gz)"
SPLITS = {"training": "train", "validation": "test"}
"""The benchmark of the papers is retrieval among all segments of the validation videos, so these are the test."""


def read_youcook2(annotations: Path | str) -> Iterator[Video]:
    """Videos with their annotated steps as captions.

    Args:
        annotations: ``youcookii_annotations_trainval.json``.

    Raises:
        InputError: the file is missing or of another layout.
    """
    database = read_json(annotations, SOURCE)
    try:
        for video_id, entry in database["database"].items():
            yield Video(
                video_id,
                other_url(entry.get("video_url"), video_id),
                split=SPLITS.get(entry["subset"], entry["subset"]),
                category_1="Cooking",
                task_id=str(entry["recipe_type"]),
                captions=[
                    Caption(float(one["segment"][0]), float(one["segment"][1]), one["sentence"])
                    for one in entry.get("annotations", [])
                ],
            )
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{annotations}: not YouCook2's layout ({reason})") from None
