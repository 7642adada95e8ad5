"""CrossTask (Zhukov et al., CVPR 2019): how-to videos with the times of their tasks' steps."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets.files import existing, open_text, read_cells, seconds
from pipeline.datasets.identity import other_url
from pipeline.errors import InputError
from pipeline.types import Caption, Video

SOURCE = "CrossTask's release (crosstask_release.zip)"


@dataclass(frozen=True)
class Task:
    """A task and its steps in order."""

    task_id: str
    title: str
    steps: tuple[str, ...]


def read_tasks(path: Path | str) -> dict[str, Task]:
    """Tasks by id from ``tasks_primary.txt`` or ``tasks_related.txt``.

    Blocks of id, title, URL, number of steps and the steps with commas between; a blank line behind each.

    Raises:
        InputError: the file is missing or of another layout.
    """
    blocks: list[list[str]] = [[]]
    with open_text(existing(path, SOURCE)) as lines:
        for line in map(str.strip, lines):
            if line:
                blocks[-1].append(line)
            else:
                blocks.append([])
    tasks: dict[str, Task] = {}
    for number, block in enumerate((block for block in blocks if block), 1):
        steps = tuple(step.strip() for step in block[4].split(",")) if len(block) == 5 else ()
        if not steps or not all(steps) or block[3] != str(len(steps)):
            raise InputError(
                f"{path}: task {number} is not a block of id, title, URL, number of steps and that many steps"
            )
        tasks[block[0]] = Task(block[0], block[1], steps)
    if not tasks:
        raise InputError(f"{path}: holds no task")
    return tasks


def read_crosstask(folder: Path | str, train_per_task: int = 0, seed: int = 0) -> Iterator[Video]:
    """Videos of the primary and related tasks, annotated ones with their steps as captions.

    As in the authors' ``train.py``: ``videos_val.csv`` is for validation; of what else ``videos.csv`` lists, the
    primary tasks' videos are the test, but for some that are drawn for training, and the related tasks' are for
    training. A video that is listed for two tasks is yielded for each.

    Args:
        folder: the unpacked release.
        train_per_task: so many videos of each primary task are for training; 30 in that program. A task that has no
            more is all for training.
        seed: of that draw.

    Raises:
        InputError: a file is missing or of another layout.
    """
    folder = existing(folder, SOURCE)
    tasks = read_tasks(folder / "tasks_primary.txt")
    related = folder / "tasks_related.txt"
    titles = {**(read_tasks(related) if related.is_file() else {}), **tasks}
    held_out = [cells[:3] for _, cells in read_cells(folder / "videos_val.csv", SOURCE, 3)]
    everything = folder / "videos.csv"
    listed = [cells[:3] for _, cells in read_cells(everything, SOURCE, 3)] if everything.is_file() else []
    held = {(task_id, video_id) for task_id, video_id, _ in held_out}
    others = [row for row in listed if (row[0], row[1]) not in held]
    tested = [row for row in others if row[0] in tasks]
    drawn = _drawn(tested, train_per_task, seed)
    by_split = {
        "validation": held_out,
        "test": [row for row in tested if (row[0], row[1]) not in drawn],
        "train": [row for row in others if row[0] not in tasks or (row[0], row[1]) in drawn],
    }
    for split, rows in by_split.items():
        for task_id, video_id, url in rows:
            task = titles.get(task_id)
            yield Video(
                video_id,
                other_url(url, video_id),
                split=split,
                category_1=task.title if task else None,
                task_id=task_id,
                captions=_steps(folder, tasks.get(task_id), video_id),
            )


def _drawn(rows: list[list[str]], count: int, seed: int) -> set[tuple[str, str]]:
    """Task and id of ``count`` videos of each task, or all where there are no more; the same for the same seed."""
    by_task: dict[str, list[str]] = {}
    for task_id, video_id, _ in rows:
        by_task.setdefault(task_id, []).append(video_id)
    return {
        (task_id, video_id)
        for task_id, videos in by_task.items()
        for video_id in random.Random(f"{seed}/{task_id}").sample(sorted(videos), min(count, len(videos)))
    }


def _steps(folder: Path, task: Task | None, video_id: str) -> list[Caption] | None:
    """The annotated steps of a video, None where it was not annotated."""
    path = folder / "annotations" / f"{task.task_id}_{video_id}.csv" if task else None
    if path is None or task is None or not path.is_file():
        return None
    captions = []
    for line, (number, start, end, *_) in read_cells(path, SOURCE, 3):
        if not number.isdigit() or not 1 <= int(number) <= len(task.steps):
            raise InputError(f"{path}: line {line}: there is no step {number} in task {task.task_id}")
        captions.append(Caption(seconds(start, path, line), seconds(end, path, line), task.steps[int(number) - 1]))
    return sorted(captions)
