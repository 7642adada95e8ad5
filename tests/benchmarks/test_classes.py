import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.benchmarks.classes import class_text, cluster_figures, zero_shot_accuracy


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ApplyEyeMakeup", "apply eye makeup"),
        ("brush_hair", "brush hair"),
        ("YoYo", "yo yo"),
        ("TaiChi", "tai chi"),
        ("HTTPServer2", "http server 2"),
        ("茶", "茶"),
    ],
)
def test_names_of_classes_become_words(name: str, text: str) -> None:
    assert class_text(name) == text


def test_accuracy_counts_clips_whose_class_comes_first() -> None:
    similarity = np.array(
        [[3.0, 2, 1, 0, 0, 0, 9], [1, 5, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, -1], [1, 2, 3, 4, 5, 6, 0]]
    )
    assert zero_shot_accuracy(similarity, np.array([0, 1, 6, 0])) == {"top1": 25.0, "top5": 50.0}


def test_classes_that_cannot_be_told_apart_are_no_hits() -> None:
    similarity = np.array([[3.0, 3, 1], [0, 0, 0], [1, 2, 3]])
    assert zero_shot_accuracy(similarity, np.array([0, 1, 2]))["top1"] == pytest.approx(100 / 3)


def test_perfect_and_useless_clusters() -> None:
    labels = np.repeat(np.arange(4), 5)
    perfect = cluster_figures((labels + 1) % 4, labels)
    assert perfect == pytest.approx({"nmi": 100.0, "accuracy": 100.0, "entropy": 0.0, "purity": 100.0}, abs=1e-9)
    useless = cluster_figures(np.zeros(20, int), labels)
    assert useless == pytest.approx({"nmi": 0.0, "accuracy": 25.0, "entropy": np.log(4), "purity": 25.0}, abs=1e-9)


def test_one_class_or_one_cluster_each() -> None:
    alone = cluster_figures(np.zeros(3, int), np.zeros(3, int))
    assert alone == {"nmi": 100.0, "accuracy": 100.0, "entropy": 0.0, "purity": 100.0}
    single = cluster_figures(np.arange(6), np.zeros(6, int))  # more clusters than classes
    assert single == pytest.approx({"nmi": 0.0, "accuracy": 100 / 6, "entropy": 0.0, "purity": 100.0}, abs=1e-9)
    own = cluster_figures(np.arange(6), np.arange(6))
    assert own == pytest.approx({"nmi": 100.0, "accuracy": 100.0, "entropy": 0.0, "purity": 100.0}, abs=1e-9)


def test_by_hand() -> None:
    figures = cluster_figures(np.array([0, 0, 0, 2, 2, 2]), np.array([0, 0, 1, 1, 1, 1]))
    share = np.array([2 / 3, 1 / 3])
    entropy = -(share * np.log(share)).sum()
    assert figures["entropy"] == pytest.approx(entropy / 2)
    assert figures["purity"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert figures["accuracy"] == pytest.approx(100 * 5 / 6)
    both = np.array([2, 1, 3]) / 6
    classes = np.array([2, 4]) / 6
    mutual = np.log(2) - (classes * np.log(classes)).sum() + (both * np.log(both)).sum()
    mean = (np.log(2) - (classes * np.log(classes)).sum()) / 2
    assert figures["nmi"] == pytest.approx(100 * mutual / mean)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=40), st.permutations(range(5)))
@settings(max_examples=40, deadline=None)
def test_names_of_clusters_do_not_matter(pairs: list[tuple[int, int]], renamed: list[int]) -> None:
    clusters, labels = (np.array(values) for values in zip(*pairs, strict=True))
    figures = cluster_figures(clusters, labels)
    assert cluster_figures(np.array(renamed)[clusters], labels) == pytest.approx(figures)
    assert -1e-9 <= figures["nmi"] <= 100 + 1e-9
    assert figures["accuracy"] <= 100
