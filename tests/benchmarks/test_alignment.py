import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.benchmarks.alignment import align_by_maximum, align_steps, step_counts, step_recall
from tests.conftest import GOLDEN, needs_shared


@needs_shared
@pytest.mark.parametrize("case", range(5))
def test_equals_the_published_alignment(case: int) -> None:
    golden = np.load(GOLDEN / "step_alignment.npz")
    assignment = align_steps(golden[f"{case}/scores"], bool(golden[f"{case}/exactly_one"]))
    assert np.array_equal(assignment, golden[f"{case}/assignment"])
    assert step_recall(assignment, golden[f"{case}/truth"]) == golden[f"{case}/recall"]


@given(st.integers(1, 4), st.integers(1, 8), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_one_second_per_step_is_the_best_of_all_ordered_choices(steps: int, spare: int, seed: int) -> None:
    scores = np.random.default_rng(seed).standard_normal((steps + spare, steps)).astype(np.float32)
    choices = itertools.combinations(range(steps + spare), steps)
    best = max(scores[list(choice), range(steps)].astype(np.float64).sum() for choice in choices)
    assignment = align_steps(scores)
    assert assignment.sum(axis=0).tolist() == [1] * steps
    assert (np.diff(assignment.argmax(axis=0)) > 0).all()
    assert scores[assignment == 1].astype(np.float64).sum() == pytest.approx(best)


def test_steps_may_last_when_more_than_one_second_is_allowed() -> None:
    scores = np.array([[-1, -1], [2, -1], [2, -1], [-1, 3], [-1, -1]], np.float32)
    assert align_steps(scores, exactly_one=False).T.tolist() == [[0, 1, 1, 0, 0], [0, 0, 0, 1, 0]]


@pytest.mark.parametrize("seconds", [0, 1, 2])
def test_a_video_shorter_than_its_steps_has_no_path(seconds: int) -> None:
    assert not align_steps(np.ones((seconds, 3), np.float32)).any()


def test_as_many_seconds_as_steps() -> None:
    scores = np.ones((3, 3), np.float32)
    assert np.array_equal(align_steps(scores), np.eye(3))
    scores[-1, -1] = -1  # the published program's reading of this corner
    assert not align_steps(scores).any()


def test_a_long_video_with_many_steps() -> None:
    scores = np.random.default_rng(0).standard_normal((3 * 3600, 100)).astype(np.float32)
    assert align_steps(scores).sum(axis=0).tolist() == [1] * 100


def test_recall_counts_annotated_steps_only() -> None:
    truth = np.array([[1, 0, 0], [1, 0, 1], [0, 0, 0]], np.int8)
    chosen = align_by_maximum(np.array([[0, 5, 9], [1, 0, 0], [0, 0, 0]], np.float32))
    assert step_counts(chosen, truth) == (1, 2)
    assert step_recall(chosen, truth) == 0.5
    with pytest.raises(ValueError, match="no step is annotated"):
        step_recall(chosen, np.zeros_like(truth))
