"""Sinkhorn's equal partition: the other way to cluster that MCN's program knows, over the scores of a cluster head."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.objectives.contrastive import ALL, at_least_float32, share_of_mean


class EqualPartition(nn.Module):
    """Assigns clips to clusters so that all clusters get the same share of them.

    Of all assignments with equal shares, the one that agrees best with the scores, smoothed by an entropy (Cuturi,
    *Sinkhorn Distances*, 2013); strength and rounds are those of SwAV (Caron et al., 2020), as MCN's are not published.
    It keeps nothing from step to step: the clusters are the rows of the model's head, which is trained.

    Args:
        epsilon: weight of the entropy; the smaller, the harder the assignment.
        rounds: how often shares and rows are made right in turn.
    """

    def __init__(self, epsilon: float = 0.05, rounds: int = 3) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.rounds = rounds

    @torch.no_grad()
    def forward(self, scores: Tensor, present: Tensor) -> Tensor:
        """Each clip's distribution over the clusters: ``[clips, clusters]``, rows sum to 1.

        Args:
            scores: ``[clips, clusters]``.
            present: bool ``[clips]``, which clips are there to be shared out; the rows of others are 0.
        """
        with torch.autocast(scores.device.type, enabled=False):
            absent = ~present.unsqueeze(1)
            # logarithms: exp(score / epsilon) of an unbounded score overflows
            logits = (at_least_float32(scores) / self.epsilon).masked_fill(absent, -torch.inf)
            for _ in range(self.rounds):
                logits = logits - logits.logsumexp(dim=0)
                logits = logits.log_softmax(dim=1).masked_fill(absent, -torch.inf)
            return logits.exp()


def partition_contrast(
    scores: Tensor,
    targets: Iterable[tuple[Tensor, Tensor]],
    soft: bool,
    temperature: float,
    own: slice = ALL,
) -> Tensor:
    """Cross-entropy of one embedding's scores with the clusters that others were given, summed over these.

    Args:
        scores: ``[clips, clusters]``.
        targets: distributions over the clusters ``[clips, clusters]``, each with bool ``[clips]``, which clips count.
        soft: whether the whole distribution is the target, else its most likely cluster.
        temperature: what the scores are divided by.
        own: the clips whose share is wanted.

    Returns:
        A scalar; for each target the mean over the clips that count, or the share of some clips in it.
    """
    with torch.autocast(scores.device.type, enabled=False):
        logits = at_least_float32(scores[own]) / temperature
        losses = []
        for target, counts in targets:
            wanted = target[own] if soft else target[own].argmax(dim=1)
            own_losses = F.cross_entropy(logits, wanted, reduction="none")
            losses.append(share_of_mean(own_losses, counts, len(scores), own))
    return torch.stack(losses).sum()
