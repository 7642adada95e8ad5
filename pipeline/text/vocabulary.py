"""What the word ids of a data set stand for: words with vectors, or CLIP's pieces of words."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.text import clip_vocabulary
from pipeline.text.clip_vocabulary import ClipVocabulary
from pipeline.text.words import WordVectors, build_word_vectors

Vocabulary = WordVectors | ClipVocabulary
"""Both turn a text into ids, and know the width of what the ids become for a network."""


def build_vocabulary(source: str, captions: Iterable[str], dim: int = 300, common: int = 0) -> Vocabulary:
    """The vocabulary of a dataset's captions.

    Args:
        source: ``clip``: CLIP's, whatever the captions are; else as for :func:`build_word_vectors`, like all that
            follows.
        captions: all narration of the dataset.
        dim: width of vectors that are trained.
        common: so many of a file's most frequent words are taken as well.

    Raises:
        InputError: no such file, no such name, or no connection to fetch it.
    """
    if source == clip_vocabulary.NAME:
        return ClipVocabulary()
    return build_word_vectors(source, captions, dim, common=common)


def load_vocabulary(path: str | Path) -> Vocabulary:
    """Reads what either kind's ``save`` wrote.

    Raises:
        InputError: the file is not there, is none of words, or of a kind that is not known here.
    """
    kind = _kind(path)
    if kind == clip_vocabulary.NAME:
        return ClipVocabulary()
    if kind:
        raise InputError(f"{path}: has the vocabulary {kind}, which is not known here: update this package")
    return WordVectors.load(path)


def check_kind(path: str | Path, source: str) -> None:
    """Refuses to mix ids of words and ids of CLIP's pieces; what is not there can be made of any source.

    Raises:
        InputError: the file is of the other kind than the source's.
    """
    is_clip, wants_clip = _kind(path) == clip_vocabulary.NAME, source == clip_vocabulary.NAME
    if Path(path).exists() and is_clip != wants_clip:
        has = "CLIP's pieces" if is_clip else "words with vectors"
        raise InputError(
            f"{path}: the ids here stand for {has}, not for {source}: take the same words as before, or another folder"
        )


def _kind(path: str | Path) -> str:
    try:
        return (pq.read_schema(path).metadata or {}).get(b"vocabulary", b"").decode()
    except (pa.ArrowInvalid, OSError):
        return ""  # whoever reads it whole finds out what is wrong
