"""From the loader's arrays to what a network takes: on the device, words looked up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Batch = dict[str, Any]


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


def to_device(batch: Mapping[str, Any], words: WordTable | None, device: torch.device) -> Batch:
    """A loader's batch as a network takes it.

    Tensors go to the device, float16 becomes float32, and ``word_ids`` becomes ``text [clips, words, dim]``; what is
    no tensor stays.
    """
    moved: Batch = {}
    for name, value in batch.items():
        if isinstance(value, Tensor):
            value = value.to(device, non_blocking=True)
            value = value.float() if value.dtype == torch.float16 else value
        moved[name] = value
    if words is not None and "word_ids" in moved:
        moved["text"] = words(moved.pop("word_ids"))
    return moved
