from collections.abc import Callable

import numpy as np
import pytest

from pipeline.text import trained_vectors
from pipeline.text.trained_vectors import train_vectors

KITCHEN = ["whisk the egg in the bowl", "whisk the cream in the bowl", "pour the egg", "pour the cream"]
GARAGE = ["lift the car with a jack", "lift the van with a jack", "wash the car", "wash the van"]
SENTENCES = [caption.split() for caption in [*KITCHEN, *GARAGE] * 3]


@pytest.fixture(params=["dense", "sparse"])
def train(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, np.ndarray]]:
    monkeypatch.setattr(trained_vectors, "_DENSE", 2000 if request.param == "dense" else 0)
    return lambda sentences, dim, seed=1: dict(zip(*train_vectors(sentences, dim, seed), strict=True))


def test_words_with_the_same_neighbours_are_alike(train: Callable[..., dict[str, np.ndarray]]) -> None:
    vectors = train(SENTENCES, 6)
    assert set(vectors) == {word for sentence in SENTENCES for word in sentence} and next(iter(vectors)) == "the"
    for vector in vectors.values():
        assert vector.shape == (6,) and vector.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vector), 1, rtol=1e-5)
    for pair, other in ((("egg", "cream"), "car"), (("car", "van"), "cream"), (("whisk", "bowl"), "jack")):
        first, second = (vectors[word] for word in pair)
        assert first @ second > 0.5 > first @ vectors[other]


def test_the_seed_turns_the_space_and_keeps_its_angles(train: Callable[..., dict[str, np.ndarray]]) -> None:
    first, again, turned = (np.stack(list(train(SENTENCES, 6, seed).values())) for seed in (1, 1, 2))
    np.testing.assert_array_equal(again, first)
    assert np.abs(turned - first).max() > 0.1
    np.testing.assert_allclose(turned @ turned.T, first @ first.T, atol=1e-5)


def test_more_dimensions_than_words_and_words_without_neighbours(train: Callable[..., dict[str, np.ndarray]]) -> None:
    vectors = train([["hello"], ["stop"], [], ["hello"]], 5)
    assert list(vectors) == ["hello", "stop"]
    np.testing.assert_allclose(
        [vectors["hello"] @ vectors["hello"], vectors["hello"] @ vectors["stop"]], [1, 0], atol=1e-6
    )
    assert train([], 5) == {}
