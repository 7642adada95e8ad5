"""What decides the order of an epoch and the clips in it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.shards.order import epoch_order, random_shares


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12), window=st.integers(1, 5), seed=st.integers(0, 9))
def test_an_order_has_each_video_once_and_few_shards_at_a_time(sizes, window, seed):
    shard = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    order = epoch_order(shard, seed, 0, window)
    assert sorted(order.tolist()) == list(range(len(shard)))
    seen = shard[order].tolist()
    groups, place = [], 0
    while place < len(seen):
        group = set()
        for number in seen[place:]:
            if number not in group and len(group) == window:
                break
            group.add(number)
            place += 1
        groups.append(group)
    assert all(not first & second for i, first in enumerate(groups) for second in groups[i + 1 :])


def test_random_shares_are_even_and_a_videos_own():
    hashes = np.arange(20_000, dtype=np.uint32) * np.uint32(97)
    shares = random_shares(1, 2, hashes, 10)
    assert shares.shape == (20_000, 10) and shares.min() >= 0 and shares.max() < 1
    counts = np.histogram(shares, 50, (0, 1))[0]
    assert ((counts - 4000) ** 2 / 4000).sum() < 85  # chi-square of 49 degrees of freedom: 1 in 1,000 is larger
    for other in (shares[:, 1:], random_shares(1, 3, hashes, 9), random_shares(2, 2, hashes, 9)):
        assert abs(np.corrcoef(shares[:, :-1].ravel(), other.ravel())[0, 1]) < 0.01
    assert np.array_equal(random_shares(1, 2, hashes[[5, 77]], 10), shares[[5, 77]])
    assert len(np.unique(shares)) == shares.size
