"""HowTo100M (Miech et al., ICCV 2019): ``HowTo100M_v1.csv`` with its captions."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from pipeline.datasets.files import open_text, read_cells
from pipeline.datasets.generic import captions_of, rank_of
from pipeline.datasets.jsonfile import LargeObject
from pipeline.errors import InputError
from pipeline.types import Caption, Video

COLUMNS = ("video_id", "category_1", "category_2", "rank", "task_id")


def read_howto100m(table: Path | str, captions: LargeObject | None = None) -> Iterator[Video]:
    """Streams the 1.24 million rows.

    Args:
        table: ``HowTo100M_v1.csv``.
        captions: ``caption.json`` or ``raw_caption.json`` (stop words kept); a video that is missing in it has unknown
            captions, one with empty lists has none.

    Raises:
        InputError: a file is missing or not in the published layout.
    """
    table = Path(table)
    if not table.is_file():
        raise InputError(f"there is no list {table}; HowTo100M_v1.csv is in the HowTo100M.zip of the authors")
    with open_text(table) as lines:
        reader = csv.DictReader(lines)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise InputError(f"{table}: not HowTo100M_v1.csv, it lacks {', '.join(missing)}")
        for row in reader:
            yield Video(
                row["video_id"],
                category_1=row["category_1"] or None,
                category_2=row["category_2"] or None,
                task_id=row["task_id"] or None,
                rank=_rank(row["rank"], table, reader.line_num),
                captions=_captions(captions, row["video_id"]),
            )


def read_task_names(path: Path | str) -> dict[str, str]:
    """Titles of tasks by id, from ``task_ids.csv``; raises :class:`InputError`."""
    source = "the HowTo100M.zip of the authors"
    return {task_id.strip(): title.strip() for _, (task_id, title, *_) in read_cells(path, source, 2, delimiter="\t")}


def task_ids(wanted: Sequence[str], titles: Mapping[str, str]) -> list[str]:
    """Ids of tasks that are named by id or by title, whatever its case.

    Raises:
        InputError: there is no such task; the message names one that is spelt nearly so.
    """
    by_title: defaultdict[str, list[str]] = defaultdict(list)
    for task_id, title in titles.items():
        by_title[title.casefold()].append(task_id)
    found: list[str] = []
    for name in wanted:
        ids = [name] if name in titles else by_title.get(name.strip().casefold(), [])
        if not ids:
            near = get_close_matches(name.casefold(), by_title, 1)
            hint = f"; did you mean {titles[by_title[near[0]][0]]!r}?" if near else ""
            raise InputError(f"there is no task {name!r}{hint}")
        found += ids
    return found


def _rank(text: str, table: Path, line: int) -> int | None:
    try:
        return rank_of(text)
    except ValueError as error:
        raise InputError(f"{table}: line {line}: {error}") from None


def _captions(captions: LargeObject | None, video_id: str) -> list[Caption] | None:
    if captions is None:
        return None
    try:
        return captions_of(captions.get(video_id))
    except ValueError as error:
        raise InputError(f"{captions.path}: the captions of {video_id} cannot be read ({error})") from None
