"""Filling a training batch: the clips of its videos, those whose bytes are on their way before those that come next."""

from __future__ import annotations

import contextlib
import gc
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.shards.batches import ClipReader, VideoReads
from pipeline.shards.clips import training_clips
from pipeline.shards.files import ShardError
from pipeline.shards.layout import Batch, arrays_of
from pipeline.shards.narrations import Narrations
from pipeline.shards.order import random_shares

_READ_AHEAD = 4
"""Videos whose bytes a disk gets while the next one's are asked for."""


def fill_training_batch(
    reader: ClipReader, batch: Batch, seed: int, epoch: int, numbers: NDArray[np.int64]
) -> list[str]:
    """Fills a batch with the clips of some videos in an epoch.

    Returns:
        what was left out, where the settings allow that: the rows of such a video are empty.

    Raises:
        ShardError: a shard is damaged, and the settings say that this is fatal.
    """
    per_video, arrays = reader.settings.per_video, arrays_of(batch)
    left_out = _LeftOut(reader, batch)
    waiting: deque[tuple[int, VideoReads]] = deque()

    def finish(most: int) -> None:
        while len(waiting) > most:
            place, video = waiting.popleft()
            left_out.attempt(place, partial(reader.finish, video))

    with _without_garbage_collection():
        for places in np.split(np.arange(len(numbers)), range(reader.at_once, len(numbers), reader.at_once)):
            places, narrations = _narrations(reader, numbers, places, left_out)
            found = numbers[places]
            shares = random_shares(seed, epoch, reader.hashes[found], per_video)
            clips = training_clips(narrations, reader.seconds(found), reader.settings, shares)
            rows = places.repeat(per_video) * per_video + np.tile(np.arange(per_video), len(places))
            for place, video in zip(places.tolist(), reader.fill(arrays, found, clips, narrations, rows), strict=True):
                reader.start(video)
                if video.reads:
                    waiting.append((place, video))
                elif video.after:  # while what was read is in the processor's caches
                    left_out.attempt(place, partial(reader.finish, video))
                finish(_READ_AHEAD)
        finish(0)
    return left_out.messages


class _LeftOut:
    """The videos of a batch that are damaged."""

    def __init__(self, reader: ClipReader, batch: Batch):
        self._reader, self._batch = reader, batch
        self.messages: list[str] = []

    def attempt(self, place: int, step: Callable[[], object]) -> bool:
        """Whether a step succeeds; else the rows of the video at that place are emptied, if the settings allow it."""
        try:
            step()
            return True
        except ShardError as error:
            if self._reader.settings.damaged == "fatal":
                raise
            self.messages.append(str(error))
            per_video = self._reader.settings.per_video
            self._reader.layout.clear(self._batch, place * per_video, (place + 1) * per_video)
            return False


def _narrations(
    reader: ClipReader, numbers: NDArray[np.int64], places: NDArray[np.int64], left_out: _LeftOut
) -> tuple[NDArray[np.int64], Narrations]:
    """The places of the videos whose narrations can be read, and these narrations."""
    reader.fetch(numbers[places])
    try:
        return places, reader.narrations.read(numbers[places])
    except ShardError:
        steps = [partial(reader.narrations.read, numbers[place : place + 1]) for place in places.tolist()]
        sound = [left_out.attempt(place, step) for place, step in zip(places.tolist(), steps, strict=True)]
        return places[sound], reader.narrations.read(numbers[places[sound]])


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Thousands of buffers live for a moment: looking for cycles meanwhile would take longer than all they are for."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
