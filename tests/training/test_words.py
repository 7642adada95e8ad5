from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.text.words import WordVectors
from pipeline.training.words import KEPT, check_words, keep_words


def trained(run: Path) -> tuple[Path, WordVectors]:
    """A run's checkpoint, and the words of its shards."""
    vectors = np.random.default_rng(1).standard_normal((KEPT + 5, 4)).astype(np.float32)
    words = WordVectors([f"word{number}" for number in range(KEPT + 5)], vectors)
    (run / "checkpoints").mkdir(parents=True)
    keep_words(run, words)
    return run / "checkpoints" / "step-00000001.pt", words


def test_the_same_vectors_in_another_order_serve(tmp_path: Path) -> None:
    checkpoint, words = trained(tmp_path / "run")
    check_words(
        checkpoint, WordVectors(["new", *words.words[7:2:-1]], np.vstack([np.ones(4), words.vectors[7:2:-1]])), tmp_path
    )


def test_a_word_with_another_vector_is_named(tmp_path: Path) -> None:
    checkpoint, _ = trained(tmp_path / "run")
    others = WordVectors(["new", "word3"], np.ones((2, 4)))
    with pytest.raises(InputError, match=r"shards/b: the word 'word3' has another vector"):
        check_words(checkpoint, others, Path("shards/b"))


def test_vectors_of_another_width_are_refused(tmp_path: Path) -> None:
    checkpoint, _ = trained(tmp_path / "run")
    with pytest.raises(InputError, match=r"shards/b: word vectors have 6 dimensions, but 4"):
        check_words(checkpoint, WordVectors(["word3"], np.ones((1, 6))), Path("shards/b"))


def test_of_a_published_checkpoint_nothing_is_known(tmp_path: Path) -> None:
    _, words = trained(tmp_path / "run")
    check_words(tmp_path / "latest_model.pth", WordVectors(words.words, -words.vectors), tmp_path)
