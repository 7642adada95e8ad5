"""Readers of published word vectors, which keep only the words that are wanted: memory does not grow with the file."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Set
from io import BufferedReader
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError

_File = gzip.GzipFile | BufferedReader
_READ_BYTES = 1 << 20
_PEEKED = 256
"""Bytes that tell text from binary numbers: a word and its first numbers."""
_NUMBERS = re.compile(rb"[-+.\deE \r]+")


def read_vectors(path: Path, wanted: Set[str], common: int = 0) -> tuple[list[str], np.ndarray]:
    """The wanted words that a file has, in its order, and their vectors, float32 ``[words, dim]``.

    Args:
        path: gensim's format (``.kv``), the ``words.parquet`` of other shards, else one of word2vec's, binary or text,
            which may be gzipped.
        wanted: words to keep.
        common: so many of the file's first words are kept as well; published files begin with the most frequent.

    Raises:
        InputError: the file is not there, or not in that format.
    """
    if not path.is_file():
        raise InputError(f"{path}: there are no word vectors here")
    if path.suffix == ".kv":
        return _from_gensim(path, wanted, common)
    if path.suffix == ".parquet":
        stored, vectors = read_stored(path)
        kept = [number for number, word in enumerate(stored) if number < common or word in wanted]
        return [stored[number] for number in kept], vectors[kept]
    found: dict[str, np.ndarray] = {}
    dim = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            count, dim = (int(number) for number in file.readline().split())
            rows = (_text_rows if _is_text(file) else _binary_rows)(file, count, dim)
            for number, (word, vector) in enumerate(rows):
                if (number < common or word in wanted) and word not in found:
                    found[word] = vector
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path}: not word vectors in word2vec's format ({error})") from None
    return list(found), np.stack(list(found.values())) if found else np.empty((0, dim), np.float32)


def read_stored(path: str | Path) -> tuple[list[str], np.ndarray]:
    """The words and vectors float32 ``[words, dim]`` of a ``words.parquet``.

    Raises:
        InputError: the file is not there, or none of word vectors.
    """
    try:
        table = pq.read_table(path, columns=["word", "vector"])
    except FileNotFoundError:
        raise InputError(f"{path}: there are no word vectors here; `python -m pipeline.extract` makes them") from None
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise InputError(f"{path}: not a file of word vectors ({' '.join(str(error).split())})") from None
    column = table["vector"].combine_chunks()
    if not pa.types.is_fixed_size_list(column.type):
        raise InputError(f"{path}: not a file of word vectors (its vectors are {column.type}, not of one length)")
    return table["word"].to_pylist(), column.flatten().to_numpy().reshape(-1, column.type.list_size)


def _from_gensim(path: Path, wanted: Set[str], common: int) -> tuple[list[str], np.ndarray]:
    try:
        from gensim.models import KeyedVectors
    except ImportError:
        raise InputError(
            f"{path}: only gensim reads its own format: pip install gensim (which knows no Python newer than 3.13), or "
            "save the vectors with its save_word2vec_format and name that file"
        ) from None
    try:
        stored = KeyedVectors.load(str(path), mmap="r")
    except Exception as error:  # a damaged pickle may raise anything
        raise InputError(f"{path}: not gensim's word vectors ({' '.join(str(error).split())})") from None
    words = [word for number, word in enumerate(stored.index_to_key) if number < common or word in wanted]
    rows = [stored.key_to_index[word] for word in words]
    return words, np.asarray(stored.vectors[rows], dtype=np.float32).reshape(len(words), stored.vector_size)


def _is_text(file: _File) -> bool:
    """Whether numbers are written out behind the first row's word; nothing is read."""
    numbers = file.peek(_PEEKED)[:_PEEKED].partition(b" ")[2].partition(b"\n")[0]
    return _NUMBERS.fullmatch(numbers) is not None


def _binary_rows(file: _File, count: int, dim: int) -> Iterator[tuple[str, np.ndarray]]:
    """Rows of word2vec's binary format: a word, a space, ``dim`` little-endian float32, perhaps a line's end."""
    row_bytes = 4 * dim
    pending, start = b"", 0
    for _ in range(count):
        while (space := pending.find(b" ", start)) < 0 or len(pending) < space + 1 + row_bytes:
            data = file.read(_READ_BYTES)
            if not data:
                raise EOFError("it ends early")
            pending, start = pending[start:] + data, 0
        word = pending[start:space].lstrip(b"\n").decode("utf-8", "replace")
        yield word, np.frombuffer(pending, "<f4", dim, space + 1).copy()
        start = space + 1 + row_bytes


def _text_rows(file: _File, count: int, dim: int) -> Iterator[tuple[str, np.ndarray]]:
    for _ in range(count):
        line = file.readline()
        if not line:
            raise EOFError("it ends early")
        word, *numbers = line.decode("utf-8", "replace").rstrip().split(" ")
        if len(numbers) != dim:
            raise ValueError(f"a line has {len(numbers)} numbers, not {dim}")
        yield word, np.array(numbers, np.float32)
