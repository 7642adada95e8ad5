"""Retrieval of whole videos by the captions of their clips: MCN's evaluation on YouCook2 (``video_evaluation.py``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.benchmarks.retrieval import Floats, match_ranks, metrics_of_ranks

DEPTHS = (1, 5, 10)
"""The k of R@k."""

WAYS = {
    "caption": "a caption, among the videos of the first k clips",
    "average": "all captions, by the average of their best clips",
    "votes_of_videos": "all captions, each votes for its first k videos",
    "votes_of_clips": "all captions, each votes for its first k clips",
}
"""What looks for a video, and how it decides."""


def whole_video_recalls(similarity: Floats, videos: Sequence[str]) -> dict[str, dict[str, float]]:
    """Recalls in percent, by the names in :data:`WAYS`: ``R1``, ``R5``, ``R10``.

    Of votes that are equal, those of the video whose name comes first count first.

    Args:
        similarity: captions against clips ``[clips, clips]``, the match is the diagonal.
        videos: each clip's video.
    """
    names, owner = np.unique(np.asarray(videos), return_inverse=True)
    of_clips = owner[np.argsort(-similarity, axis=1, kind="stable")]
    best = _best_clips(similarity, owner, len(names))
    of_videos = np.argsort(-best, axis=1, kind="stable")
    averaged = np.stack([best[owner == video].mean(axis=0) for video in range(len(names))])
    average = metrics_of_ranks(match_ranks(averaged)).to_dict()
    return {
        "caption": {f"R{k}": 100 * float((of_clips[:, :k] == owner[:, None]).any(axis=1).mean()) for k in DEPTHS},
        "average": {f"R{k}": average[f"R{k}"] for k in DEPTHS},
        "votes_of_videos": {f"R{k}": _by_votes(of_videos[:, :k], owner, k) for k in DEPTHS},
        "votes_of_clips": {f"R{k}": _by_votes(of_clips[:, :k], owner, k) for k in DEPTHS},
    }


def _best_clips(similarity: Floats, owner: npt.NDArray[np.int64], videos: int) -> Floats:
    """How similar the best clip of each video is: ``[captions, videos]``."""
    together = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[together], np.arange(videos))
    return np.maximum.reduceat(similarity[:, together], starts, axis=1)


def _by_votes(chosen: npt.NDArray[np.int64], owner: npt.NDArray[np.int64], depth: int) -> float:
    """Percentage of videos that are among the ``depth`` for which most of their captions' votes are."""
    hits = 0
    for video in range(owner.max() + 1):
        votes = np.bincount(chosen[owner == video].ravel(), minlength=owner.max() + 1)
        first = np.argsort(-votes, kind="stable")[:depth]
        hits += bool(votes[video] > 0 and (first == video).any())
    return 100 * hits / (owner.max() + 1)
