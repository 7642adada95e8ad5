"""Filling batches: the bytes of clips, read by offset from the shards to where the batch has them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.config import ClipSettings
from pipeline.shards.clips import Clip, FirstTokens, feature_window, first_tokens, token_features, whole_seconds
from pipeline.shards.index import MODALITIES, Member
from pipeline.shards.layout import Arrays, BatchLayout
from pipeline.shards.members import MemberColumns, column
from pipeline.shards.reader import ShardSet
from pipeline.shards.sample import decode_array, silence, to_decibels
from pipeline.shards.tars import Read
from pipeline.types import Modality

_JOIN_BYTES = 1 << 16
_MOST_BUFFERS = 512
"""A read fills at most 1,024 buffers at once (``IOV_MAX``)."""
_TRACKS: tuple[Modality, ...] = ("2d", "3d")

Window = tuple[int, int]
"""The first step of an array, and the one after the last."""


class Narration(NamedTuple):
    """The captions of a video, as far as clips need them."""

    starts: list[float]
    ends: list[float]
    texts: list[str]
    word_ids: NDArray[np.int32]
    caption_words: list[int]

    def words(self, captions: Sequence[int]) -> NDArray[np.int32]:
        """The word ids of some captions, in the order in which the captions are given."""
        parts = [self.word_ids[self.caption_words[index] : self.caption_words[index + 1]] for index in captions]
        return np.concatenate(parts) if parts else self.word_ids[:0]


class _Track(NamedTuple):
    """A video's features of one modality, the clips' windows in them, and where in the batch they belong."""

    member: Member | None
    windows: list[Window]
    target: NDArray[Any]


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
        self._offset = column(table, "offset", 0)
        self._size = column(table, "size", 0)
        self._json_offset = column(table, "json_offset", 0)
        self._json_size = column(table, "json_size", 0)
        self._members = {modality: MemberColumns(table, modality) for modality in MODALITIES}
        self._captions = column(table, "captions", 0)
        self._words = shards.words
        self._memory = bytearray()
        widths = {modality: int(members.width.max(initial=0)) for modality, members in self._members.items()}
        self._tracks = [modality for modality in _TRACKS if widths[modality]]
        dtypes = {modality: members.dtype for modality, members in self._members.items()}
        self.layout = BatchLayout(settings, widths, dtypes)

    def fetch(self, numbers: Sequence[int]) -> None:
        """Gets whole samples that will soon be read from an object store; has a disk get their narrations."""
        self.tars.fetch([(int(self.shard[n]), int(self._offset[n]), int(self._size[n])) for n in numbers])
        self.tars.expect([(int(self.shard[n]), int(self._json_offset[n]), self._narration_bytes(n)) for n in numbers])

    def narration(self, number: int) -> Narration:
        """A video's captions and word ids, in one read; raises ShardError."""
        text = self._members["text"].get(number)
        offset, size = int(self._json_offset[number]), int(self._json_size[number])
        data = self.tars.read(int(self.shard[number]), offset, self._narration_bytes(number))
        try:
            values = json.loads(str(data[:size], "utf-8"))
            captions = values["captions"]
            found = Narration(
                captions["start"],
                captions["end"],
                captions["text"],
                decode_array(data[text.offset - offset :], text, text.length) if text else np.zeros(0, np.int32),
                values["caption_words"] if text else [0] * (len(captions["start"]) + 1),
            )
            self._check(number, found)
        except (ValueError, KeyError, TypeError) as error:
            raise self.tars.damaged(
                int(self.shard[number]), f"the JSON or the words at byte {offset} are unusable: {error!r}"
            ) from None
        return found

    def _check(self, number: int, found: Narration) -> None:
        """Raises ValueError where clips would stumble; a checksum would need the whole sample."""
        counts = {len(found.starts), len(found.ends), len(found.texts), len(found.caption_words) - 1}
        if counts != {int(self._captions[number])}:
            raise ValueError("its captions are not as many starts, ends, texts and word offsets as the index says")
        # as unsigned numbers, negative ids are too large as well
        if len(found.word_ids) and int(found.word_ids.view(np.uint32).max()) >= self._words:
            raise ValueError(f"a word's id is none of the {self._words:,} of words.parquet")

    def _narration_bytes(self, number: int) -> int:
        """From the JSON's first byte to the last word's."""
        text = self._members["text"].get(number)
        return text.offset + 4 * text.length - int(self._json_offset[number]) if text else int(self._json_size[number])

    def seconds(self, number: int) -> int:
        """The seconds of a video in which random windows lie."""
        audio = self._members["audio"].get(number)
        return whole_seconds(float(self.duration[number]), audio.length if audio else 0)

    def fill(self, arrays: Arrays, row: int, number: int, clips: Sequence[Clip], narration: Narration) -> list[Read]:
        """Reads clips of one video into every cell of a batch's rows from ``row`` on.

        Args:
            arrays: the batch, as :func:`~pipeline.shards.layout.arrays_of` has it.
            row: the first clip's.
            number: the video.
            clips: its windows.
            narration: its captions.

        Returns:
            what the disk has yet to give: the rows are filled once :meth:`finish` has been called with it.

        Raises:
            ShardError: the shard is damaged.
        """
        rows = {name: values[row : row + len(clips)] for name, values in arrays.items()}
        self._fill_words(rows["word_ids"], clips, narration)
        rows["video_index"][:] = number
        rows["clip_start"][:] = [clip.start for clip in clips]
        rows["clip_end"][:] = [clip.end for clip in clips]
        return self._fill_audio(rows, number, clips) + self._fill_video(rows, number, clips)

    def finish(self, reads: Sequence[Read]) -> None:
        """Does what :meth:`fill` left to be read; raises ShardError."""
        for read in reads:
            self.tars.read_into(read)

    def _fill_words(self, word_ids: NDArray[Any], clips: Sequence[Clip], narration: Narration) -> None:
        word_ids[:] = -1
        for place, clip in enumerate(clips):
            words = narration.words(clip.captions)[: self.settings.max_words]
            word_ids[place, : len(words)] = words

    def _fill_audio(self, rows: Arrays, number: int, clips: Sequence[Clip]) -> list[Read]:
        audio, member = rows["audio"], self._members["audio"].get(number)
        limit, length = self.settings.max_audio_frames, member.length if member else 0
        windows = [
            (min(clip.audio_first, length), min(clip.audio_stop, clip.audio_first + limit, length)) for clip in clips
        ]
        counts = [max(0, stop - first) for first, stop in windows]
        pending: list[Read] = []
        if member is not None and member.dtype == audio.dtype:
            pending = self._read(
                number, member, windows, [values[:count] for values, count in zip(audio, counts, strict=True)]
            )
        elif member is not None:
            for values, frames in zip(audio, self._read_aside(number, member, windows), strict=True):
                values[: len(frames)] = to_decibels(frames, audio.dtype)
        quiet = silence(audio.dtype)
        for values, count in zip(audio, counts, strict=True):
            if count < len(values):  # most clips are full
                values[count:] = quiet
        rows["audio_nframes"][:] = counts
        return pending

    def _fill_video(self, rows: Arrays, number: int, clips: Sequence[Clip]) -> list[Read]:
        tracks = [self._track(modality, rows, number, clips) for modality in self._tracks]
        as_stored = all(track.member is None or track.member.dtype == track.target.dtype for track in tracks)
        if tracks and as_stored and self.settings.max_video_tokens and self.settings.video_tokens == "clip":
            lengths = zip(*([stop - first for first, stop in track.windows] for track in tracks), strict=True)
            tokens = [first_tokens(found, self.settings.max_video_tokens) for found in lengths]
            # 2D features that are denser than 3D ones are picked, not stretched
            if all(clip.steps[0] <= clip.kept for clip in tokens):
                return self._fill_first(rows, number, tracks, tokens)
        self._fill_chosen(rows, number, tracks)
        return []

    def _track(self, modality: Modality, rows: Arrays, number: int, clips: Sequence[Clip]) -> _Track:
        member = self._members[modality].get(number)
        windows = [(0, 0)] * len(clips)
        if member is not None:
            windows = [feature_window(clip.start, clip.end, member.rate, member.length) for clip in clips]
        return _Track(member, windows, rows[f"features_{modality}"])

    def _fill_first(
        self, rows: Arrays, number: int, tracks: Sequence[_Track], tokens: Sequence[FirstTokens]
    ) -> list[Read]:
        """Reads the first features of each clip to where they belong."""
        pending: list[Read] = []
        for place, (member, windows, target) in enumerate(tracks):
            steps = [clip.steps[place] for clip in tokens]
            if member is not None:
                kept = [(first, first + taken) for (first, _), taken in zip(windows, steps, strict=True)]
                targets = [values[:taken] for values, taken in zip(target, steps, strict=True)]
                pending += self._read(number, member, kept, targets)
            for values, taken in zip(target, steps, strict=True):
                if taken < len(values):
                    values[taken:] = 0
        rows["places_2d"][:] = [clip.places for clip in tokens]
        rows["video_tokens"][:] = [clip.kept for clip in tokens]
        return pending

    def _fill_chosen(self, rows: Arrays, number: int, tracks: Sequence[_Track]) -> None:
        """Reads whole clips and keeps what their tokens are."""
        found = [
            self._read_aside(number, member, windows) if member else [target[0, :0]] * len(windows)
            for member, windows, target in tracks
        ]
        rows["places_2d"][:] = np.arange(rows["places_2d"].shape[1])
        rows["video_tokens"][:] = 0
        for place, features in enumerate(zip(*found, strict=True)):
            chosen = token_features(features, self.settings.max_video_tokens, self.settings.video_tokens)
            for track, values in zip(tracks, chosen, strict=True):
                track.target[place, : len(values)] = values
                track.target[place, len(values) :] = 0
            rows["video_tokens"][place] = max(map(len, chosen))

    def _read(
        self, number: int, member: Member, windows: Sequence[Window], targets: Sequence[NDArray[Any]]
    ) -> list[Read]:
        """Reads the steps of each window to where they belong, windows that are near each other at once.

        Returns what the disk has yet to give.
        """
        step = np.dtype(member.dtype).itemsize * (member.width or 1)
        shard = int(self.shard[number])
        reads = (
            Read(shard, member.offset + first * step, (stop - first) * step, buffers)
            for first, stop, buffers in self._reads(step, windows, targets)
        )
        return [read for read in reads if not self.tars.read_soon(read)]

    def _reads(
        self, step: int, windows: Sequence[Window], targets: Sequence[NDArray[Any]]
    ) -> Iterator[tuple[int, int, list[Any]]]:
        """The steps of each read, from the first to before the last, and the buffers that they fill in turn."""
        buffers: list[Any] = []
        begin = end = 0
        for place in sorted(range(len(windows)), key=windows.__getitem__):
            first, stop = windows[place]
            if stop <= first:
                continue
            gap = (first - end) * step
            if 0 < len(buffers) < _MOST_BUFFERS and 0 <= gap <= _JOIN_BYTES:
                if gap:
                    buffers.append(self._aside(gap))
            else:
                if buffers:
                    yield begin, end, buffers
                begin, buffers = first, []
            buffers.append(targets[place])
            end = stop
        if buffers:
            yield begin, end, buffers

    def _read_aside(self, number: int, member: Member, windows: Sequence[Window]) -> list[NDArray[Any]]:
        """The steps of each window."""
        sizes = [max(0, stop - first) for first, stop in windows]
        whole = np.empty((sum(sizes), member.width), member.dtype)
        pieces = np.split(whole, np.cumsum(sizes)[:-1])
        self.finish(self._read(number, member, windows, pieces))
        return pieces

    def _aside(self, size: int) -> memoryview:
        """Memory for what is read and not needed."""
        if len(self._memory) < size:
            self._memory = bytearray(_JOIN_BYTES)
        return memoryview(self._memory)[:size]
