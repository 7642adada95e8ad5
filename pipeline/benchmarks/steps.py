"""Step localisation on CrossTask and MiningYouTube: the truth per second, and figures per task."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.benchmarks.alignment import Flags, Floats, align_by_maximum, align_steps, step_counts
from pipeline.datasets.crosstask import Task
from pipeline.types import Caption

FIGURES = ("recall", "recall_of_videos", "recall_by_second", "mAP")

_NOT_COOKING = frozenset({"59684", "16815", "44789", "40567"})
"""CrossTask's shelves, jacking up a car, oil, tyre."""


@dataclass
class VideoSteps:
    """A video's scores and annotation, one row per second."""

    video_id: str
    task_id: str
    scores: Floats
    """``[T, K]``: how well a second fits a step."""
    truth: Flags
    """``[T, K]``: 1 where the step is annotated."""


def step_truth(captions: Sequence[Caption], steps: Sequence[str], seconds: int) -> Flags:
    """The annotation per second, int8 ``[seconds, K]``.

    A segment counts from the second that it starts in to the one that it ends in, as in CrossTask's program. Captions
    that are no step's name are left out.
    """
    truth = np.zeros((seconds, len(steps)), np.int8)
    number_of = {step: number for number, step in enumerate(steps)}
    for caption in captions:
        if caption.text in number_of:
            truth[_seconds_of(caption), number_of[caption.text]] = 1
    return truth


def own_steps(video_id: str, captions: Sequence[Caption]) -> Task:
    """A video's own segments in order as the steps of a task of its own (MiningYouTube)."""
    return Task(video_id, video_id, tuple(caption.text for caption in captions))


def own_truth(captions: Sequence[Caption], seconds: int) -> Flags:
    """As :func:`step_truth`, where each segment is a step of its own, int8 ``[seconds, segments]``."""
    truth = np.zeros((seconds, len(captions)), np.int8)
    for number, caption in enumerate(captions):
        truth[_seconds_of(caption), number] = 1
    return truth


def _seconds_of(caption: Caption) -> slice:
    return slice(max(0, math.floor(caption.start)), max(0, math.ceil(caption.end)))


def log_shares(scores: Floats) -> Floats:
    """The logarithm of each step's share of its second, by softmax: how MCN scores MiningYouTube."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def cooking_or_other(task_id: str) -> str:
    """The group of one of CrossTask's primary tasks."""
    return "other" if task_id in _NOT_COOKING else "cooking"


def average_precision(scores: Floats, truth: Flags) -> float:
    """Area under precision over recall, the sum of precision times the gain in recall; equal scores count together.

    Args:
        scores: ``[N]``.
        truth: ``[N]``, at least one of them 1.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order] > 0)
    last_of_ties = np.append(np.diff(scores[order]) != 0, True)
    found, seen = hits[last_of_ties], np.flatnonzero(last_of_ties) + 1
    gain = np.diff(found, prepend=0) / hits[-1]
    return float((gain * found / seen).sum())


def localisation_figures(
    videos: Sequence[VideoSteps], groups: Mapping[str, str] | None = None
) -> dict[str, dict[str, dict[str, Any]]]:
    """Figures per task, and their means over all tasks and over the tasks of each group.

    ``recall``: annotated steps found by ordered alignment, over all videos of the task (CrossTask's).
    ``recall_of_videos``: the mean over videos of each one's recall (MCN's program). ``recall_by_second``: as that, but
    every second goes to its best step, without order. ``mAP``: mean over steps of the average precision of seconds,
    over all videos of the task. All in percent.

    Args:
        videos: scored videos; one without any annotated step does not count.
        groups: a group's name by task, such as cooking.

    Returns:
        ``{"tasks": {task: figures}, "groups": {group: figures}}``; the group ``all`` has all tasks.
    """
    of_task: dict[str, list[VideoSteps]] = defaultdict(list)
    for video in videos:
        if video.truth.any():
            of_task[video.task_id].append(video)
    tasks: dict[str, dict[str, Any]] = {task: _task_figures(members) for task, members in of_task.items()}
    members_of: dict[str, list[str]] = {"all": list(tasks)}
    for task in tasks:
        if groups is not None and task in groups:
            members_of.setdefault(groups[task], []).append(task)
    means = {
        group: {name: float(np.mean([tasks[task][name] for task in members])) for name in FIGURES}
        for group, members in members_of.items()
        if members
    }
    return {"tasks": tasks, "groups": means}


def _task_figures(videos: Sequence[VideoSteps]) -> dict[str, Any]:
    ordered = [step_counts(align_steps(video.scores), video.truth) for video in videos]
    by_second = [step_counts(align_by_maximum(video.scores.T).T, video.truth) for video in videos]
    scores, truth = np.concatenate([v.scores for v in videos]), np.concatenate([v.truth for v in videos])
    annotated = [step for step in range(truth.shape[1]) if truth[:, step].any()]
    return {
        "videos": len(videos),
        "recall": 100 * sum(found for found, _ in ordered) / sum(total for _, total in ordered),
        "recall_of_videos": 100 * float(np.mean([found / total for found, total in ordered])),
        "recall_by_second": 100 * float(np.mean([found / total for found, total in by_second])),
        "mAP": 100 * float(np.mean([average_precision(scores[:, step], truth[:, step]) for step in annotated])),
    }
