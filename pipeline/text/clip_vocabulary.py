"""CLIP's vocabulary: words to ids of the pieces that its byte pair encoding cuts them into.

Sennrich et al., *Neural Machine Translation of Rare Words with Subword Units*, 2016. Vocabulary and merges are those
that OpenAI published with CLIP, as they come with ``open_clip_torch``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa

from pipeline.errors import InputError
from pipeline.text.words import tokenize, write_words

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer

NAME = "clip"


class ClipVocabulary:
    """49,408 pieces; an id is a piece's row. There are no vectors: CLIP's text tower gives a piece its features."""

    dim: ClassVar[int] = 512
    """Width of the tower's features."""

    def ids(self, text: str) -> np.ndarray:
        """The ids of a caption's pieces, int32 ``[n]``, without CLIP's start and end; punctuation is left out.

        The words of several captions, one behind the other, have the captions' ids, one behind the other.

        Raises:
            InputError: ``open_clip_torch`` is not installed.
        """
        # MFT's CLIP variant gives CLIP the words that it looks vectors up for, joined by spaces
        return np.array(_tokenizer().encode(" ".join(tokenize(text))), dtype=np.int32)

    def save(self, path: str | Path) -> None:
        """Writes a Parquet file: ``word`` string, a piece per row; its schema's metadata say ``vocabulary: clip``.

        Raises:
            InputError: ``open_clip_torch`` is not installed.
        """
        pieces = _tokenizer().decoder
        words = pa.array([pieces[place] for place in range(len(pieces))], pa.string())
        write_words(pa.table({"word": words}).replace_schema_metadata({"vocabulary": NAME}), path)


@cache
def _tokenizer() -> SimpleTokenizer:
    try:
        from open_clip.tokenizer import SimpleTokenizer  # takes seconds to import, and few recipes need it
    except ModuleNotFoundError as error:
        raise InputError(
            f"CLIP's text needs the module {error.name}, which is not installed: pip install 'howto-pipeline[clip]'"
        ) from None
    return SimpleTokenizer()
