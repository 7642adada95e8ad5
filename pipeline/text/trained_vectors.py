"""Word vectors from a dataset's own captions, where no published ones are to be had.

Words that stand near the same words get similar vectors: the positive pointwise mutual information of words and their
neighbours, factorised (Levy and Goldberg, *Neural Word Embedding as Implicit Matrix Factorization*, NIPS 2014; weights
and exponents after Levy, Goldberg and Dagan, *Improving Distributional Similarity with Lessons Learned from Word
Embeddings*, TACL 2015). On small corpora that is as good as word2vec, and it takes no more than SciPy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np
import scipy.sparse as sparse
from scipy.sparse.linalg import svds

_WINDOW = 5
"""Neighbours of a word on each side; the nearest count fully, the farthest a fifth."""
_SMOOTHING = 0.75
"""Exponent of a neighbour's frequency: rare neighbours would tell too much otherwise."""
_DENSE = 2000
"""Words up to which all singular vectors are computed."""


def train_vectors(sentences: Sequence[Sequence[str]], dim: int, seed: int) -> tuple[list[str], np.ndarray]:
    """All words, the most frequent first, and their vectors, float32 ``[words, dim]`` of unit length.

    Args:
        sentences: the words of each caption.
        dim: width of a vector; where there are fewer words the vectors lie in a subspace.
        seed: turns the space in which the vectors lie.
    """
    words = [word for word, _ in Counter(chain.from_iterable(sentences)).most_common()]
    if not words:
        return [], np.empty((0, dim), np.float32)
    generator = np.random.default_rng(seed)
    information = _information(_neighbours(sentences, words))
    rank = min(dim, len(words))
    if len(words) <= _DENSE or rank == len(words):
        left, values, _ = np.linalg.svd(information.toarray())
    else:
        left, values, _ = svds(information, rank, v0=generator.standard_normal(len(words)))
    vectors = left[:, :rank] * np.sqrt(values[:rank])
    # a turn keeps all angles, and gives each dimension its share
    turn, _ = np.linalg.qr(generator.standard_normal((dim, rank)))
    vectors = vectors @ turn.T
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return words, (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


def _neighbours(sentences: Sequence[Sequence[str]], words: Sequence[str]) -> sparse.csr_array:
    """How often each word stands near each other one, and once near itself: ``[words, words]``."""
    places = {word: place for place, word in enumerate(words)}
    ids = np.fromiter((places[word] for word in chain.from_iterable(sentences)), np.int64)
    owners = np.repeat(np.arange(len(sentences)), [len(sentence) for sentence in sentences])
    # a word that is alone in its captions has a vector, too
    counts = sparse.csr_array(sparse.eye_array(len(words)))
    for distance in range(1, _WINDOW + 1):
        together = owners[distance:] == owners[:-distance]
        first, second = ids[:-distance][together], ids[distance:][together]
        weights = np.full(len(first), 1 - (distance - 1) / _WINDOW)
        pairs = sparse.csr_array((weights, (first, second)), counts.shape)
        counts = counts + pairs + pairs.T
    return counts


def _information(counts: sparse.csr_array) -> sparse.csr_array:
    """The positive pointwise mutual information of words (rows) and their neighbours (columns)."""
    of_words = counts.sum(axis=1)
    of_neighbours = of_words**_SMOOTHING
    of_neighbours /= of_neighbours.sum()
    pairs = counts.tocoo()
    rows, columns = pairs.coords
    information = np.log(pairs.data / (of_words[rows] * of_neighbours[columns]))
    return sparse.csr_array((np.maximum(information, 0), (rows, columns)), counts.shape)
