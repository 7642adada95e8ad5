"""MCN's clustering loss: every modality is drawn to the centroid of the clip's fused embedding (section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.objectives.contrastive import at_least_float32, mean_over
from pipeline.objectives.kmeans import assign, first_centroids, kmeans


class OnlineClustering(nn.Module):
    """Centroids of the recent clips: k-means over a queue, warm-started every ``queue_size`` steps.

    It sees the global batch on every rank, and all that it does follows from that alone, so queue and centroids are
    the same on all ranks and those of one process. Both are part of its state dict.

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
            if self.centroids is None:
                self.centroids = self._first(fused)
            centroids = self.centroids.to(fused)
            if not self.training:
                return assign(fused, centroids), centroids
            labels, self.centroids = self._follow(fused, centroids)
        if self.queue_size > 0:
            self.queue = [fused[enters].clone(), *self.queue][: self.queue_size]
        self.step += 1
        return labels, self.centroids

    def _follow(self, fused: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """Labels of the batch, and the centroids after it: moved when k-means is due, else as they were."""
        if self.step % max(self.queue_size, 1) != 0:
            return assign(fused, centroids), centroids
        full = self.queue_size > 0 and len(self.queue) == self.queue_size
        points = torch.cat([*(batch.to(fused) for batch in self.queue), fused]) if full else fused
        labels, centroids = kmeans(points, centroids)
        return labels[-len(fused) :], centroids

    def _first(self, fused: Tensor) -> Tensor:
        if len(fused) < self.clusters:
            raise InputError(
                f"a batch of {len(fused)} clips cannot start {self.clusters} clusters: "
                "lower loss.clusters or raise train.batch_videos or clips.per_video"
            )
        return first_centroids(fused, self.clusters)

    def get_extra_state(self) -> dict[str, Any]:
        """Step, centroids and queue, for the state dict."""
        return {"step": self.step, "centroids": self.centroids, "queue": list(self.queue)}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved state."""
        self.step = state["step"]
        self.centroids = state["centroids"]
        self.queue = list(state["queue"])


def cluster_contrast(
    embedding: Tensor, centroids: Tensor, labels: Tensor, present: Tensor | None = None, margin: float = 0.001
) -> Tensor:
    """Cross-entropy of a clip's similarities to the centroids, with a margin on its own (equation 3).

    Args:
        embedding: one modality's ``[clips, dim]``.
        centroids: ``[clusters, dim]``; they take no gradient.
        labels: int64 ``[clips]``.
        present: bool ``[clips]``, which clips have the modality; None: all.
        margin: what is taken from the similarity to the own centroid.

    Returns:
        A scalar: the mean over the clips that count; 0 if none does.
    """
    with torch.autocast(embedding.device.type, enabled=False):
        similarity = at_least_float32(embedding) @ centroids.detach().to(at_least_float32(embedding)).T
        own = F.one_hot(labels, len(centroids)).to(similarity.dtype)
        losses = F.cross_entropy(similarity - margin * own, labels, reduction="none")
    return mean_over(losses, present)
