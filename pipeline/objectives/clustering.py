"""MCN's clustering loss: every modality is drawn to the centroid of the clip's fused embedding (section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.objectives.contrastive import ALL, at_least_float32, share_of_mean
from pipeline.objectives.kmeans import assign, first_centroids, kmeans


class OnlineClustering(nn.Module):
    """Centroids of the recent clips: k-means over a queue, warm-started every ``queue_size`` steps.

    A centroid without members is zero and hardly ever gets some again, so over time fewer and fewer are left; each
    epoch starts from new ones, as in the published program. It sees the global batch on every rank, and all that it
    does follows from that alone, so queue and centroids are the same on all ranks and those of one process. Both are
    part of its state dict.

    Args:
        clusters: number of centroids.
        queue_size: batches that the queue holds; with 0 each batch is clustered by itself.
    """

    def __init__(self, clusters: int, queue_size: int) -> None:
        super().__init__()
        self.clusters = clusters
        self.queue_size = queue_size
        self.step = 0
        self.centroids: Tensor | None = None
        self.queue: list[Tensor] = []
        """The last batches' clips ``[clips, dim]``, newest first."""

    @torch.no_grad()
    def forward(self, fused: Tensor, enters: Tensor) -> tuple[Tensor, Tensor]:
        """Labels of a batch. In training the batch enters the queue, and k-means runs when it is due.

        Args:
            fused: the clips' fused embeddings ``[clips, dim]``.
            enters: bool ``[clips]``, which of them enter the queue.

        Returns:
            Labels int64 ``[clips]`` and centroids ``[clusters, dim]``.

        Raises:
            InputError: the first batch has fewer clips than there are to be clusters.
        """
        with torch.autocast(fused.device.type, enabled=False):
            fused = at_least_float32(fused)
            due = self.training and self.step % max(self.queue_size, 1) == 0
            points = self._points(fused) if due else fused
            centroids = self._first(points) if self.centroids is None else self.centroids.to(fused)
            if due:
                labels, centroids = kmeans(points, centroids)
                labels = labels[-len(fused) :]
            else:
                labels = assign(fused, centroids)
        if not self.training:
            return labels, centroids
        self.centroids = centroids
        if self.queue_size > 0:
            self.queue = [fused[enters].clone(), *self.queue][: self.queue_size]
        self.step += 1
        return labels, centroids

    def check_batch(self, clips: int) -> None:
        """Raises InputError where so few clips cannot start the clusters."""
        if clips < self.clusters:
            raise InputError(
                f"a batch of {clips} clips cannot start {self.clusters} clusters: "
                "lower loss.clusters or raise train.batch_videos or clips.per_video"
            )

    def restart(self) -> None:
        """Forgets the centroids, not the queue: the next batch starts new ones."""
        self.step, self.centroids = 0, None

    def _points(self, fused: Tensor) -> Tensor:
        """What k-means runs over: the queue once it is full, and the batch."""
        full = self.queue_size > 0 and len(self.queue) == self.queue_size
        return torch.cat([*(batch.to(fused) for batch in self.queue), fused]) if full else fused

    def _first(self, points: Tensor) -> Tensor:
        self.check_batch(len(points))
        there = points[(points != 0).any(dim=1)]  # a clip that has nothing would start a cluster at zero
        return first_centroids(there if len(there) >= self.clusters else points, self.clusters)

    def get_extra_state(self) -> dict[str, Any]:
        """Step, centroids and queue, for the state dict."""
        return {"step": self.step, "centroids": self.centroids, "queue": list(self.queue)}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved state."""
        self.step = state["step"]
        self.centroids = state["centroids"]
        self.queue = list(state["queue"])


def cluster_contrast(
    embedding: Tensor,
    centroids: Tensor,
    labels: Tensor,
    present: Tensor | None = None,
    margin: float = 0.001,
    own: slice = ALL,
) -> Tensor:
    """Cross-entropy of a clip's similarities to the centroids, with a margin on its own (equation 3).

    Args:
        embedding: one modality's ``[clips, dim]``.
        centroids: ``[clusters, dim]``; they take no gradient.
        labels: int64 ``[clips]``.
        present: bool ``[clips]``, which clips have the modality; None: all.
        margin: what is taken from the similarity to the own centroid.
        own: the clips whose share is wanted.

    Returns:
        A scalar: the mean over the clips that count; 0 if none does. Of some clips: their share of it.
    """
    with torch.autocast(embedding.device.type, enabled=False):
        wide, labels = at_least_float32(embedding[own]), labels[own]
        similarity = wide @ centroids.detach().to(wide).T
        nearest = F.one_hot(labels, len(centroids)).to(similarity.dtype)
        losses = F.cross_entropy(similarity - margin * nearest, labels, reduction="none")
    return share_of_mean(losses, present, len(embedding), own)
