"""The training loader: batches of clips in an order that can be resumed anywhere."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.config import ClipSettings
from pipeline.errors import InputError
from pipeline.shards.batches import ClipReader
from pipeline.shards.clips import FREE_SAMPLINGS
from pipeline.shards.filling import fill_training_batch
from pipeline.shards.layout import Batch
from pipeline.shards.order import epoch_order, rank_slice
from pipeline.shards.pool import LENT, Slots, Work, WorkerPool
from pipeline.shards.reader import ShardSet
from pipeline.wording import counted

log = logging.getLogger(__name__)

_SAID = {"seed": "train.seed", "batch_videos": "train.batch_videos", "shuffle_shards": "clips.shuffle_shards"}
_SAID |= {"videos": "the number of videos to train on", "order": "the order of videos"}
"""A loader's position in the words of its settings."""
_Request = tuple[int, NDArray[np.int64]]
"""An epoch, and the videos of a batch in it."""


class TrainingLoader:
    """Batches of training clips.

    Iterating gives the batches of the epoch from where it stands to the epoch's end, and then stands at the beginning
    of the next one. A batch is a dictionary, see :class:`BatchLayout`; its clips are video-major.

    What a global batch holds depends on the seed, the epoch, ``batch_videos`` and the shards alone: not on the number
    of ranks or workers. The clips of a video depend on seed, epoch and the video's id.

    Attributes:
        epoch: the epoch it stands in, from 0.
        batch: how many of its batches are done.
    """

    def __init__(
        self,
        shards: ShardSet,
        clips: ClipSettings,
        batch_videos: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        split: str | None = "train",
    ):
        """Plans from the index; reads nothing yet.

        Args:
            shards: the data.
            clips: how clips are drawn.
            batch_videos: videos in a global batch, over all ranks.
            seed: decides the order and the clips.
            rank: which share of each global batch this process gets.
            world_size: number of shares.
            workers: processes that read; 0: this one does.
            split: only videos of this split; None: all.

        Raises:
            InputError: no video is left, fewer than a batch where the last batch is dropped, or a size is not positive.
        """
        for name, value in {
            "train.batch_videos": batch_videos,
            "clips.per_video": clips.per_video,
            "clips.shuffle_shards": clips.shuffle_shards,
            "clips.max_words": clips.max_words,
            "clips.max_audio_frames": clips.max_audio_frames,
        }.items():
            if value < 1:
                raise InputError(f"{name} is {value}; it must be 1 or more")
        self._reader = ClipReader(shards, clips)
        self._numbers = _usable(shards, clips, split)
        self._shard = self._reader.shard[self._numbers]
        self._order = zlib.crc32(self._shard.tobytes(), zlib.crc32(self._reader.hashes[self._numbers].tobytes()))
        self._clips = clips
        self._batch_videos = batch_videos
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._workers = workers
        self.epoch = 0
        self.batch = 0
        self._stream: WorkerPool | Iterator[tuple[Batch, list[str]]] | None = None
        self._stream_at = (-1, -1)
        if not len(self):
            raise InputError(
                f"{shards.folder}: split {split} has {counted(len(self._numbers), 'video')}, fewer than a batch "
                f"(train.batch_videos {batch_videos}); lower it"
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(len(self._numbers), self._batch_videos)
        return whole + (1 if rest and self._clips.last_batch == "keep" else 0)

    @property
    def videos(self) -> int:
        """How many videos an epoch has to draw from."""
        return len(self._numbers)

    def set_epoch(self, epoch: int) -> None:
        """Goes to the beginning of an epoch; stays where it is when it stands in that epoch."""
        if epoch != self.epoch:
            self.epoch, self.batch = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Where it stands: the batches that were handed out are done."""
        epoch, batch = (self.epoch, self.batch) if self.batch < len(self) else (self.epoch + 1, 0)
        return {
            "epoch": epoch,
            "batch": batch,
            "seed": self._seed,
            "batch_videos": self._batch_videos,
            "videos": len(self._numbers),
            "shuffle_shards": self._clips.shuffle_shards,
            "order": self._order,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where another loader stood, which may have had other numbers of ranks and workers.

        Raises:
            InputError: it had another seed, global batch or set of videos, or in the middle of an epoch another order
                of them, so that there is no such place.
        """
        mine = self.state_dict()
        for key in ("seed", "batch_videos", "videos", *(("shuffle_shards", "order") if state["batch"] else ())):
            if state.get(key) != mine[key]:
                raise InputError(
                    f"cannot continue: {_SAID.get(key, key)} was {state.get(key)} and is now {mine[key]}; restore it, "
                    "or start a new run"
                )
        self.epoch, self.batch = int(state["epoch"]), int(state["batch"])

    def __iter__(self) -> Iterator[Batch]:
        if self.batch >= len(self):
            self.epoch, self.batch = self.epoch + 1, 0
        epoch = self.epoch
        while (self.epoch, self.batch) < (epoch, len(self)):
            if self._stream is None or self._stream_at != (self.epoch, self.batch):
                self.close()
                self._stream = self._start()
            try:
                batch, damaged = next(self._stream)
            except BaseException:
                self.close()
                raise
            for message in damaged:
                log.warning("skipped: %s", message)
            self.batch += 1
            self._stream_at = (self.epoch, self.batch) if self.batch < len(self) else (self.epoch + 1, 0)
            yield batch
        self.epoch, self.batch = epoch + 1, 0

    def close(self) -> None:
        """Stops the workers; iterating starts them again."""
        if isinstance(self._stream, WorkerPool):
            self._stream.close()
        self._stream = None

    def _start(self) -> WorkerPool | Iterator[tuple[Batch, list[str]]]:
        requests = self.plan(self.epoch, self.batch)
        layout = self._reader.layout
        most = -(-min(self._batch_videos, len(self._numbers)) // self._world_size) * self._clips.per_video
        if not self._workers:
            return self._batches_here(requests, layout.size(most))
        return WorkerPool(Work(layout.view, self._fill, self._count, layout.size(most)), requests, self._workers)

    def _batches_here(self, requests: Iterator[_Request], size: int) -> Iterator[tuple[Batch, list[str]]]:
        layout, slots = self._reader.layout, Slots(LENT, size)
        slots.pin()
        try:
            for request in requests:
                clips = self._count(request)
                lent = bool(slots.free)
                batch = layout.view(slots.lend(slots.free.popleft()), clips) if lent else layout.allocate(clips)
                yield batch, self._fill(batch, request)
                del batch  # else its memory would not be free for the batch after the next
        finally:
            slots.close()

    def _count(self, request: _Request) -> int:
        return len(request[1]) * self._clips.per_video

    def _fill(self, batch: Batch, request: _Request) -> list[str]:
        return fill_training_batch(self._reader, batch, self._seed, *request)

    def plan(self, epoch: int, batch: int) -> Iterator[_Request]:
        """What this rank reads from a place on, over all epochs to come."""
        while True:
            order = self._numbers[epoch_order(self._shard, self._seed, epoch, self._clips.shuffle_shards)]
            for place in range(batch, len(self)):
                videos = order[place * self._batch_videos : (place + 1) * self._batch_videos]
                yield epoch, videos[rank_slice(len(videos), self._rank, self._world_size)]
            epoch, batch = epoch + 1, 0


def _usable(shards: ShardSet, clips: ClipSettings, split: str | None) -> NDArray[np.int64]:
    table = shards.table
    usable = np.ones(len(shards), bool)
    if split is not None:
        usable &= np.asarray(pc.equal(table["split"], split).to_numpy(), bool)
    needs_captions = clips.sampling not in FREE_SAMPLINGS
    if needs_captions:
        usable &= table["captions"].to_numpy() > 0
    if not usable.any():
        if not len(table):
            raise InputError(f"{shards.folder}: its shards hold no videos")
        found = ", ".join(sorted(pc.unique(table["split"]).to_pylist()))
        with_captions = " with captions" if needs_captions else ""
        raise InputError(f"{shards.folder}: no video of split {split}{with_captions}; it has the splits {found}")
    return np.flatnonzero(usable)
