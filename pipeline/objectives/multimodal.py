"""MCN's loss: contrast, clustering and reconstruction (*Multimodal Clustering Networks*, equation 1).

AVLnet's is its first part alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor

from pipeline.config import LossSettings
from pipeline.errors import InputError
from pipeline.objectives.base import Loss
from pipeline.objectives.clustering import OnlineClustering, cluster_contrast
from pipeline.objectives.contrastive import ALL, mms, share_of_mean, similarities
from pipeline.objectives.sinkhorn import EqualPartition, partition_contrast
from pipeline.objectives.timing import DeviceTimer

_MODALITIES = ("text", "video", "audio")


class MultimodalLoss(Loss):
    """The sum of a contrastive term per pair, a clustering term and a reconstruction term; settings say how.

    Raises:
        InputError: settings that contradict each other.
    """

    def __init__(self, settings: LossSettings) -> None:
        super().__init__()
        _check(settings)
        self.settings = settings
        self.clustering: OnlineClustering | EqualPartition | None = None
        if settings.clusters > 0 and settings.clustering == "sinkhorn":
            self.clustering = EqualPartition()
        elif settings.clusters > 0:
            self.clustering = OnlineClustering(settings.clusters, settings.queue_size)
        self.clustering_time = DeviceTimer()
        """Time spent finding clusters, their losses apart."""
        self._labels: Tensor | None = None

    def share(self, prepared: Mapping[str, Tensor], own: slice = ALL) -> tuple[Tensor, dict[str, Tensor]]:
        """The total of the terms, and each: pairs (``tv``, ...), ``cluster``, ``reconstruction``.

        Of all clips, or what some contribute to them. In training the clusters follow the batch.
        """
        terms = self._contrast(prepared, own)
        total = torch.stack(list(terms.values())).sum()
        if self.clustering is not None:
            terms["cluster"] = self._cluster(prepared, self.clustering, own)
            total = total + self.settings.cluster_weight * terms["cluster"]
        if "reconstruction" in prepared:
            errors = prepared["reconstruction"]
            terms["reconstruction"] = share_of_mean(errors[own], None, len(errors))
            total = total + self.settings.reconstruction_weight * terms["reconstruction"]
        return total, {name: term.detach() for name, term in terms.items()}

    def check_batch(self, clips: int) -> None:
        """Raises InputError where so few clips cannot start the clusters."""
        if isinstance(self.clustering, OnlineClustering):
            self.clustering.check_batch(clips)

    def begin_epoch(self) -> None:
        """To be called before an epoch's first batch."""
        if isinstance(self.clustering, OnlineClustering):
            self.clustering.restart()

    def clusters_used(self) -> int:
        """How many clusters the last batch's clips are in: few, when clustering has collapsed."""
        return 0 if self._labels is None else len(self._labels.unique())

    def _contrast(self, outputs: Mapping[str, Tensor], own: slice) -> dict[str, Tensor]:
        pairs: dict[str, tuple[Tensor, Tensor, tuple[str, ...]]]
        if "ta_embed" in outputs and "video_embed" in outputs and "text_embed" not in outputs:
            # AVLnet-Text-Fused: text and sound have one embedding.
            pairs = {"v_ta": (outputs["ta_embed"], outputs["video_embed"], _MODALITIES)}
        elif self.settings.contrast == "text_to_sum":
            if any(f"{name}_embed" not in outputs for name in _MODALITIES):
                raise InputError("loss.contrast text_to_sum needs a model with text, video and sound")
            both = outputs["video_embed"] + outputs["audio_embed"]
            pairs = {"t_va": (outputs["text_embed"], both, _MODALITIES)}
        else:
            names = [name for name in _MODALITIES if f"{name}_embed" in outputs]
            pairs = {
                first[0] + second[0]: (outputs[f"{first}_embed"], outputs[f"{second}_embed"], (first, second))
                for first, second in combinations(names, 2)
            }
        if not pairs:
            raise InputError("the model gives no two embeddings to contrast")
        return {
            name: mms(similarities(first, second, own), _present(outputs, *needs), self.settings.margin)
            for name, (first, second, needs) in pairs.items()
        }

    def _cluster(
        self, outputs: Mapping[str, Tensor], clustering: OnlineClustering | EqualPartition, own: slice
    ) -> Tensor:
        names = [name for name in _MODALITIES if f"{name}_embed" in outputs]
        embeddings = {name: outputs.get(f"{name}_cluster", outputs[f"{name}_embed"]) for name in names}
        present = {name: _present(outputs, name) for name in names}
        fused = _mean_of_present(embeddings, present)
        if self.settings.cluster_targets == "joint":
            embeddings, present = {"fused": fused}, {"fused": torch.stack(list(present.values())).any(dim=0)}
        if isinstance(clustering, EqualPartition):
            _check_scores(outputs, fused, self.settings.clusters)
            losses = self._partitioned(embeddings, present, fused.detach(), clustering, own)
        else:
            with self.clustering_time.measuring(fused.device):
                labels, centroids = clustering(fused.detach(), _enters(outputs, present))
            self._labels = labels
            losses = [
                cluster_contrast(embedding, centroids, labels, present[name], self.settings.margin, own)
                for name, embedding in embeddings.items()
            ]
        return torch.stack(losses).mean()

    def _partitioned(
        self,
        scores: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        fused: Tensor,
        clustering: EqualPartition,
        own: slice,
    ) -> list[Tensor]:
        """Each embedding's loss against the clusters that the settings give it as targets."""
        if self.settings.cluster_targets == "swapped":
            with self.clustering_time.measuring(fused.device):
                assigned = {name: clustering(given.detach(), present[name]) for name, given in scores.items()}
            self._labels = next(iter(assigned.values())).argmax(dim=1)
            targets = {
                name: [(assigned[other], present[other] & present[name]) for other in scores if other != name]
                for name in scores
            }
        else:
            with self.clustering_time.measuring(fused.device):
                together = clustering(fused, torch.stack(list(present.values())).any(dim=0))
            self._labels = together.argmax(dim=1)
            targets = {name: [(together, present[name])] for name in scores}
        soft, temperature = self.settings.soft_labels, self.settings.cluster_temperature
        return [partition_contrast(given, targets[name], soft, temperature, own) for name, given in scores.items()]


def _check(settings: LossSettings) -> None:
    if settings.clustering == "kmeans" and settings.cluster_targets == "swapped":
        raise InputError(
            "loss.cluster_targets swapped is for loss.clustering sinkhorn: k-means clusters the fused clip"
        )
    if settings.clustering == "kmeans" and settings.soft_labels:
        raise InputError("loss.soft_labels is for loss.clustering sinkhorn: the labels of k-means are single clusters")


def _check_scores(outputs: Mapping[str, Tensor], scores: Tensor, clusters: int) -> None:
    if not any(name.endswith("_cluster") for name in outputs):
        raise InputError("loss.clustering sinkhorn shares out a cluster head's scores: set model.cluster_classes")
    if scores.shape[1] != clusters:
        raise InputError(f"loss.clusters {clusters} and model.cluster_classes {scores.shape[1]} have to be the same")


def _present(outputs: Mapping[str, Tensor], *modalities: str) -> Tensor:
    return torch.stack([outputs[f"{name}_nonempty_input_mask"] for name in modalities]).all(dim=0)


def _enters(outputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
    something = torch.stack(list(present.values())).any(dim=0)  # a clip of nothing would be a cluster at zero
    return outputs.get("enters_queue", something) & something


def _mean_of_present(embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
    """The mean over the modalities that a clip has: ``[clips, dim]``."""
    counts = torch.stack(list(present.values())).sum(dim=0).clamp(min=1)
    kept = [torch.where(present[name].unsqueeze(1), value, 0) for name, value in embeddings.items()]
    return torch.stack(kept).sum(dim=0) / counts.unsqueeze(1)
