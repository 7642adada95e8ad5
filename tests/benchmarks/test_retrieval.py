import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.benchmarks.retrieval import chance, main_direction, match_ranks, metrics_of_ranks, retrieval_metrics
from tests.conftest import GOLDEN, needs_shared


@needs_shared
@pytest.mark.parametrize("case", range(4))
def test_equals_the_published_metrics(case: int) -> None:
    golden = np.load(GOLDEN / "retrieval.npz")
    ours = retrieval_metrics(golden[f"{case}/similarity"], int(golden[f"{case}/total"])).to_dict()
    expected = {name: float(golden[f"{case}/{name}"]) for name in ours}
    mean = "geometric_mean_R1-R5-R10"
    assert ours.pop(mean) == pytest.approx(expected.pop(mean), rel=1e-12)
    assert ours == expected


def test_ties_count_as_their_mean_position() -> None:
    similarity = np.array([[0.5, 0.5, 0.5, 0.1], [0.0, 0.3, 0.9, 0.3], [0, 0, 1, 0], [1, 1, 1, 0.0]])
    assert match_ranks(similarity).tolist() == [1.0, 1.5, 0.0, 3.0]


def test_missing_clips_are_misses_in_recall_but_have_no_rank() -> None:
    metrics = retrieval_metrics(np.eye(4), total=8)
    assert (metrics.R1, metrics.R10, metrics.MedR, metrics.MeanR) == (50.0, 50.0, 1.0, 1.0)


@given(st.integers(2, 30), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_ranks_do_not_depend_on_the_order_of_clips(clips: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    similarity = random.integers(0, 5, (clips, clips)).astype(np.float32)
    order = random.permutation(clips)
    assert match_ranks(similarity[order][:, order]).tolist() == match_ranks(similarity)[order].tolist()


def test_chance_is_the_average_over_all_orders() -> None:
    ranks = np.arange(60)
    expected = chance(60)
    assert metrics_of_ranks(ranks).to_dict() == pytest.approx(expected.to_dict())
    assert chance(50, total=100).R1 == 1.0


def test_refuses_what_cannot_be_ranked() -> None:
    with pytest.raises(ValueError, match="not finite"):
        match_ranks(np.array([[np.nan]]))
    with pytest.raises(ValueError, match="only 2 candidates"):
        match_ranks(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="test set of 2"):
        retrieval_metrics(np.eye(3), total=2)


def test_a_model_is_judged_by_text_to_all_else_if_it_gives_that():
    assert main_direction(["t2v", "v2t", "t2va", "t2v+a"]) == "t2va"
    assert main_direction({"t2v": 1, "t2v+a": 2}) == "t2v+a"
    assert main_direction(["v2a", "a2v"]) == "a2v"
    assert main_direction(["t2a", "a2t"]) == "t2a"
