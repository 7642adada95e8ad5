"""Contrastive losses on similarities of samples, each of which belongs with one of the others.

Where many processes have gathered one batch, each answers for its own samples: their similarities to all, in both
directions, are all that it computes. Its loss is then a share, and the shares add up to the loss of the batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ALL = slice(0, None)
"""The samples that a process answers for if it is alone."""


class Similarities(NamedTuple):
    """Similarities of two kinds of embeddings, of all samples or of those that one process answers for."""

    rows: Tensor
    """``[n, N]``: the first of each own sample to the second of all."""
    columns: Tensor
    """``[n, N]``: the second of each own sample to the first of all; of all samples ``rows.T``."""
    own: slice = ALL
    """Which of all samples are own ones."""


def similarities(first: Tensor, second: Tensor, own: slice = ALL) -> Similarities:
    """Dot products of embeddings; in float32 at least, also under autocast.

    Args:
        first: ``[N, dim]``.
        second: ``[N, dim]``.
        own: the samples that this process answers for.
    """
    with torch.autocast(first.device.type, enabled=False):
        first, second = (at_least_float32(x) for x in (first, second))
        if own == ALL:
            return whole(first @ second.T)
        return Similarities(first[own] @ second.T, second[own] @ first.T, own)


def unit_length(embedding: Tensor) -> Tensor:
    """``[N, dim]``, whose dot products are then cosines; in float32 at least."""
    return F.normalize(at_least_float32(embedding), dim=1, eps=1e-8)


def whole(similarity: Tensor) -> Similarities:
    """Those of all samples, of a matrix ``[N, N]`` whose diagonal holds the pairs that belong together."""
    return Similarities(similarity, similarity.T)


def norm_softmax(similarity: Similarities, present: Tensor | None = None, temperature: float = 0.05) -> Tensor:
    """Normalised softmax in both directions, summed (*Everything at Once*, section 3.3).

    Args:
        similarity: of all samples, or of some.
        present: bool ``[N]``, which samples count, as rows and as columns; None: all.
        temperature: what similarities are divided by.

    Returns:
        A scalar: the mean over the samples that count; 0 if none does. Of some samples: their share of it.
    """
    return _softmax_both_ways(similarity, present, temperature=temperature)


def mms(similarity: Similarities, present: Tensor | None = None, margin: float = 0.001) -> Tensor:
    """Masked margin softmax (Ilharco, Zhang and Baldridge, 2019) as AVLnet, MCN and MFT use it.

    Args:
        similarity: of all samples, or of some; ``margin`` is taken from the positives.
        present: as for :func:`norm_softmax`.
        margin: how much a positive has to win by.
    """
    return _softmax_both_ways(similarity, present, margin=margin)


def mil_nce(candidates: Similarities, present: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """MIL-NCE (Miech et al., *End-to-End Learning of Visual Representations from Uncurated Instructional Videos*).

    Several candidates may belong to a clip: what counts is the sum over them, against all other candidates of the
    clip and all other clips of the candidates. As published, the denominator counts the positives in both directions,
    so the least value is log 2.

    Args:
        candidates: of clips and their candidates. Where a clip has ``k`` of them, ``rows`` are ``[n, N, k]``, own
            clips to the candidates of all, and ``columns`` own candidates to all clips.
        present: as for :func:`norm_softmax`.
        temperature: what similarities are divided by.
    """
    rows, columns, own = candidates
    rows, columns = (x.reshape(*x.shape[:2], -1) / temperature for x in (rows, columns))
    if present is not None:
        visible = present.view(1, -1, 1) & present[own].view(-1, 1, 1)
        rows, columns = _blind(rows, visible), _blind(columns, visible)
    positive = rows.diagonal(own.start).T.logsumexp(dim=1)
    against = torch.cat([rows, columns], dim=1).flatten(1).logsumexp(dim=1)
    return share_of_mean(against - positive, present, rows.shape[1], own)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision widened to float32; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def share_of_mean(losses: Tensor, present: Tensor | None, total: int, own: slice = ALL) -> Tensor:
    """What some samples contribute to the mean over all that count; 0 if none does.

    Args:
        losses: ``[n]``, of the own samples.
        present: bool ``[total]``, which samples count; None: all.
        total: samples.
        own: which of all samples these are.
    """
    if present is None:
        return losses.sum() / total
    return torch.where(present[own], losses, 0).sum() / present.sum().clamp(min=1)


def _softmax_both_ways(
    similarity: Similarities, present: Tensor | None, temperature: float = 1.0, margin: float = 0.0
) -> Tensor:
    own = similarity.own
    rows = _logits(similarity.rows, own, temperature, margin)
    # of all samples there is one matrix, on which all is done once
    columns = rows.T if own == ALL else _logits(similarity.columns, own, temperature, margin)
    if present is not None:
        rows, columns = _blind(rows, present), _blind(columns, present)
    forward, backward = (F.log_softmax(x, dim=1).diagonal(own.start) for x in (rows, columns))
    return share_of_mean(-(forward + backward), present, rows.shape[1], own)


def _logits(similarity: Tensor, own: slice, temperature: float, margin: float) -> Tensor:
    if margin:
        similarity = similarity.diagonal_scatter(similarity.diagonal(own.start) - margin, own.start)
    return similarity / temperature if temperature != 1 else similarity


def _blind(logits: Tensor, visible: Tensor) -> Tensor:
    # The lowest finite number, not -inf: a row that sees nothing at all must not turn into NaN.
    return logits.masked_fill(~visible, torch.finfo(logits.dtype).min)
