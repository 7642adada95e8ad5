"""MCN's loss: contrast, clustering and reconstruction (*Multimodal Clustering Networks*, equation 1).

AVLnet's is its first part alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.objectives.clustering import OnlineClustering, cluster_contrast
from pipeline.objectives.contrastive import dot_similarity, mms
from pipeline.objectives.sinkhorn import swapped_prediction
from pipeline.objectives.timing import DeviceTimer

_MODALITIES = ("text", "video", "audio")


class MultimodalLoss(nn.Module):
    """The sum of a contrastive term per pair, a clustering term and a reconstruction term.

    Args:
        margin: of the masked margin softmax and of the clustering term.
        clusters: number of centroids; 0: no clustering term.
        queue_size: batches in the queue that k-means runs over.
        cluster_weight: weight of the clustering term.
        reconstruction_weight: weight of the reconstruction term, where the model has one.
        contrast: ``pairs``, or ``text_to_sum``: text with the sum of video and sound, as AVLnet-Text-Tri is fine-tuned.
        clustering: ``kmeans``, or ``sinkhorn`` on the model's cluster head, whose outputs are the clusters.
        soft_labels: whether ``sinkhorn`` predicts shares of all clusters instead of one cluster.
    """

    def __init__(
        self,
        margin: float,
        clusters: int,
        queue_size: int,
        cluster_weight: float,
        reconstruction_weight: float,
        contrast: Literal["pairs", "text_to_sum"] = "pairs",
        clustering: Literal["kmeans", "sinkhorn"] = "kmeans",
        soft_labels: bool = False,
    ) -> None:
        super().__init__()
        self.margin = margin
        self.contrast = contrast
        if soft_labels and clustering != "sinkhorn":
            raise InputError("loss.soft_labels is for loss.clustering sinkhorn: k-means gives a clip to one cluster")
        self.clustering = OnlineClustering(clusters, queue_size) if clusters > 0 and clustering == "kmeans" else None
        self.by_transport = clusters > 0 and clustering == "sinkhorn"
        self.soft_labels = soft_labels
        self.clustering_time = DeviceTimer()
        """Time of finding clusters, with their loss where it cannot be told apart."""
        self.cluster_weight = cluster_weight
        self.reconstruction_weight = reconstruction_weight

    def forward(self, outputs: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch; in training the clusters follow it.

        Args:
            outputs: what :class:`pipeline.models.MCN` gives, of the global batch.

        Returns:
            The total, and its terms by themselves, detached: pairs (``tv``, ...), ``cluster``, ``reconstruction``.

        Raises:
            InputError: the outputs hold no pair of embeddings.
        """
        terms = self._contrast(outputs)
        total = torch.stack(list(terms.values())).sum()
        if self.clustering is not None or self.by_transport:
            terms["cluster"] = self._cluster(outputs)
            total = total + self.cluster_weight * terms["cluster"]
        if "reconstruction" in outputs:
            terms["reconstruction"] = outputs["reconstruction"].mean()
            total = total + self.reconstruction_weight * terms["reconstruction"]
        return total, {name: term.detach() for name, term in terms.items()}

    def _contrast(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if "ta_embed" in outputs and "video_embed" in outputs and "text_embed" not in outputs:
            # AVLnet-Text-Fused: text and sound have one embedding.
            present = _present(outputs, "text", "audio", "video")
            return {"v_ta": mms(dot_similarity(outputs["ta_embed"], outputs["video_embed"]), present, self.margin)}
        if self.contrast == "text_to_sum":
            return {"t_va": self._text_to_sum(outputs)}
        terms = {}
        for first, second in combinations([name for name in _MODALITIES if f"{name}_embed" in outputs], 2):
            similarity = dot_similarity(outputs[f"{first}_embed"], outputs[f"{second}_embed"])
            terms[first[0] + second[0]] = mms(similarity, _present(outputs, first, second), self.margin)
        if not terms:
            raise InputError("the model gives no two embeddings to contrast")
        return terms

    def _text_to_sum(self, outputs: Mapping[str, Tensor]) -> Tensor:
        if any(f"{name}_embed" not in outputs for name in _MODALITIES):
            raise InputError("loss.contrast text_to_sum needs a model with text, video and sound")
        similarity = dot_similarity(outputs["text_embed"], outputs["video_embed"] + outputs["audio_embed"])
        return mms(similarity, _present(outputs, *_MODALITIES), self.margin)

    def _cluster(self, outputs: Mapping[str, Tensor]) -> Tensor:
        names = [name for name in _MODALITIES if f"{name}_embed" in outputs]
        embeddings = {name: outputs.get(f"{name}_cluster", outputs[f"{name}_embed"]) for name in names}
        present = {name: _present(outputs, name) for name in names}
        device = embeddings[names[0]].device
        if self.clustering is None:
            if f"{names[0]}_cluster" not in outputs:
                raise InputError("loss.clustering sinkhorn needs a cluster head: set model.cluster_classes")
            with self.clustering_time.measuring(device):
                return swapped_prediction(embeddings, present, self.soft_labels)
        with self.clustering_time.measuring(device):
            labels, centroids = self.clustering(_mean_of_present(embeddings, present), _enters(outputs, present))
        losses = [
            cluster_contrast(embedding, centroids, labels, present[name], self.margin)
            for name, embedding in embeddings.items()
        ]
        return torch.stack(losses).mean()


def _present(outputs: Mapping[str, Tensor], *modalities: str) -> Tensor:
    return torch.stack([outputs[f"{name}_nonempty_input_mask"] for name in modalities]).all(dim=0)


def _enters(outputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
    return outputs.get("enters_queue", torch.ones_like(next(iter(present.values()))))


def _mean_of_present(embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
    """The mean over the modalities that a clip has: ``[clips, dim]``, without gradient."""
    counts = torch.stack(list(present.values())).sum(dim=0).clamp(min=1)
    kept = [torch.where(present[name].unsqueeze(1), value.detach(), 0) for name, value in embeddings.items()]
    return torch.stack(kept).sum(dim=0) / counts.unsqueeze(1)
