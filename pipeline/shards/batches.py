"""Filling batches: the bytes of clips, read by offset from the shards to where the batch has them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.config import ClipSettings
from pipeline.shards.clips import Clips, feature_window, first_tokens, token_features, whole_seconds
from pipeline.shards.index import MODALITIES
from pipeline.shards.layout import Arrays, BatchLayout
from pipeline.shards.members import MemberColumns, Members, column
from pipeline.shards.narrations import NarrationReader, Narrations
from pipeline.shards.reader import ShardSet
from pipeline.shards.reads import Pieces, joined
from pipeline.shards.sample import silence, to_decibels
from pipeline.shards.tars import Read
from pipeline.types import Modality

_TRACKS: tuple[Modality, ...] = ("2d", "3d")
_FETCHED = 8
"""Samples that are asked of an object store at once."""
_PLANNED = 64
"""Videos whose clips are made at once: of more of them array operations are not cheaper by much."""
_WHOLE = 8
"""The same where whole clips have to be read before it is known what is kept of them: some megabytes of each video."""

Integers = NDArray[np.int64]


@dataclass
class VideoReads:
    """What is left to do before the rows of a video are filled."""

    tar: int
    reads: list[Read] = field(default_factory=list)
    after: list[Callable[[], None]] = field(default_factory=list)
    """To be called once all is read."""


class _Filling(NamedTuple):
    """Clips on their way into a batch."""

    arrays: Arrays
    rows: Integers
    """``[clips]``: where in the batch they belong."""
    clips: Clips
    videos: list[VideoReads]


class _Window(NamedTuple):
    """The steps of one modality that clips need."""

    modality: Modality
    members: Members
    """``[clips]``: where the array of each clip's video is."""
    first: Integers
    steps: Integers
    """How many."""


class ClipReader:
    """Reads clips of videos into batches. Videos are numbered as in the :class:`ShardSet`.

    It holds the index as a few arrays and can be sent to worker processes.
    """

    def __init__(self, shards: ShardSet, settings: ClipSettings):
        """Takes what it needs of the index."""
        table = shards.table
        self.settings = settings
        self.tars = shards.tars
        self.shard = column(table, "shard", 0)
        self.duration = column(table, "duration", 0.0)
        self.hashes = np.array([zlib.crc32(video_id.encode()) for video_id in shards.ids], np.uint32)
        self.narrations = NarrationReader(shards.tars, table, shards.words)
        first_alone = settings.max_video_tokens and settings.video_tokens == "clip"
        self.at_once = _FETCHED if shards.tars.remote else _PLANNED if first_alone else _WHOLE
        """Videos that :meth:`fill` is best given at once."""
        self._offset = column(table, "offset", 0)
        self._size = column(table, "size", 0)
        self._checksum = column(table, "checksum", 0)
        columns = {modality: MemberColumns(table, modality) for modality in MODALITIES}
        self._members = {modality: found.members for modality, found in columns.items()}
        self._tracks = [modality for modality in _TRACKS if columns[modality].width]
        widths = {modality: found.width for modality, found in columns.items()}
        dtypes = {modality: found.dtype for modality, found in columns.items()}
        self.layout = BatchLayout(settings, widths, dtypes)

    def fetch(self, numbers: Integers) -> None:
        """Gets whole samples that will soon be read from an object store; from a disk nothing."""
        if self.tars.remote:
            columns = (self.shard[numbers], self._offset[numbers], self._size[numbers])
            self.tars.fetch(list(zip(*(values.tolist() for values in columns), strict=True)))

    def check(self, number: int, video_id: str) -> None:
        """Compares all bytes of a sample with its checksum; raises ShardError, which names the video as given."""
        tar, offset, size = (int(values[number]) for values in (self.shard, self._offset, self._size))
        if zlib.crc32(self.tars.read(tar, offset, size)) != self._checksum[number]:
            raise self.tars.damaged(tar, f"the checksum of {video_id} is wrong")

    def seconds(self, numbers: Integers) -> Integers:
        """The seconds of videos in which random windows lie."""
        return whole_seconds(self.duration[numbers], self._members["audio"].length[numbers])

    def fill(
        self, arrays: Arrays, numbers: Integers, clips: Clips, narrations: Narrations, rows: Integers | None = None
    ) -> list[VideoReads]:
        """Fills the rows of clips, but for what has to be read.

        Args:
            arrays: the batch, as :func:`~pipeline.shards.layout.arrays_of` has it.
            numbers: the videos.
            clips: windows of them.
            narrations: their captions.
            rows: the row of each clip; None: from the first on.

        Returns:
            what each video's rows still lack, in the order of ``numbers``: :meth:`start`, then :meth:`finish` it.
        """
        rows = np.arange(len(clips.start)) if rows is None else rows
        videos = [VideoReads(shard) for shard in self.shard[numbers].tolist()]
        filling = _Filling(arrays, rows, clips, videos)
        arrays["video_index"][rows] = numbers[clips.video]
        arrays["clip_start"][rows], arrays["clip_end"][rows] = clips.start, clips.end
        _fill_words(arrays["word_ids"], rows, clips, narrations)
        owners = numbers[clips.video]
        self._fill_audio(filling, owners)
        self._fill_video(filling, owners)
        return videos

    def start(self, video: VideoReads) -> None:
        """Reads what is in memory, and has the disk get the rest meanwhile."""
        video.reads = self.tars.read_soon(video.tar, video.reads)

    def finish(self, video: VideoReads) -> None:
        """Does all that :meth:`start` left to be done; raises ShardError."""
        for read in video.reads:
            self.tars.read_into(video.tar, read)
        for step in video.after:
            step()

    def _fill_audio(self, filling: _Filling, owners: Integers) -> None:
        audio, clips, members = filling.arrays["audio"], filling.clips, self._members["audio"].at(owners)
        first = np.minimum(clips.audio_first, members.length)
        stop = np.minimum(
            np.minimum(clips.audio_stop, clips.audio_first + self.settings.max_audio_frames), members.length
        )
        window = _Window("audio", members, first, np.maximum(0, stop - first))
        stored = members.stored_as(audio.dtype)
        self._read(filling, window, np.flatnonzero(stored))
        for video, chosen, steps in self._read_aside(filling, window, np.flatnonzero(~stored)):
            filling.videos[video].after.append(partial(_fill_decibels, audio, filling.rows[chosen], steps))
        _clear_behind(audio, filling.rows, window.steps, silence(audio.dtype))
        filling.arrays["audio_nframes"][filling.rows] = window.steps

    def _fill_video(self, filling: _Filling, owners: Integers) -> None:
        windows = [self._window(modality, filling.clips, owners) for modality in self._tracks]
        chosen = np.arange(len(owners))
        if windows and self.settings.max_video_tokens and self.settings.video_tokens == "clip":
            chosen = self._fill_first(filling, windows)
        if len(chosen):
            self._fill_chosen(filling, windows, chosen)

    def _window(self, modality: Modality, clips: Clips, owners: Integers) -> _Window:
        members = self._members[modality].at(owners)
        first, stop = feature_window(clips.start, clips.end, members.rate, members.length)
        return _Window(modality, members, first, stop - first)

    def _fill_first(self, filling: _Filling, windows: list[_Window]) -> Integers:
        """Has the first features of clips read to where they belong; returns the clips of which that is not enough."""
        tokens = first_tokens([window.steps for window in windows], self.settings.max_video_tokens)
        # 2D features that are denser than 3D ones are picked, not stretched
        direct = tokens.steps[0] <= tokens.kept
        for window in windows:
            direct &= window.members.stored_as(self._target(filling, window).dtype)
        chosen = np.flatnonzero(direct)
        rows, kept = filling.rows[chosen], tokens.kept[chosen]
        for window, steps in zip(windows, tokens.steps, strict=True):
            self._read(filling, window._replace(steps=steps), chosen)
        _clear_behind(filling.arrays["features_3d"], rows, kept, 0)
        # places behind the last token have the last 2D feature, and nothing has those before it that are not a token's
        filling.arrays["features_2d"][rows[kept < self.settings.max_video_tokens], -1] = 0
        filling.arrays["places_2d"][rows] = tokens.places[chosen]
        filling.arrays["video_tokens"][rows] = kept
        return np.flatnonzero(~direct)

    def _fill_chosen(self, filling: _Filling, windows: list[_Window], chosen: Integers) -> None:
        """Has all features of clips read, to keep what their tokens are."""
        rows = filling.rows[chosen]
        filling.arrays["places_2d"][rows] = np.arange(filling.arrays["places_2d"].shape[1])
        filling.arrays["video_tokens"][rows] = 0
        found = [self._read_aside(filling, window, chosen) for window in windows]
        for parts in zip(*found, strict=True):
            video, clips, _ = parts[0]
            tracks = [steps for _, _, steps in parts]
            filling.videos[video].after.append(partial(self._choose, filling.arrays, filling.rows[clips], tracks))

    def _choose(self, arrays: Arrays, rows: Integers, tracks: list[list[NDArray[Any]]]) -> None:
        """Fills rows with the tokens of clips, of each of whose tracks the features are given."""
        targets = [arrays[f"features_{modality}"] for modality in self._tracks]
        for row, features in zip(rows.tolist(), zip(*tracks, strict=True), strict=True):
            chosen = token_features(
                features, self.settings.max_video_tokens, self.settings.video_tokens, self.settings.video_pooling
            )
            for target, values in zip(targets, chosen, strict=True):
                target[row, : len(values)] = values
                target[row, len(values) :] = 0
            arrays["video_tokens"][row] = max(map(len, chosen))

    def _read(self, filling: _Filling, window: _Window, chosen: Integers) -> None:
        """Has the windows of chosen clips read to where they belong."""
        target = self._target(filling, window)
        self._add_reads(filling, window, chosen, target, filling.rows[chosen] * target.strides[0])

    def _read_aside(
        self, filling: _Filling, window: _Window, chosen: Integers
    ) -> Iterator[tuple[int, Integers, list[NDArray[Any]]]]:
        """Has the windows of chosen clips read into arrays of their own.

        Yields each video, its clips among the chosen ones, and the steps of each, to be read.
        """
        parts: dict[int, NDArray[Any]] = {}
        width = self._target(filling, window).shape[2]
        for kind in np.unique(window.members.kind[chosen]).tolist():
            clips = chosen[window.members.kind[chosen] == kind]
            bounds = np.concatenate([[0], np.cumsum(window.steps[clips])])
            whole = np.empty((int(bounds[-1]), width), window.members.dtype(kind))
            self._add_reads(filling, window, clips, whole, bounds[:-1] * whole.strides[0])
            parts |= dict(zip(clips.tolist(), np.split(whole, bounds[1:-1]), strict=True))
        video = filling.clips.video[chosen]
        for owner in np.unique(video).tolist():
            clips = chosen[slice(*np.searchsorted(video, (owner, owner + 1)))]
            yield owner, clips, [parts[clip] for clip in clips.tolist()]

    def _add_reads(
        self, filling: _Filling, window: _Window, chosen: Integers, memory: NDArray[Any], places: Integers
    ) -> None:
        """Has the windows of chosen clips read into a memory, each from a byte of it on."""
        step = memory.shape[-1] * memory.itemsize
        offset, first, count = window.members.offset[chosen], window.first[chosen], window.steps[chosen]
        pieces = Pieces(filling.clips.video[chosen], offset + first * step, count * step, places)
        found = joined(pieces, memory.reshape(-1).view(np.uint8).data, len(filling.videos))
        for video, reads in zip(filling.videos, found, strict=True):
            video.reads += reads

    @staticmethod
    def _target(filling: _Filling, window: _Window) -> NDArray[Any]:
        return filling.arrays["audio" if window.modality == "audio" else f"features_{window.modality}"]


def _fill_words(word_ids: NDArray[np.int32], rows: Integers, clips: Clips, narrations: Narrations) -> None:
    """Fills rows with the first words of clips, -1 behind them."""
    word_ids[rows] = -1
    first = narrations.word_bounds[clips.captions]
    count = narrations.word_bounds[clips.captions + 1] - first
    spoken = np.cumsum(count) - count
    place = spoken - spoken[np.searchsorted(clips.owner, clips.owner)]  # within the clip
    taken = np.clip(word_ids.shape[1] - place, 0, count)
    caption = np.repeat(np.arange(len(taken)), taken)
    step = np.arange(len(caption)) - np.repeat(np.cumsum(taken) - taken, taken)
    words = narrations.word_ids[first[caption] + step]
    word_ids[rows[clips.owner[caption]], place[caption] + step] = words


def _fill_decibels(audio: NDArray[Any], rows: Integers, spectrograms: list[NDArray[Any]]) -> None:
    for row, frames in zip(rows.tolist(), spectrograms, strict=True):
        audio[row, : len(frames)] = to_decibels(frames, audio.dtype)


def _clear_behind(target: NDArray[Any], rows: Integers, count: Integers, nothing: int) -> None:
    """Fills what is behind the last step of each row."""
    short = count < target.shape[1]
    for row, first in zip(rows[short].tolist(), count[short].tolist(), strict=True):
        target[row, first:] = nothing
