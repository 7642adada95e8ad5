"""Contrastive losses on a matrix of similarities whose diagonal holds the pairs that belong together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_similarity(first: Tensor, second: Tensor) -> Tensor:
    """``[n, dim]`` and ``[m, dim]`` → ``[n, m]``; in float32 at least, also under autocast."""
    with torch.autocast(first.device.type, enabled=False):
        first, second = (at_least_float32(x) for x in (first, second))
        return F.normalize(first, dim=1, eps=1e-8) @ F.normalize(second, dim=1, eps=1e-8).T


def dot_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Raw dot products, otherwise as :func:`cosine_similarity`."""
    with torch.autocast(first.device.type, enabled=False):
        return at_least_float32(first) @ at_least_float32(second).T


def norm_softmax(similarity: Tensor, present: Tensor | None = None, temperature: float = 0.05) -> Tensor:
    """Normalised softmax in both directions, summed (*Everything at Once*, section 3.3).

    Args:
        similarity: ``[n, n]``; the diagonal holds the positives.
        present: bool ``[n]``, which samples count, as rows and as columns; None: all.
        temperature: what similarities are divided by.

    Returns:
        A scalar: the mean over the samples that count; 0 if none does.
    """
    return _softmax_both_ways(similarity / temperature, present)


def mms(similarity: Tensor, present: Tensor | None = None, margin: float = 0.001) -> Tensor:
    """Masked margin softmax (Ilharco, Zhang and Baldridge, 2019) as AVLnet, MCN and MFT use it.

    Args:
        similarity: ``[n, n]``; the diagonal holds the positives, from which ``margin`` is taken.
        present: as for :func:`norm_softmax`.
        margin: how much a positive has to win by.
    """
    margins = margin * torch.eye(len(similarity), dtype=similarity.dtype, device=similarity.device)
    return _softmax_both_ways(similarity - margins, present)


def mil_nce(similarity: Tensor, present: Tensor | None = None) -> Tensor:
    """MIL-NCE (Miech et al., *End-to-End Learning of Visual Representations from Uncurated Instructional Videos*).

    Several candidates may belong to a clip: what counts is the sum over them, against all other candidates of the
    clip and all other clips of the candidates. As published, the denominator counts the positives in both directions,
    so the least value is log 2.

    Args:
        similarity: ``[n, n * k]``: clips against candidates, the ``k`` of clip ``i`` at ``i * k``.
        present: as for :func:`norm_softmax`.
    """
    count = len(similarity)
    logits = similarity.view(count, count, -1)
    if present is not None:
        logits = _blind(logits, present.view(1, -1, 1) & present.view(-1, 1, 1))
    positive = logits.diagonal().T.logsumexp(dim=1)
    against = torch.cat([logits, logits.transpose(0, 1)], dim=1).flatten(1).logsumexp(dim=1)
    return mean_over(against - positive, present)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision widened to float32; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def mean_over(losses: Tensor, present: Tensor | None) -> Tensor:
    """The mean of ``losses [n]`` over the samples that count, all without ``present``; 0 if none does."""
    if present is None:
        return losses.mean()
    return torch.where(present, losses, 0).sum() / present.sum().clamp(min=1)


def _softmax_both_ways(logits: Tensor, present: Tensor | None) -> Tensor:
    rows, columns = logits, logits.T
    if present is not None:
        rows, columns = _blind(rows, present), _blind(columns, present)
    forward, backward = (F.log_softmax(x, dim=1).diagonal() for x in (rows, columns))
    return mean_over(-(forward + backward), present)


def _blind(logits: Tensor, visible: Tensor) -> Tensor:
    # The lowest finite number, not -inf: a row that sees nothing at all must not turn into NaN.
    return logits.masked_fill(~visible, torch.finfo(logits.dtype).min)
