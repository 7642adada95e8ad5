"""One step's mathematics: embed, gather, loss, gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.training.batches import Batch
from pipeline.training.distributed import Ranks

Precision = Literal["float32", "bfloat16", "float16"]


def loss_and_gradients(
    model: nn.Module,
    loss: nn.Module,
    batch: Batch,
    ranks: Ranks,
    precision: Precision = "float32",
    scaler: torch.amp.GradScaler | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The global batch's loss; gradients are added to the parameters'.

    Args:
        model: batch → named embeddings.
        loss: named embeddings of the global batch → total, and terms by name.
        batch: this rank's part of the batch.
        ranks: who else has a part.
        precision: of the network; embeddings reach the loss in float32.
        scaler: scales the loss so that float16 gradients do not vanish.

    Returns:
        The total and its terms, detached, on the device; the same on all ranks.
    """
    total, terms = loss(ranks.gather(embed(model, batch, precision)))
    (total if scaler is None else scaler.scale(total)).backward()
    ranks.sum_gradients(model.parameters())
    return total.detach(), {name: term.detach() for name, term in terms.items()}


def embed(model: nn.Module, batch: Mapping[str, Any], precision: Precision) -> dict[str, Any]:
    """The model's outputs; the network in the given precision, embeddings in float32."""
    device = next(model.parameters()).device.type
    if precision == "float32":
        return dict(model(batch))
    with torch.autocast(device, dtype=getattr(torch, precision)):
        outputs = model(batch)
    return {name: _widen(value) for name, value in outputs.items()}


def _widen(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
