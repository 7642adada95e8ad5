"""From the loader's arrays to what a network takes: on the device, words looked up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.config import ModelSettings
from pipeline.errors import InputError
from pipeline.shards.decoding import decode_batch
from pipeline.text.words import WordVectors

Batch = dict[str, Any]
Prepare = Callable[[Mapping[str, Any]], Batch]
"""A loader's batch → the model's."""


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


def to_device(batch: Mapping[str, Any], words: WordTable, device: torch.device) -> Batch:
    """A loader's batch as a network takes it.

    Its bytes go to the device as they are stored, where :func:`~pipeline.shards.decoding.decode_batch` makes tensors of
    them and ``word_ids`` becomes ``text [clips, words, dim]``. When it returns, the loader's memory is free to be used
    again.
    """
    decoded = decode_batch(_to_gpu(batch, device) if device.type == "cuda" else dict(batch))
    decoded["text"] = words(decoded.pop("word_ids"))
    return decoded


def _to_gpu(batch: Mapping[str, Any], device: torch.device) -> Batch:
    """Copies beside the work of the step before: this waits for the copies alone, not for that step."""
    computing, copying = torch.cuda.current_stream(device), _copy_stream(device)
    with torch.cuda.stream(copying):
        moved = {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in batch.items()
        }
    copying.synchronize()
    for value in moved.values():
        if isinstance(value, Tensor):
            value.record_stream(computing)
    return moved


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def preparation(shards: Path, vectors: WordVectors, settings: ModelSettings, device: torch.device) -> Prepare:
    """Readies batches of the shards in a folder, with their word vectors, for a model on a device.

    Raises:
        InputError: the widths of words or video tokens are not the model's.
    """
    if vectors.dim != settings.text_dim:
        raise InputError(
            f"{shards}: word vectors have {vectors.dim} dimensions, the model takes {settings.text_dim}: "
            f"set --model.text_dim {vectors.dim}"
        )
    words = WordTable(vectors.vectors, device)

    def prepare(batch: Mapping[str, Any]) -> Batch:
        width = batch["features_2d"].shape[-1] + batch["features_3d"].shape[-1]
        if width != settings.video_dim:
            raise InputError(
                f"{shards}: video tokens have {width} dimensions, the model takes {settings.video_dim}: "
                f"set --model.video_dim {width}"
            )
        return to_device(batch, words, device)

    return prepare
