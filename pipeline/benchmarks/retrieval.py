"""Retrieval metrics as the papers report them, from a similarity matrix whose diagonal holds the matches."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

RECALLS = (1, 5, 10, 50)
"""The k of R@k."""

_MAIN = ("t2va", "t2v+a", "ta2v", "t2v", "a2v")
"""What a model is judged by, the best first: text to all else, as in the papers."""


@dataclass(frozen=True)
class RetrievalMetrics:
    """One direction of retrieval. Recalls are percentages of the full test set."""

    R1: float
    R5: float
    R10: float
    R50: float
    MedR: float
    """Median rank, 1 is best, over the clips that are there."""
    MeanR: float
    geometric_mean: float
    """Of R1, R5 and R10: the number that the papers choose checkpoints by."""

    def to_dict(self) -> dict[str, float]:
        """Under the published names."""
        values = {name: getattr(self, name) for name in ("R1", "R5", "R10", "R50", "MedR", "MeanR")}
        return {**values, "geometric_mean_R1-R5-R10": self.geometric_mean}


def main_direction(directions: Collection[str]) -> str:
    """By which of the directions that a model gives it is judged, and its checkpoints are chosen."""
    return next((name for name in _MAIN if name in directions), next(iter(directions)))


def match_ranks(similarity: Floats) -> npt.NDArray[np.float64]:
    """The rank of each query's match, 0 is best; the mean position among ties.

    Args:
        similarity: ``[N, N]`` or, with more candidates than queries, ``[N, M]``; row i's match is column i.

    Raises:
        ValueError: the matrix has fewer candidates than queries or a value that is not finite.
    """
    queries, candidates = similarity.shape
    if candidates < queries:
        raise ValueError(f"{queries} queries but only {candidates} candidates: each query needs its match")
    if not np.isfinite(similarity).all():
        raise ValueError("the similarity matrix holds values that are not finite")
    match = np.diagonal(similarity)[:, None]
    better = (similarity > match).sum(axis=1)
    equal = (similarity == match).sum(axis=1) - 1
    return better + equal / 2


def retrieval_metrics(similarity: Floats, total: int | None = None) -> RetrievalMetrics:
    """Metrics of one direction.

    Args:
        similarity: ``[N, N]``, rows are queries, the match is the diagonal.
        total: clips of the full test set; those that are missing count as misses in the recalls. None: N.

    Raises:
        ValueError: ``total`` is less than N, or see :func:`match_ranks`.
    """
    return metrics_of_ranks(match_ranks(similarity), total)


def metrics_of_ranks(ranks: Floats, total: int | None = None) -> RetrievalMetrics:
    """Metrics from ranks (0 is best); ``total`` as in :func:`retrieval_metrics`."""
    total = len(ranks) if total is None else total
    if total < len(ranks) or len(ranks) == 0:
        raise ValueError(f"{len(ranks)} clips were ranked of a test set of {total}")
    # a tie for the first place is no hit in R@1, but a mean rank of 4.5 is one in R@5: so the published program counts
    hits = [ranks == 0 if k == 1 else ranks < k for k in RECALLS]
    recalls = [100 * float(hit.sum()) / total for hit in hits]
    return _metrics(recalls, float(np.median(ranks)) + 1, float(np.mean(ranks)) + 1)


def chance(candidates: int, total: int | None = None) -> RetrievalMetrics:
    """What a random order of ``candidates`` scores on average: R@k is k of N, the ranks are those of the middle."""
    total = candidates if total is None else total
    recalls = [100 * min(k, candidates) / total for k in RECALLS]
    middle = (candidates + 1) / 2
    return _metrics(recalls, middle, middle)


def _metrics(recalls: list[float], median: float, mean: float) -> RetrievalMetrics:
    r1, r5, r10, r50 = recalls
    geometric = math.exp(math.log(r1 * r5 * r10) / 3) if r1 * r5 * r10 > 0 else 0.0
    return RetrievalMetrics(r1, r5, r10, r50, median, mean, geometric)
