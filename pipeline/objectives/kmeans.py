"""MCN's k-means: assign by cosine, move each centroid to the plain mean of its members."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def assign(points: Tensor, centroids: Tensor) -> Tensor:
    """The centroid of largest cosine: ``[n, dim]`` and ``[k, dim]`` → int64 ``[n]``."""
    # A point's own length changes none of its comparisons.
    return (points @ F.normalize(centroids, dim=1).T).argmax(dim=1)


def kmeans(points: Tensor, centroids: Tensor, tolerance: float = 1e-4, rounds: int = 100) -> tuple[Tensor, Tensor]:
    """Clusters points from given first centroids.

    Args:
        points: ``[n, dim]``.
        centroids: ``[k, dim]``, where the first assignment starts.
        tolerance: the squared change of all centroids that is small enough to stop.
        rounds: assignments at most; at least one.

    Returns:
        Labels int64 ``[n]`` of the last assignment, and the centroids ``[k, dim]`` that follow from it. A centroid
        without members is zero, as in the published program.
    """
    for _ in range(rounds):
        labels = assign(points, centroids)
        moved = _means(points, labels, len(centroids))
        change = (moved - centroids).square().sum()
        centroids = moved
        if change <= tolerance:
            break
    return labels, centroids


def first_centroids(points: Tensor, count: int, seed: int = 0) -> Tensor:
    """``count`` different points, drawn; the same on every machine and rank that has the same points.

    Raises:
        ValueError: there are fewer points.
    """
    if len(points) < count:
        raise ValueError(f"{len(points)} points cannot start {count} clusters")
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
    return points[order[:count].to(points.device)].clone()


def _means(points: Tensor, labels: Tensor, count: int) -> Tensor:
    # Sorted by label, the members of a cluster are one bag; a bag's sum needs neither a one-hot matrix nor atomics,
    # so it is quick and always the same.
    sizes = torch.bincount(labels, minlength=count)
    members = torch.argsort(labels, stable=True)
    sums = F.embedding_bag(members, points, sizes.cumsum(0) - sizes, mode="sum")
    return sums / sizes.clamp(min=1).unsqueeze(1)
