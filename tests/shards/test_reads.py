"""Pieces of tars that are joined to reads."""

import os

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.shards.reads import Pieces, joined

VIDEOS = 3
FILE = np.random.default_rng(0).integers(0, 256, 400_000, np.uint8).tobytes()


def got(pieces, size):
    """What the reads of some pieces give, and where the reads are."""
    memory, places = bytearray(size), []
    for video, reads in enumerate(joined(Pieces(*map(np.array, pieces)), memoryview(memory), VIDEOS)):
        for offset, length, buffers in reads:
            assert length == sum(len(buffer) for buffer in buffers) and len(buffers) <= 1024
            places.append((video, offset, length))
            begin = offset
            for buffer in buffers:
                buffer[:] = FILE[begin : begin + len(buffer)]
                begin += len(buffer)
    return bytes(memory), places


@settings(max_examples=200, deadline=None)
@given(
    found=st.lists(
        st.tuples(st.integers(0, VIDEOS - 1), st.integers(0, 200_000), st.integers(0, 3_000)), min_size=1, max_size=30
    )
)
def test_each_piece_comes_to_its_place(found):
    video, offset, size = (np.array(values) for values in zip(*found, strict=True))
    target = np.cumsum(size) - size
    memory, places = got((video, offset, size, target), int(size.sum()))
    assert memory == b"".join(FILE[first : first + length] for _, first, length in found)
    assert len(places) <= np.count_nonzero(size)
    for owner, begin, length in zip(video, offset, size, strict=True):
        if length:
            assert any(
                owner == other and first <= begin and begin + length <= first + whole for other, first, whole in places
            )


def test_near_pieces_of_a_video_are_read_at_once():
    near, far = 1000 + (1 << 16), 1001 + (1 << 16)
    for second, reads in ((1000, 1), (1010, 1), (near, 1), (far, 2), (999, 2), (0, 2)):
        assert len(got(([0, 0], [second, 0], [1000, 1000], [0, 1000]), 2000)[1]) == reads
    assert len(got(([0, 1], [1000, 0], [1000, 1000], [0, 1000]), 2000)[1]) == 2
    assert got(([0, 2, 0], [20, 9, 0], [10, 0, 10], [10, 0, 0]), 20) == (FILE[:10] + FILE[20:30], [(0, 0, 30)])


def test_a_read_fills_no_more_buffers_than_the_system_allows(tmp_path):
    count = 3000
    pieces = (np.zeros(count, int), 20 * np.arange(count), np.full(count, 10), 10 * np.arange(count))
    memory, places = got(pieces, 10 * count)
    assert memory == b"".join(FILE[20 * place : 20 * place + 10] for place in range(count))
    assert len(places) == 6
    (tmp_path / "file").write_bytes(FILE)
    with (tmp_path / "file").open("rb") as file:
        for offset, length, buffers in joined(Pieces(*pieces), memoryview(bytearray(10 * count)), 1)[0]:
            assert os.preadv(file.fileno(), buffers, offset) == length


def test_nothing_is_read_of_no_pieces():
    assert joined(Pieces(*np.zeros((4, 2), int)), memoryview(b""), 2) == [[], []]
