"""Clusters by Sinkhorn's algorithm and swapped prediction, which MCN compares its k-means with.

Every modality predicts which prototypes the others' embeddings belong to; what belongs where is decided by optimal
transport, so that all prototypes get equally much and nothing collapses (Caron et al., *Unsupervised Learning of
Visual Features by Contrasting Cluster Assignments*, NeurIPS 2020, section 3.1; Cuturi, *Sinkhorn Distances*, 2013).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.objectives.contrastive import at_least_float32, mean_over

EPSILON = 0.05
"""Weight of the entropy; SwAV's."""
ROUNDS = 3
"""SwAV's; more make the prototypes' shares more equal."""
SHARPNESS = 10.0
"""What scores are multiplied with where soft codes are predicted, as in MCN's program."""


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = EPSILON, rounds: int = ROUNDS) -> Tensor:
    """Codes: how much of each clip belongs to each prototype.

    Args:
        scores: similarities ``[clips, prototypes]``, of the global batch.
        epsilon: the smaller, the harder the codes.
        rounds: alternations between equal prototypes and whole clips.

    Returns:
        ``[clips, prototypes]``, not negative; each row's sum is 1, each column's about ``clips / prototypes``.
    """
    logarithms = at_least_float32(scores) / epsilon
    for _ in range(rounds):
        logarithms = F.log_softmax(logarithms, dim=0)
        logarithms = F.log_softmax(logarithms, dim=1)
    return logarithms.exp()


def swapped_prediction(scores: Mapping[str, Tensor], present: Mapping[str, Tensor], soft: bool) -> Tensor:
    """Cross-entropy of each modality's scores against every other's codes, summed over the ordered pairs.

    Args:
        scores: by modality ``[clips, prototypes]``.
        present: by modality bool ``[clips]``, which clips have it. Only they have codes.
        soft: whether codes are predicted as they are, or the prototype that has most.

    Returns:
        A scalar; a pair counts the mean over the clips that have both, 0 if none does.
    """
    codes = {name: _codes(value.detach(), present[name]) for name, value in scores.items()}
    losses = []
    for predicting, predicted in permutations(scores, 2):
        own, code = at_least_float32(scores[predicting]), codes[predicted]
        if soft:
            losses_of_clips = -(code * F.log_softmax(SHARPNESS * own, dim=1)).sum(dim=1)
        else:
            losses_of_clips = F.cross_entropy(own, code.argmax(dim=1), reduction="none")
        losses.append(mean_over(losses_of_clips, present[predicting] & present[predicted]))
    return torch.stack(losses).sum()


def _codes(scores: Tensor, present: Tensor) -> Tensor:
    codes = torch.zeros_like(at_least_float32(scores))
    if present.any():
        codes[present] = sinkhorn(scores[present])
    return codes
