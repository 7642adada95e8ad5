"""Zero-shot recognition by class names, and how well clusters agree with classes."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from pipeline.benchmarks.alignment import Floats

Labels = npt.NDArray[np.int64]

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def class_text(name: str) -> str:
    """The words of a class's name: ``ApplyEyeMakeup`` and ``apply_eye_makeup`` → ``apply eye makeup``."""
    return " ".join(word.lower() for word in _WORD.findall(name)) or name


def zero_shot_accuracy(similarity: Floats, labels: Labels) -> dict[str, float]:
    """Percentage of clips whose class is the most similar (``top1``), or among the five most similar (``top5``).

    As in retrieval a rank is the mean position among ties, and a tie for the first place is no hit of ``top1``.

    Args:
        similarity: ``[clips, classes]``.
        labels: ``[clips]``.
    """
    own = np.take_along_axis(similarity, labels[:, None], axis=1)
    ranks = (similarity > own).sum(axis=1) + ((similarity == own).sum(axis=1) - 1) / 2
    return {"top1": 100 * float((ranks == 0).mean()), "top5": 100 * float((ranks < 5).mean())}


def cluster_figures(clusters: Labels, labels: Labels) -> Mapping[str, float]:
    """How well clusters agree with classes, as MCN reports it.

    Args:
        clusters: ``[clips]``, each clip's cluster.
        labels: ``[clips]``, each clip's class.

    Returns:
        ``nmi``, mutual information over the mean of the two entropies, in percent; ``accuracy``, in percent, when
        clusters and classes are matched one to one as well as can be (Hungarian method); ``entropy``, the mean over
        clusters of the entropy of their classes, in nats; ``purity``, the mean over clusters of the share of their
        most frequent class, in percent. Empty clusters do not count.
    """
    table = np.zeros((clusters.max() + 1, labels.max() + 1))
    np.add.at(table, (clusters, labels), 1)
    table = table[table.sum(axis=1) > 0]
    total = table.sum()
    rows, columns = linear_sum_assignment(table, maximize=True)
    shares = table / table.sum(axis=1, keepdims=True)
    of_clusters, of_classes = table.sum(axis=1) / total, table.sum(axis=0) / total
    mutual = _entropy(of_clusters) + _entropy(of_classes) - _entropy(table.ravel() / total)
    mean_entropy = (_entropy(of_clusters) + _entropy(of_classes)) / 2
    return {
        "nmi": 100 * float(mutual / mean_entropy) if mean_entropy > 0 else 100.0,
        "accuracy": 100 * float(table[rows, columns].sum() / total),
        "entropy": float(np.mean([_entropy(share) for share in shares])),
        "purity": 100 * float(shares.max(axis=1).mean()),
    }


def _entropy(shares: Floats) -> float:
    present = shares[shares > 0]
    return float(-(present * np.log(present)).sum())
