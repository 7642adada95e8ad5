"""The word vectors of a run: some stay with it, so that a network does not meet others unnoticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from pipeline.text.vocabulary import Vocabulary
from pipeline.text.words import WordVectors

KEPT = 256
"""Words of which a run keeps the vectors: the first, which are the most frequent."""


def keep_words(run: Path, words: Vocabulary) -> None:
    """Writes the run's ``words.parquet``; CLIP's pieces are the same everywhere and need none."""
    if isinstance(words, WordVectors):
        WordVectors(words.words[:KEPT], words.vectors[:KEPT]).save(run / "words.parquet")


def check_words(checkpoint: Path, words: Vocabulary, shards: Path) -> None:
    """Refuses words whose vectors are not those that a checkpoint's run was trained on.

    Vectors that were trained on one corpus mean nothing to a network that learnt those of another, though they are
    as wide. Only words that both have can be compared.

    Args:
        checkpoint: of a run, or a published one, of which nothing is known.
        words: what is put before the network.
        shards: the folder of shards that they are of.

    Raises:
        InputError: a word has another vector, or vectors have another width.
    """
    path = checkpoint.absolute().parent.parent / "words.parquet"
    if checkpoint.parent.name != "checkpoints" or not path.is_file() or not isinstance(words, WordVectors):
        return
    kept = WordVectors.load(path)
    if kept.vectors.shape[1] != words.vectors.shape[1]:
        raise InputError(
            f"{shards}: word vectors have {words.vectors.shape[1]} dimensions, but {kept.vectors.shape[1]} in the "
            f"shards that {checkpoint} was trained on: name the words.parquet of those when making these (extract "
            "--extract.words, convert --words)"
        )
    ids = {word: place for place, word in enumerate(words.words)}
    for word, vector in zip(kept.words, kept.vectors, strict=True):
        if word in ids and not np.allclose(words.vectors[ids[word]], vector, rtol=1e-4, atol=1e-6):
            raise InputError(
                f"{shards}: the word {word!r} has another vector here than in the shards that {checkpoint} was trained "
                "on: name the words.parquet of those when making these (extract --extract.words, convert --words)"
            )
