"""From a batch as it is stored to what a network takes: arithmetic on tensors, wherever they are.

The processes that read move bytes alone; this runs where the network does, on a GPU in its memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.shards.layout import Batch
from pipeline.shards.sample import LEVEL, LOUDEST


def decode_batch(batch: Batch) -> Batch:
    """A batch (see :class:`~pipeline.shards.layout.BatchLayout`) in the network's terms, on the same device.

    Returns:
        float32 ``video [B, T, D2 + D3]`` and ``video_mask [B, T]``; ``audio [B, 40, frames]``, decibels, and
        ``audio_mask [B, frames]``; ``text_mask [B, words]``; masks are 1 where something is, 0 behind it. What else
        the batch has is there too. Nothing shares memory with the batch.
    """
    kept = {
        name: value.clone() if isinstance(value, Tensor) else value
        for name, value in batch.items()
        if name not in ("features_2d", "features_3d", "places_2d", "video_tokens", "audio")
    }
    return {
        **kept,
        "video": video_tokens(batch["features_2d"], batch["places_2d"], batch["features_3d"]),
        "audio": spectrograms(batch["audio"]),
        "text_mask": (batch["word_ids"] >= 0).float(),
        "video_mask": _mask(batch["video_tokens"], batch["places_2d"].shape[1]),
        "audio_mask": _mask(batch["audio_nframes"], batch["audio"].shape[1]),
    }


def lengths_of(batch: Batch) -> dict[str, Tensor]:
    """How long a batch's clips are, ``[B]`` each: ``text``, words; ``video``, tokens; ``audio``, frames of sound."""
    words = (batch["word_ids"] >= 0).sum(dim=1)
    return {"text": words, "video": batch["video_tokens"], "audio": batch["audio_nframes"]}


def video_tokens(features_2d: Tensor, places_2d: Tensor, features_3d: Tensor) -> Tensor:
    """2D and 3D features, each at unit length, side by side; zeros stay zeros.

    Args:
        features_2d: ``[B, T, D2]``.
        places_2d: ``[B, T]``, which of them stands at each token.
        features_3d: ``[B, T, D3]``.

    Returns:
        float32 ``[B, T, D2 + D3]``.
    """
    width = features_2d.shape[2]
    video = torch.empty(*places_2d.shape, width + features_3d.shape[2], device=features_2d.device)
    for track, columns in ((stretched(features_2d, places_2d), slice(width)), (features_3d, slice(width, None))):
        if track.shape[2]:
            tokens = video[..., columns].copy_(track)
            # F.normalize would make a second copy of half a gigabyte
            tokens.div_(torch.linalg.vector_norm(tokens, dim=2, keepdim=True).clamp_(min=1e-12))
    return video


def stretched(features: Tensor, places: Tensor) -> Tensor:
    """``[B, T, D]``: feature ``places [B, T]`` of each clip's ``features [B, T, D]``."""
    clips, tokens, width = features.shape
    first = torch.arange(0, clips * tokens, tokens, device=places.device)
    rows = (places + first.unsqueeze(1)).flatten()
    return features.flatten(0, 1).index_select(0, rows).view(clips, tokens, width)


def spectrograms(audio: Tensor) -> Tensor:
    """Log-mel as stored, ``[B, frames, bands]`` → float32 decibels ``[B, bands, frames]``."""
    clips, frames, bands = audio.shape
    decibels = torch.empty(clips, bands, frames, device=audio.device).copy_(audio.transpose(1, 2))
    return decibels.sub_(LOUDEST).mul_(LEVEL) if audio.dtype == torch.uint8 else decibels


def _mask(counts: Tensor, length: int) -> Tensor:
    return (torch.arange(length, device=counts.device) < counts.unsqueeze(1)).float()
