"""Long sound to at most so many tokens, as MFT's evaluation does (*Everything at Once*, supplement)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

AudioPooling = Literal["none", "clip", "nearest", "max_pool", "avg_pool"]


def pool_tokens(tokens: Tensor, mask: Tensor, real: Tensor, limit: int, how: AudioPooling) -> tuple[Tensor, Tensor]:
    """Brings a batch of sequences to ``limit`` tokens.

    Where a sequence has more than ``limit`` real tokens, ``max_pool`` and ``avg_pool`` pool them adaptively and
    ``nearest`` resamples them; a sequence with fewer, and every sequence under ``clip``, keeps its first ones.

    Args:
        tokens: ``[batch, tokens, dim]``.
        mask: bool ``[batch, tokens]``.
        real: int64 ``[batch]``, how many tokens of each sequence are real.
        limit: tokens that stay; sequences that are no longer come back as they are.
        how: the strategy; ``none`` changes nothing.

    Returns:
        Tokens ``[batch, limit, dim]`` and their mask ``[batch, limit]``.
    """
    if how == "none" or tokens.shape[1] <= limit:
        return tokens, mask
    first = tokens[:, :limit]
    if how == "clip":
        return first, mask[:, :limit]
    real = real.clamp(max=tokens.shape[1]).unsqueeze(1)
    place = torch.arange(limit, device=tokens.device).unsqueeze(0)
    if how == "nearest":
        pooled = _take(tokens, _nearest_source(place, real, limit).unsqueeze(2)).squeeze(2)
    else:
        start = place * real // limit
        stop = -((place + 1) * -real // limit)
        window = torch.arange(-(-tokens.shape[1] // limit) + 1, device=tokens.device)
        source = start.unsqueeze(2) + window
        inside = source < stop.unsqueeze(2)
        # What lies past a bin's end repeats the bin's last token, which a maximum does not see.
        candidates = _take(tokens, torch.where(inside, source, stop.unsqueeze(2) - 1).clamp(min=0))
        if how == "max_pool":
            pooled = candidates.amax(dim=2)
        else:
            weights = inside.to(tokens.dtype)
            pooled = (candidates * weights.unsqueeze(3)).sum(dim=2) / weights.sum(dim=2, keepdim=True).clamp(min=1)
    return torch.where((real > limit).unsqueeze(2), pooled, first), mask[:, :limit]


def _nearest_source(place: Tensor, real: Tensor, limit: int) -> Tensor:
    # In float32, as torch.nn.functional.interpolate computes it.
    source = (place.float() * (real.float() / limit)).floor().long()
    return torch.minimum(source, (real - 1).clamp(min=0))


def _take(tokens: Tensor, places: Tensor) -> Tensor:
    """Tokens ``[batch, tokens, dim]`` at ``places [batch, limit, window]`` → ``[batch, limit, window, dim]``."""
    batch = torch.arange(len(tokens), device=tokens.device).view(-1, 1, 1)
    return tokens[batch, places]
