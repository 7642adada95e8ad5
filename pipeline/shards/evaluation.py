"""Clips of a benchmark: each caption of a held-out video is one clip."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor

from pipeline.config import ClipSettings
from pipeline.errors import InputError
from pipeline.shards.batches import ClipReader
from pipeline.shards.clips import whole_clips
from pipeline.shards.decoding import stretched
from pipeline.shards.files import ShardError
from pipeline.shards.layout import Batch, arrays_of
from pipeline.shards.reader import ShardSet


def evaluation_clips(
    shards: ShardSet,
    split: str | None = "test",
    clips: ClipSettings | None = None,
    batch_clips: int = 64,
    max_words: int | None = None,
) -> EvaluationBatches:
    """Batches of one clip per caption, in the order of the shards, the same each time.

    A clip is its caption's window, with its own sound. The batches are those of the training loader, and have two more
    entries: ``clip_ids``, ``<video id>/<caption>`` of each clip, and ``texts``, its caption. Where clips are cut
    (``clips.pieces``), each piece is a row, and the pieces of a clip are rows of one batch with the same id.
    Every sample is compared with its checksum.

    Args:
        shards: the data.
        split: only videos of this split; None: all.
        clips: sizes, and how long clips become tokens; how clips are drawn does not matter here.
        batch_clips: most clips in a batch.
        max_words: words per caption; None: as ``clips`` says.

    Raises:
        InputError: the split has no caption.
        ShardError: a shard is damaged, and ``clips.damaged`` says that this is fatal.
    """
    settings = clips or ClipSettings()
    pieces = settings.pieces
    whole = dataclasses.replace(
        settings,
        max_words=max_words or settings.max_words,
        max_video_tokens=settings.max_video_tokens * pieces,
        max_audio_frames=settings.max_audio_frames * pieces,
        video_tokens="clip" if pieces > 1 else settings.video_tokens,
    )
    reader = ClipReader(shards, whole)
    captions = shards.table["captions"].to_pylist()
    numbers = [
        number
        for number, found in enumerate(shards.table["split"].to_pylist())
        if found == (split or found) and captions[number]
    ]
    if not numbers:
        known = ", ".join(sorted(pc.unique(shards.table["split"]).to_pylist()))
        where = "" if split is None else f" in split {split}"
        raise InputError(
            f"{shards.folder}: no video with captions{where}; its videos, captioned or not, are of the splits {known}"
        )
    return EvaluationBatches(shards.ids, reader, numbers, captions, batch_clips, pieces)


class EvaluationBatches:
    """The batches of :func:`evaluation_clips`; each iteration gives them anew.

    Where ``clips.damaged`` is ``skip``, clips of damaged videos are left out.
    """

    def __init__(
        self, ids: list[str], reader: ClipReader, numbers: list[int], captions: list[int], batch_clips: int, pieces: int
    ):
        self._ids, self._reader, self._batch_clips, self._pieces = ids, reader, batch_clips, pieces
        self._clips = [(number, index) for number in numbers for index in range(captions[number])]
        self.damaged: list[str] = []
        """What was found to be damaged in the last iteration."""
        self.left_out = 0
        """Clips that are missing from it for that."""
        self._checked: set[int] = set()
        self._stretches: dict[tuple[int, int], tuple[int, float, float]] = {}

    @property
    def not_told_apart(self) -> int:
        """Clips of the last iteration whose stretch of video another clip, of another caption, has too."""
        times = Counter(self._stretches.values())
        return sum(count for count in times.values() if count > 1)

    @property
    def clips(self) -> int:
        """How many clips there are, damaged ones too."""
        return len(self._clips)

    def __len__(self) -> int:
        return -(-len(self._clips) // self._batch_clips)

    def __iter__(self) -> Iterator[Batch]:
        self.damaged, self.left_out, self._checked, self._stretches = [], 0, set(), {}
        for first in range(0, len(self._clips), self._batch_clips):
            wanted = self._clips[first : first + self._batch_clips]
            try:
                batch = self._batch(wanted)
            except ShardError:
                if self._reader.settings.damaged == "fatal":
                    raise
                whole = self._whole(wanted)
                if not whole:
                    continue
                batch = self._batch(whole)
            yield cut(batch, self._pieces) if self._pieces > 1 else batch
        if self.left_out == len(self._clips):
            raise ShardError(f"all videos are damaged: {self.damaged[0]}")

    def _whole(self, wanted: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Those clips whose videos can be read; notes the others."""
        whole: list[tuple[int, int]] = []
        for _, group in itertools.groupby(wanted, key=lambda clip: clip[0]):
            clips = list(group)
            try:
                self._batch(clips)
            except ShardError as error:
                self.damaged.append(str(error))
                self.left_out += len(clips)
            else:
                whole += clips
        return whole

    def _check(self, numbers: list[int]) -> None:
        """Compares samples with their checksums, each once: clips of a long video are in several batches.

        What says more of a damage, such as a narration that cannot be read, has been raised before.
        """
        for number in numbers:
            if number not in self._checked:
                self._reader.check(number, self._ids[number])
                self._checked.add(number)

    def _batch(self, wanted: Sequence[tuple[int, int]]) -> Batch:
        """The captions ``(video, caption)`` as clips."""
        reader = self._reader
        batch = reader.layout.allocate(len(wanted))
        numbers, place = np.unique([number for number, _ in wanted], return_inverse=True)
        reader.fetch(numbers)
        narrations = reader.narrations.read(numbers)
        captions = narrations.bounds[place] + [index for _, index in wanted]
        clips = whole_clips(narrations, captions)
        for video in reader.fill(arrays_of(batch), numbers, clips, narrations):
            reader.finish(video)
        texts = {number: reader.narrations.texts(number) for number in numbers.tolist()}
        self._check(numbers.tolist())
        for clip, caption in zip(wanted, captions.tolist(), strict=True):
            self._stretches[clip] = clip[0], float(narrations.starts[caption]), float(narrations.ends[caption])
        batch["clip_ids"] = [f"{self._ids[number]}/{index}" for number, index in wanted]
        batch["texts"] = [texts[number][index] for number, index in wanted]
        return batch


def cut(batch: Batch, pieces: int) -> Batch:
    """Cuts each clip of a batch into ``pieces`` of equally many tokens and frames, and drops those that are too empty.

    As in the published MFT, the first piece stays, and a further one if its sound fills more than 0.7 of it. A clip
    without sound, which the published program does not have, keeps the pieces that have a video token.

    Args:
        batch: of shapes that ``pieces`` divides.
        pieces: how many.
    """
    clips, tokens = batch["places_2d"].shape
    frames = batch["audio"].shape[1]
    piece = torch.arange(pieces)
    audio_left = batch["audio_nframes"][:, None] - piece * (frames // pieces)
    video_left = batch["video_tokens"][:, None] - piece * (tokens // pieces)
    silent = batch["audio_nframes"][:, None] == 0
    full = torch.where(silent, video_left > 0, audio_left > 0.7 * (frames // pieces))
    kept = (full | (piece == 0)).flatten()
    owner = torch.arange(clips).repeat_interleave(pieces)[kept]
    whole = {
        "features_2d": stretched(batch["features_2d"], batch["places_2d"]),
        "features_3d": batch["features_3d"],
        "audio": batch["audio"],
    }
    divided = {
        **{name: _divided(values, pieces) for name, values in whole.items()},
        "places_2d": torch.arange(tokens // pieces).expand(clips * pieces, -1),
        "video_tokens": video_left.clamp(0, tokens // pieces).flatten(),
        "audio_nframes": audio_left.clamp(0, frames // pieces).flatten(),
    }
    cut_batch: Batch = {name: values[kept] for name, values in divided.items()}
    for name, values in batch.items():
        if name not in divided:
            cut_batch[name] = values[owner] if torch.is_tensor(values) else [values[row] for row in owner.tolist()]
    return cut_batch


def _divided(values: Tensor, pieces: int) -> Tensor:
    """``[B, n, width]`` → ``[B * pieces, n / pieces, width]``."""
    return values.reshape(len(values) * pieces, values.shape[1] // pieces, values.shape[2])
