"""Ids of a clip's words → features of words, on the device."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.backbones.clip_text import CONTEXT, START, clip_text_tower
from pipeline.errors import InputError
from pipeline.text.vocabulary import Vocabulary
from pipeline.text.words import WordVectors

_MOST_PIECES = CONTEXT - 2
"""Pieces of a text between CLIP's start and its end."""


class TextEncoder(Protocol):
    """What stands between a data set's word ids and a network."""

    def __call__(self, word_ids: Tensor, /) -> Tensor:
        """Int ``[clips, words]``, -1 is padding → float32 ``[clips, words, dim]``, zeros in padding."""


class WordTable:
    """Word vectors on a device: ids to vectors, padding to zeros."""

    def __init__(self, vectors: npt.NDArray[np.float32], device: torch.device) -> None:
        """Takes vectors ``[words, dim]``."""
        padding = np.zeros((1, vectors.shape[1]), np.float32)
        self.vectors = torch.from_numpy(np.concatenate([vectors, padding])).to(device)

    def __call__(self, word_ids: Tensor) -> Tensor:
        """Int ``[...]``, -1 is padding → float32 ``[..., dim]``."""
        # the padding's zeros are the last row: -1 finds them as it is
        return self.vectors[word_ids.long()]


class ClipText:
    """CLIP's frozen text tower: ids of pieces to the features of each in its text, as MFT's CLIP variant has them.

    They are the last layer's, projected into the space of texts and images, and not normalised; CLIP's start and end of
    a text have none (``trainer/clip_utils.py`` of github.com/ninatu/everything_at_once).
    """

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        """Takes the type of the tower's matrix products.

        Raises:
            InputError: the weights are neither in ``TORCH_HOME`` nor to be had.
        """
        self.tower = clip_text_tower(device)
        self.dtype = dtype

    def __call__(self, word_ids: Tensor) -> Tensor:
        """Int ``[clips, pieces]``, -1 is padding → float32 ``[clips, pieces, 512]``, zeros in padding.

        Raises:
            InputError: there are more than 75 pieces.
        """
        count = word_ids.shape[1]
        if count > _MOST_PIECES:
            raise InputError(
                f"CLIP takes at most {_MOST_PIECES} pieces of a text, not {count}: set clips.max_words and "
                "evaluate.max_words no higher"
            )
        padding = word_ids < 0
        # A piece sees only those before it: what stands behind the last one, CLIP's end too, changes nothing.
        ids = torch.nn.functional.pad(word_ids.long().clamp(min=0), (1, 0), value=START)
        with torch.no_grad(), torch.autocast(ids.device.type, self.dtype, enabled=self.dtype != torch.float32):
            features = self.tower(ids)[:, 1:]
        return features.float().masked_fill(padding[..., None], 0.0)


def text_encoder(vocabulary: Vocabulary, device: torch.device, dtype: torch.dtype = torch.float32) -> TextEncoder:
    """What makes features of a vocabulary's ids.

    Args:
        vocabulary: what the ids stand for.
        device: where they are.
        dtype: of matrix products, where there are any.

    Raises:
        InputError: CLIP's weights are neither in ``TORCH_HOME`` nor to be had.
    """
    if isinstance(vocabulary, WordVectors):
        return WordTable(vocabulary.vectors, device)
    return ClipText(device, dtype)
