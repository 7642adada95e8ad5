"""What training minimises."""

from __future__ import annotations

from functools import partial

from pipeline.config import LossSettings
from pipeline.objectives.base import Loss
from pipeline.objectives.combinatorial import CombinatorialLoss, ContrastiveLoss
from pipeline.objectives.contrastive import mil_nce, mms, norm_softmax
from pipeline.objectives.multimodal import MultimodalLoss

__all__ = ["CombinatorialLoss", "Loss", "MultimodalLoss", "build_loss", "mil_nce", "mms", "norm_softmax"]


def build_loss(settings: LossSettings) -> CombinatorialLoss | MultimodalLoss:
    """The loss; called on a model's outputs it gives the total and the terms by name.

    MCN's holds clusters: it is in training or evaluation mode like a network, and its state belongs in checkpoints.

    Raises:
        InputError: weights of unknown terms, or none at all; settings of clusters that contradict each other.
    """
    if settings.name == "mcn":
        return MultimodalLoss(settings)

    contrastive: dict[str, ContrastiveLoss] = {
        "norm_softmax": partial(norm_softmax, temperature=settings.temperature),
        "mms": partial(mms, margin=settings.margin),
        "mil_nce": partial(mil_nce, temperature=settings.temperature),
    }
    return CombinatorialLoss(contrastive[settings.name], settings.weights)
