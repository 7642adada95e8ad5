"""Words to ids, and their vectors.

A sample holds word ids; the vectors are stored once per dataset. Word vectors come from a published file, of which
only the words that the dataset uses are kept, or are trained on its captions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.replacing import replace_file
from pipeline.text.collection import collection_file
from pipeline.text.trained_vectors import train_vectors
from pipeline.text.vector_files import read_stored, read_vectors

_WORD = re.compile(r"[\w']+")


def tokenize(text: str) -> list[str]:
    """The words of a caption, as MIL-NCE, MCN and MFT split them; case is kept."""
    return _WORD.findall(text)


class WordVectors:
    """A vocabulary with one vector per word; a word's id is its row."""

    def __init__(self, words: list[str], vectors: np.ndarray) -> None:
        """Takes the words and their vectors, float32 ``[words, dim]``."""
        if len(words) != len(vectors):
            raise ValueError(f"{len(words)} words but {len(vectors)} vectors")
        self.words = words
        self.vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self._ids: Mapping[str, int] = {word: place for place, word in enumerate(words)}
        if len(self._ids) != len(words):
            raise ValueError("a word is there twice")

    def __len__(self) -> int:
        return len(self.words)

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return int(self.vectors.shape[1])

    def ids(self, text: str) -> np.ndarray:
        """The ids of a caption's words, int32 ``[n]``; words without a vector are left out."""
        known = (self._ids.get(word) for word in tokenize(text))
        return np.array([place for place in known if place is not None], dtype=np.int32)

    def save(self, path: str | Path) -> None:
        """Writes a Parquet file: ``word`` string, ``vector`` list of ``dim`` float32; whole or not there."""
        flat = pa.array(self.vectors.ravel())
        table = pa.table(
            {
                "word": pa.array(self.words, pa.string()),
                "vector": pa.FixedSizeListArray.from_arrays(flat, self.dim),
            }
        )
        write_words(table, path)

    @classmethod
    def load(cls, path: str | Path) -> WordVectors:
        """Reads what :meth:`save` wrote; raises :class:`InputError`."""
        return cls(*read_stored(path))


def write_words(table: pa.Table, path: str | Path) -> None:
    """Writes a table of words; whoever reads sees all of it."""
    replace_file(Path(path), lambda part: pq.write_table(table, part, compression="zstd"))


def build_word_vectors(
    source: str, captions: Iterable[str], dim: int = 300, seed: int = 1, common: int = 0
) -> WordVectors:
    """Vectors for the words of a dataset's captions.

    Args:
        source: ``corpus``: trained on the captions; a file (``.bin``, ``.txt``, ``.vec``, each also with ``.gz``;
            ``.kv``; ``words.parquet`` of other shards); else a name in gensim's collection, such as
            ``word2vec-google-news-300``.
        captions: all narration of the dataset.
        dim: width of vectors that are trained; a file has its own.
        seed: of the training.
        common: so many of a file's most frequent words are taken as well, for captions that are not known yet.

    Returns:
        the words that occur in the captions and have a vector; the same for the same input, whatever the process's
        hash seed.

    Raises:
        InputError: no such file, no such name, or no connection to fetch it.
    """
    if source == "corpus":
        return WordVectors(*train_vectors([tokenize(caption) for caption in captions], dim, seed))
    is_file = Path(source).is_file() or Path(source.removesuffix(".gz")).suffix in (
        ".bin",
        ".txt",
        ".vec",
        ".kv",
        ".parquet",
    )
    path = Path(source) if is_file else collection_file(source)
    return WordVectors(*read_vectors(path, {word for caption in captions for word in tokenize(caption)}, common))
