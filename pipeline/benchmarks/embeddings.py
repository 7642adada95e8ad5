"""Embeddings of a test set's clips, and the similarities of every direction of retrieval that the papers report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.errors import InputError

Batch = Mapping[str, Any]
Floats = npt.NDArray[np.float32]

DIRECTIONS = (
    "t2v", "v2t", "t2a", "a2t", "v2a", "a2v",
    "t2va", "va2t", "v2ta", "ta2v", "a2tv", "tv2a",
    "t2v+a", "v+a2t", "v2t+a", "t+a2v", "a2t+v", "t+v2a",
)  # fmt: skip
"""Query to candidates: single modalities, fused pairs (``va``), and sums of single embeddings (``v+a``)."""


@dataclass
class ClipEmbeddings:
    """What a model makes of a test set."""

    clip_ids: list[str]
    embeddings: dict[str, Tensor]
    """By the short name, ``t``, ``v``, ``a``, ``va``, ``v+a`` ...: float32 ``[clips, dim]``."""
    present: dict[str, Tensor]
    """Bool ``[clips]``: whether a clip has the modalities ``t``, ``v``, ``a``."""
    similarity: Literal["cosine", "dot"] = "cosine"
    """How the model's embeddings are compared."""
    texts: list[str] = field(default_factory=list)
    """The clips' captions, where the batches have them."""

    def check_finite(self, where: str, advice: str) -> None:
        """Raises :class:`InputError`, which begins with ``where``, for a network whose training has diverged."""
        lost = [name for name, values in self.embeddings.items() if not values.isfinite().all()]
        if lost:
            raise InputError(f"{where}: its embeddings of {lost[0]} are not finite: {advice}")


def embed_clips(model: nn.Module, batches: Iterable[Batch], prepare: Callable[[Batch], Batch]) -> ClipEmbeddings:
    """Embeds every clip, in eval mode.

    Clips of one id (parts of a long clip) get the mean of their embeddings, of all parts as in MFT's program: a part
    whose video or sound has ended before counts too, with the embedding of nothing.

    Args:
        model: batch → ``<name>_embed`` and ``<modality>_nonempty_input_mask``.
        batches: each with ``clip_ids``, and ``texts`` or not.
        prepare: makes of a loader's batch what the model takes.
    """
    ids: list[str] = []
    texts: dict[str, str] = {}
    embeddings: dict[str, list[Tensor]] = defaultdict(list)
    present: dict[str, list[Tensor]] = defaultdict(list)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for batch in batches:
            ids.extend(batch["clip_ids"])
            texts.update(zip(batch["clip_ids"], batch.get("texts", ()), strict=False))
            for name, value in model(prepare(batch)).items():
                if name.endswith("_embed"):
                    embeddings[_short(name.removesuffix("_embed"))].append(value.float().cpu())
                elif name.endswith("_nonempty_input_mask"):
                    present[_short(name.removesuffix("_nonempty_input_mask"))].append(value.bool().cpu())
    model.train(was_training)
    unique = list(dict.fromkeys(ids))
    place = {clip_id: number for number, clip_id in enumerate(unique)}
    group = torch.tensor([place[clip_id] for clip_id in ids], dtype=torch.long)
    return ClipEmbeddings(
        unique,
        {name: _group_mean(torch.cat(parts), group, len(unique)) for name, parts in embeddings.items()},
        {name: _group_mean(torch.cat(parts).float(), group, len(unique)) > 0 for name, parts in present.items()},
        getattr(model, "similarity", "cosine"),
        [texts[clip_id] for clip_id in unique if clip_id in texts],
    )


def directions_of(clips: ClipEmbeddings) -> list[str]:
    """The directions whose embeddings the model gives."""
    return [direction for direction in DIRECTIONS if all(side in clips.embeddings for side in direction.split("2"))]


def similarity_of(clips: ClipEmbeddings, direction: str) -> Floats:
    """Similarities ``[queries, candidates]`` of one direction: the only thing here that grows with the square."""
    queries, candidates = (clips.embeddings[side] for side in direction.split("2"))
    if clips.similarity == "cosine":
        queries, candidates = (nn.functional.normalize(side, dim=1, eps=1e-8) for side in (queries, candidates))
    return (queries @ candidates.T).numpy()


def _short(name: str) -> str:
    return {"text": "t", "video": "v", "audio": "a"}.get(name, name)


def _group_mean(values: Tensor, group: Tensor, groups: int) -> Tensor:
    if groups == len(group):
        return values
    sums = torch.zeros(groups, *values.shape[1:]).index_add_(0, group, values)
    return sums / torch.bincount(group, minlength=groups).view(-1, *[1] * (values.dim() - 1))
