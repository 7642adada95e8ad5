"""In which order an epoch sees the videos: a pure function of (seed, epoch), whoever reads them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def epoch_order(shard: NDArray[np.int32], seed: int, epoch: int, window: int) -> NDArray[np.int64]:
    """A shuffled order that reads from ``window`` shards at a time.

    The shards are put in a random order and taken ``window`` at a time; within such a group the videos are shuffled.

    Args:
        shard: the shard of each video, ``[n]``.
        seed: the run's seed.
        epoch: counted from 0.
        window: shards whose videos mix; at least 1.

    Returns:
        positions in ``shard``, each once.
    """
    generator = np.random.default_rng([seed, epoch])
    shards, member = np.unique(shard, return_inverse=True)
    group = generator.permutation(len(shards))[member] // window
    return np.lexsort((generator.random(len(shard)), group))


def rank_slice(videos: int, rank: int, world_size: int) -> slice:
    """Which of a global batch's ``videos`` a rank takes: shares that differ by one at most, in order."""
    return slice(videos * rank // world_size, videos * (rank + 1) // world_size)
