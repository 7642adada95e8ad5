"""From the loader's arrays to what a network takes: on the device, words as features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.config import ModelSettings
from pipeline.errors import InputError
from pipeline.shards.decoding import decode_batch
from pipeline.text.vocabulary import Vocabulary
from pipeline.text.words import WordVectors
from pipeline.training.text import TextEncoder, text_encoder

Batch = dict[str, Any]
Prepare = Callable[[Mapping[str, Any]], Batch]
"""A loader's batch → the model's."""


def to_device(batch: Mapping[str, Any], text: TextEncoder, device: torch.device) -> Batch:
    """A loader's batch as a network takes it.

    Its bytes go to the device as they are stored, where :func:`~pipeline.shards.decoding.decode_batch` makes tensors of
    them and ``word_ids`` becomes ``text [clips, words, dim]``. When it returns, the loader's memory is free to be used
    again.
    """
    decoded = decode_batch(_to_gpu(batch, device) if device.type == "cuda" else dict(batch))
    decoded["text"] = text(decoded.pop("word_ids"))
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


def preparation(
    shards: Path,
    words: Vocabulary,
    settings: ModelSettings,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Prepare:
    """Readies batches of the shards in a folder for a model on a device.

    Args:
        shards: the folder, for messages.
        words: what its word ids stand for.
        settings: the model's.
        device: where the model is.
        dtype: of the matrix products that CLIP's text takes.

    Raises:
        InputError: the widths of words or video tokens are not the model's, or CLIP's weights are missing.
    """
    if words.dim != settings.text_dim:
        kind = "word vectors have" if isinstance(words, WordVectors) else "CLIP's text has"
        raise InputError(
            f"{shards}: {kind} {words.dim} dimensions, the model takes {settings.text_dim}: "
            f"set --model.text_dim {words.dim}, or take shards with the words that it was trained on"
        )
    text = text_encoder(words, device, dtype)

    def prepare(batch: Mapping[str, Any]) -> Batch:
        width = batch["features_2d"].shape[-1] + batch["features_3d"].shape[-1]
        if width != settings.video_dim:
            raise InputError(
                f"{shards}: video tokens have {width} dimensions, the model takes {settings.video_dim}: "
                + (f"set --model.video_dim {width}, or " if width else "no video in them has features; ")
                + "take shards of the backbones that it was trained on"
            )
        return to_device(batch, text, device)

    return prepare
