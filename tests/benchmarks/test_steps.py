import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.benchmarks.steps import (
    VideoSteps,
    average_precision,
    cooking_or_other,
    localisation_figures,
    log_shares,
    own_steps,
    own_truth,
    step_truth,
)
from pipeline.types import Caption


def test_a_segment_counts_from_its_first_second_to_its_last() -> None:
    captions = [Caption(1.4, 3.1, "stir"), Caption(0.0, 1.0, "talk"), Caption(8.5, 99.0, "pour")]
    truth = step_truth(captions, ("pour", "stir"), 10)
    assert np.flatnonzero(truth[:, 1]).tolist() == [1, 2, 3]
    assert np.flatnonzero(truth[:, 0]).tolist() == [8, 9]


def test_a_segment_may_begin_before_its_video() -> None:
    captions = [Caption(-0.5, 1.5, "stir"), Caption(-3.0, -1.0, "pour")]
    expected = [[1, 1, 0], [0, 0, 0]]
    assert step_truth(captions, ("stir", "pour"), 3).T.tolist() == expected
    assert own_truth(captions, 3).T.tolist() == expected


def test_without_a_list_of_steps_each_segment_is_one_even_where_names_repeat() -> None:
    captions = [Caption(0.0, 2.0, "crack egg"), Caption(2.0, 3.0, "stir"), Caption(4.0, 5.0, "crack egg")]
    assert own_steps("v", captions).steps == ("crack egg", "stir", "crack egg")
    assert own_truth(captions, 5).T.tolist() == [[1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]


def test_log_shares_are_torchs_log_softmax() -> None:
    scores = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32) * 100
    expected = torch.log_softmax(torch.from_numpy(scores), dim=1).numpy()
    np.testing.assert_allclose(log_shares(scores), expected, rtol=1e-5, atol=1e-5)


def test_groups_of_crosstask() -> None:
    assert cooking_or_other("40567") == "other"
    assert cooking_or_other("91515") == "cooking"


def test_average_precision_by_hand() -> None:
    truth = np.array([1, 0, 1, 0])
    assert average_precision(np.array([4.0, 3.0, 2.0, 1.0]), truth) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert average_precision(np.array([1.0, 1.0, 1.0, 1.0]), truth) == pytest.approx(0.5)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=20), st.randoms())
@settings(max_examples=40, deadline=None)
def test_average_precision_does_not_depend_on_the_order(rows: list[tuple[int, bool]], random: object) -> None:
    rows.append((2, True))
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = (
        average_precision(np.array([float(score) for score, _ in order]), np.array([hit for _, hit in order]))
        for order in (rows, shuffled)
    )
    assert first == pytest.approx(second)
    assert 0 < first <= 1


def test_figures_per_task_and_group() -> None:
    truth = np.zeros((6, 2), np.int8)
    truth[1, 0] = truth[4, 1] = 1
    right, wrong = 5.0 * truth, np.zeros((6, 2))
    wrong[0, 0] = wrong[5, 1] = 5.0
    videos = [VideoSteps("a", "tea", right, truth), VideoSteps("b", "tea", wrong, truth)]
    only_one = np.zeros((3, 1), np.int8)
    only_one[1, 0] = 1
    videos += [
        VideoSteps("c", "shelf", only_one.astype(float), only_one),
        VideoSteps("d", "shelf", np.ones((3, 1)), only_one * 0),
    ]
    figures = localisation_figures(videos, {"tea": "cooking", "shelf": "other"})
    assert figures["tasks"]["tea"]["recall"] == 50.0
    assert figures["tasks"]["tea"]["recall_of_videos"] == 50.0
    assert figures["tasks"]["shelf"]["videos"] == 1
    assert figures["groups"]["cooking"]["recall"] == 50.0
    assert figures["groups"]["all"]["recall"] == 75.0
    assert figures["groups"]["other"]["mAP"] == 100.0


def test_recall_over_all_steps_of_a_task_and_mean_over_its_videos_differ() -> None:
    long_truth, short_truth = np.eye(4, dtype=np.int8), np.zeros((4, 4), np.int8)
    short_truth[0, 0] = 1
    videos = [
        VideoSteps("a", "tea", np.eye(4) * 9.0, long_truth),
        VideoSteps("b", "tea", np.roll(np.eye(4), 1, axis=0) * -9.0, short_truth[::-1]),
    ]
    figures = localisation_figures(videos)["tasks"]["tea"]
    assert figures["recall"] == pytest.approx(100 * 4 / 5)
    assert figures["recall_of_videos"] == pytest.approx(50.0)
