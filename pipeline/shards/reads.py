"""Reads of what clips need: pieces of a tar that lie near each other are got at once."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.shards.tars import Read

_JOIN_BYTES = 1 << 16
"""What is not needed between two pieces, and takes less time than a read of its own."""
_MOST_PIECES = 512
"""A read fills at most 1,024 buffers at once (``IOV_MAX``)."""
_TAR_BITS = 44
"""No tar is larger than 2**44 bytes."""

_aside = memoryview(bytearray(_JOIN_BYTES))
"""Memory for what is read and not needed."""


class Pieces(NamedTuple):
    """Stretches of tars, and where in some memory they belong; all ``[n]``."""

    video: NDArray[np.int64]
    """Whose they are; only pieces of one video are read at once."""
    offset: NDArray[np.int64]
    """First byte in the video's tar."""
    size: NDArray[np.int64]
    """Bytes; those of none are not read."""
    target: NDArray[np.int64]
    """First byte in the memory."""


def joined(pieces: Pieces, memory: memoryview, videos: int) -> list[list[Read]]:
    """The reads that fill a memory with pieces, for each of some videos.

    Args:
        pieces: in any order.
        memory: bytes.
        videos: how many there are.
    """
    kept = np.flatnonzero(pieces.size > 0)
    order = kept[np.argsort((pieces.video[kept] << _TAR_BITS) + pieces.offset[kept])]
    if not len(order):
        return [[] for _ in range(videos)]
    video, offset, size, target = (values[order] for values in pieces)
    end = offset + size
    gap = np.zeros_like(size)  # before each piece: bytes that are read and not needed
    gap[1:] = offset[1:] - end[:-1]
    heads = (gap < 0) | (gap > _JOIN_BYTES)
    heads[1:] |= video[1:] != video[:-1]
    heads[::_MOST_PIECES] = True
    gap[heads] = 0
    parted = gap > 0
    buffer = np.cumsum(parted) + np.arange(
        len(order)
    )  # which of all buffers is a piece's; that of the gap is before it
    buffers: list[memoryview] = [_aside] * (int(buffer[-1]) + 1)
    slices = map(slice, target.tolist(), (target + size).tolist())
    for place, piece in zip(buffer.tolist(), map(memory.__getitem__, slices), strict=True):
        buffers[place] = piece
    for place, length in zip((buffer[parted] - 1).tolist(), gap[parted].tolist(), strict=True):
        buffers[place] = _aside[:length]
    head = np.flatnonzero(heads)
    tail = np.append(head[1:], len(order)) - 1
    filled = map(buffers.__getitem__, map(slice, buffer[head].tolist(), (buffer[tail] + 1).tolist()))
    reads: list[Read] = list(zip(offset[head].tolist(), (end[tail] - offset[head]).tolist(), filled, strict=True))
    bounds = np.searchsorted(video[head], np.arange(videos + 1)).tolist()
    return [reads[first:stop] for first, stop in itertools.pairwise(bounds)]
