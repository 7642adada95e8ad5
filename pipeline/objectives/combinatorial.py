"""MFT's combinatorial loss: a contrastive term for every pair of embeddings (*Everything at Once*, equation 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.objectives.base import Loss
from pipeline.objectives.contrastive import ALL, Similarities, similarities, unit_length

ContrastiveLoss = Callable[[Similarities, Tensor | None], Tensor]


class Term(NamedTuple):
    """Two embeddings that are drawn together, and the modalities a sample must have for it."""

    first: str
    second: str
    needs: tuple[str, ...]


TERMS = {
    "tv": Term("text", "video", ("text", "video")),
    "ta": Term("text", "audio", ("text", "audio")),
    "va": Term("video", "audio", ("video", "audio")),
    "t_va": Term("text", "va", ("text", "video", "audio")),
    "v_ta": Term("video", "ta", ("text", "video", "audio")),
    "a_tv": Term("audio", "tv", ("text", "video", "audio")),
}


class CombinatorialLoss(Loss):
    """The weighted mean of contrastive terms.

    Args:
        contrastive: the loss of a term, from similarities and a mask of the samples that count.
        weights: weight of each term, by its name in :data:`TERMS`; a term that is not listed has none.
    """

    def __init__(self, contrastive: ContrastiveLoss, weights: Mapping[str, float]) -> None:
        super().__init__()
        unknown = sorted(set(weights) - set(TERMS))
        if unknown:
            raise InputError(f"loss.weights has an unknown term {unknown[0]}; known are {', '.join(TERMS)}")
        self.contrastive = contrastive
        self.weights = {name: weights[name] for name in TERMS if weights.get(name)}
        if not self.weights:
            raise InputError("loss.weights are all zero: nothing would be learnt")

    def prepare(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What of a process's outputs all have to know: embeddings of unit length, and masks; raises InputError."""
        terms = [TERMS[name] for name, _ in self._terms(outputs)]
        embeddings = dict.fromkeys(f"{name}_embed" for term in terms for name in (term.first, term.second))
        masks = dict.fromkeys(f"{name}_nonempty_input_mask" for term in terms for name in term.needs)
        return {name: unit_length(outputs[name]) for name in embeddings} | {name: outputs[name] for name in masks}

    def share(self, prepared: Mapping[str, Tensor], own: slice = ALL) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted mean of the terms, and each term, of all samples or what some contribute to them.

        Terms whose embeddings are not there are left out. A term for which no sample has all modalities is 0 and counts
        for nothing.
        """
        losses, weights = [], []
        for name, weight in self._terms(prepared):
            term = TERMS[name]
            present = torch.stack([prepared[f"{needed}_nonempty_input_mask"] for needed in term.needs]).all(dim=0)
            found = similarities(prepared[f"{term.first}_embed"], prepared[f"{term.second}_embed"], own)
            losses.append(self.contrastive(found, present))
            weights.append(weight * present.any().to(found.rows.dtype))
        total = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
        total = total / torch.stack(weights).sum().clamp(min=torch.finfo(losses[0].dtype).tiny)
        names = [name for name, _ in self._terms(prepared)]
        return total, {name: loss.detach() for name, loss in zip(names, losses, strict=True)}

    def _terms(self, outputs: Mapping[str, Tensor]) -> list[tuple[str, float]]:
        terms = [
            (name, weight)
            for name, weight in self.weights.items()
            if f"{TERMS[name].first}_embed" in outputs and f"{TERMS[name].second}_embed" in outputs
        ]
        if not terms:
            given = [
                name for name, term in TERMS.items() if {f"{term.first}_embed", f"{term.second}_embed"} <= set(outputs)
            ]
            advice = f"give one of {', '.join(given)} a weight in loss.weights" if given else "train another model"
            raise InputError(f"the model gives no embeddings for the loss's terms {', '.join(self.weights)}: {advice}")
        return terms
