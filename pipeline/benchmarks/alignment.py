"""Step localisation: the cheapest path through a video that visits a task's steps in order.

The task and its score are CrossTask's (Zhukov et al., *Cross-task weakly supervised learning from instructional
videos*, CVPR 2019, section 5), as MCN and MFT report them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Flags = npt.NDArray[np.int8]

_STAY, _FROM_BEFORE, _SKIP_BACKGROUND = 0, 1, 2


def align_steps(scores: Floats, exactly_one: bool = True) -> Flags:
    """Assigns seconds to steps: all steps are visited in order, with background before, between and after.

    A second of step k costs ``-scores[:, k]``, a second of background nothing. Of paths that cost the same, the one
    that stays longest where it is wins.

    Args:
        scores: ``[T, K]``, one row per second.
        exactly_one: each step gets one second; else one or more in a row.

    Returns:
        int8 ``[T, K]``, 1 where a second belongs to a step. All zero when the video has fewer seconds than steps; also
        when it has as many and the last second scores below zero for the last step, as in the published program.
    """
    seconds, steps = scores.shape
    assignment = np.zeros((seconds, steps), np.int8)
    if steps == 0 or seconds < steps or (seconds == steps and scores[-1, -1] < 0):
        return assignment
    # states: background 0, step 1, background, step 2, ..., background
    states = 2 * steps + 1
    costs = np.zeros(states)
    reached = np.full(states, np.inf)
    reached[0] = 0.0
    moves = np.empty((seconds, states), np.int8)
    is_step = np.arange(states) % 2 == 1
    for second in range(seconds):
        costs[1::2] = -scores[second].astype(np.float64)
        reached, moves[second] = _advance(reached, is_step, exactly_one)
        reached += costs
    state = states - 1 if reached[-1] < reached[-2] else states - 2
    for second in range(seconds - 1, -1, -1):
        if state % 2 == 1:
            assignment[second, state // 2] = 1
        state -= int(moves[second, state])
    return assignment


def _advance(reached: Floats, is_step: npt.NDArray[np.bool_], exactly_one: bool) -> tuple[Floats, Flags]:
    """The cheapest way into each state from the second before: ``(cost, move)``."""
    best = np.where(is_step, np.inf, reached) if exactly_one else reached.copy()
    move = np.full(len(reached), _STAY, np.int8)
    before = np.concatenate([[np.inf], reached[:-1]])
    closer = before < best
    best[closer], move[closer] = before[closer], _FROM_BEFORE
    skip = np.where(is_step, np.concatenate([[np.inf, np.inf], reached[:-2]]), np.inf)
    closer = skip < best
    best[closer], move[closer] = skip[closer], _SKIP_BACKGROUND
    return best, move


def align_by_maximum(scores: Floats) -> Flags:
    """Each step's highest second, without an order: int8 ``[T, K]``."""
    assignment = np.zeros(scores.shape, np.int8)
    if scores.size:
        assignment[scores.argmax(axis=0), np.arange(scores.shape[1])] = 1
    return assignment


def step_recall(assignment: Flags, truth: Flags) -> float:
    """Share of the annotated steps whose chosen second lies in the annotation; both ``[T, K]``.

    Raises:
        ValueError: no step is annotated.
    """
    found, annotated = step_counts(assignment, truth)
    if annotated == 0:
        raise ValueError("no step is annotated in this video: its recall is not defined")
    return found / annotated


def step_counts(assignment: Flags, truth: Flags) -> tuple[int, int]:
    """Steps found, and steps annotated: what a task's recall adds up over its videos."""
    found = ((assignment > 0) & (truth > 0)).any(axis=0).sum()
    return int(found), int((truth > 0).any(axis=0).sum())
