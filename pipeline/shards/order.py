"""In which order an epoch sees the videos: a pure function of (seed, epoch), whoever reads them."""

from __future__ import annotations

from typing import Any

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


def random_shares(seed: int, epoch: int, hashes: NDArray[np.uint32], count: int) -> NDArray[np.float64]:
    """Random numbers of [0, 1) for some videos, the same for a video whichever others are drawn with it.

    A generator for each video would take longer than all else that is to be decided about its clips. These are the
    outputs of SplitMix64 (Steele, Lea and Flood, *Fast splittable pseudorandom number generators*, OOPSLA 2014) at the
    places of its sequence that belong to a video.

    Args:
        seed: the run's seed.
        epoch: counted from 0.
        hashes: ``[videos]``, of their ids.
        count: numbers for each video.

    Returns:
        ``[videos, count]``.
    """
    start = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    places = (hashes.astype(np.uint64)[:, None] << np.uint64(32)) + np.arange(count, dtype=np.uint64)
    bits: NDArray[Any] = start + places * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53)
