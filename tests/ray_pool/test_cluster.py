import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ray_pool import Node, Share, shared_out

MANY = 10**6


def machines(*sizes: tuple[float, float]) -> list[Node]:
    return [Node(str(number), "host", cpus, gpus) for number, (cpus, gpus) in enumerate(sizes)]


@pytest.mark.parametrize(
    ("nodes", "wanted", "most", "share"),
    [
        (machines((16, 0)), None, MANY, Share(8, 2, 0, 2)),
        (machines((2, 0)), None, MANY, Share(2, 1, 0, 1)),
        (machines((1, 0), (3, 0)), None, MANY, Share(3, 1, 0, 1)),
        (machines((16, 0), (16, 0)), None, 1, Share(1, 16, 0, 16)),
        (machines((16, 0), (16, 0)), 3, MANY, Share(3, 8, 0, 8)),
        (machines((0, 0), (16, 0)), None, MANY, Share(8, 2, 0, 2)),
        (machines((2, 0)), 5, MANY, Share(5, 1 / 3, 0, 1)),
        (machines((0, 0)), None, MANY, Share(1, 1, 0, 1)),
        (machines((64, 8)), None, MANY, Share(8, 1, 1, 8)),
        (machines((64, 8)), None, 3, Share(3, 1, 1, 8)),
        (machines((64, 8)), 12, MANY, Share(12, 1, 1 / 2, 4)),
        (machines((16, 1), (64, 0)), None, MANY, Share(1, 1, 1, 16)),
        (machines((2, 4)), None, MANY, Share(4, 1 / 2, 1, 1)),
    ],
)
def test_what_each_worker_claims(nodes: list[Node], wanted: int | None, most: int, share: Share) -> None:
    assert shared_out(nodes, wanted, most) == share


@given(
    sizes=st.lists(st.tuples(st.integers(1, 128), st.sampled_from([0, 0, 1, 2, 8])), min_size=1, max_size=4),
    wanted=st.none() | st.integers(1, 64),
    most=st.integers(1, 64),
)
def test_every_worker_finds_a_place(sizes: list[tuple[int, int]], wanted: int | None, most: int) -> None:
    share = shared_out(machines(*sizes), wanted, most)
    assert 1 <= share.actors <= min(wanted or MANY, most) and 0 < share.cpus <= share.threads
    places = 0
    for cpus, gpus in sizes:
        by_cpus = int(cpus / share.cpus + 1e-9)
        places += min(by_cpus, int(gpus / share.gpus + 1e-9)) if share.gpus else by_cpus
    assert places >= share.actors
