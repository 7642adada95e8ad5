"""Making batches: clips of videos, read by offset from the shards, as tensors of fixed shapes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from pipeline.config import ClipSettings
from pipeline.shards.clips import Clip, feature_window, normalize, token_features, whole_seconds
from pipeline.shards.index import MODALITIES, Member
from pipeline.shards.reader import ShardSet
from pipeline.shards.sample import AUDIO_LEVELS, decode_array
from pipeline.types import Modality

Batch = dict[str, Any]
"""What a loader gives; see :meth:`ClipReader.empty`."""

_MEL_BANDS = 40
_JOIN_BYTES = 1 << 16


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


class ClipReader:
    """Reads clips of videos into batches. Videos are numbered as in the :class:`ShardSet`.

    It holds the index as a few arrays and can be sent to worker processes.
    """

    def __init__(self, shards: ShardSet, settings: ClipSettings):
        """Takes what it needs of the index."""
        table = shards.table
        self.settings = settings
        self.tars = shards.tars
        self.shard = _column(table, "shard", 0)
        self.duration = _column(table, "duration", 0.0)
        self.hashes = np.array([zlib.crc32(video_id.encode()) for video_id in shards.ids], np.uint32)
        self._json_offset = _column(table, "json_offset", 0)
        self._json_size = _column(table, "json_size", 0)
        self._members = {modality: _Members(table, modality) for modality in MODALITIES}
        self._buffers: dict[Modality, bytearray] = {}
        self.widths: dict[Modality, int] = {
            modality: int(members.width.max(initial=0)) for modality, members in self._members.items()
        }

    def empty(self, clips: int) -> Batch:
        """A batch of ``clips`` clips in which every modality is missing.

        ``word_ids`` int32 ``[B, max_words]``, -1 where there is none, and ``text_mask`` float32; ``video`` float32
        ``[B, T, D]`` and ``video_mask`` ``[B, T]``; ``audio`` float32 ``[B, 40, frames]``, ``audio_mask``
        ``[B, frames]`` and ``audio_nframes`` ``[B]``; ``video_index`` int64 ``[B]``, the video's number; ``clip_start``
        and ``clip_end`` float32 ``[B]``, seconds. ``T`` is 1 where ``max_video_tokens`` is 0.
        """
        settings = self.settings
        tokens = max(settings.max_video_tokens, 1)
        return {
            "word_ids": torch.full((clips, settings.max_words), -1, dtype=torch.int32),
            "text_mask": _zeros(clips, settings.max_words),
            "video": _zeros(clips, tokens, self.widths["2d"] + self.widths["3d"]),
            "video_mask": _zeros(clips, tokens),
            "audio": _zeros(clips, self.widths["audio"] or _MEL_BANDS, settings.max_audio_frames),
            "audio_mask": _zeros(clips, settings.max_audio_frames),
            "audio_nframes": _zeros(clips),
            "video_index": torch.full((clips,), -1, dtype=torch.int64),
            "clip_start": _zeros(clips),
            "clip_end": _zeros(clips),
        }

    def narration(self, number: int) -> Narration:
        """A video's captions and word ids, in one read; raises ShardError."""
        text = self._members["text"].get(number)
        offset, size = int(self._json_offset[number]), int(self._json_size[number])
        stop = text.offset + 4 * text.length if text else offset + size
        data = self.tars.read(int(self.shard[number]), offset, stop - offset)
        try:
            values = json.loads(data[:size])
            captions = values["captions"]
            return Narration(
                captions["start"],
                captions["end"],
                captions["text"],
                decode_array(data[text.offset - offset :], text, text.length) if text else np.zeros(0, np.int32),
                values["caption_words"] if text else [0] * (len(captions["start"]) + 1),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise self.tars.damaged(
                int(self.shard[number]), f"the JSON at byte {offset} is unusable: {error!r}"
            ) from None

    def seconds(self, number: int) -> int:
        """The seconds of a video in which random windows lie."""
        audio = self._members["audio"].get(number)
        return whole_seconds(float(self.duration[number]), audio.length if audio else 0)

    def fill(self, batch: Batch, row: int, number: int, clips: Sequence[Clip], narration: Narration) -> None:
        """Reads clips of one video into a batch, from row ``row`` on; raises ShardError."""
        self._fill_text(batch, row, clips, narration)
        self._fill_audio(batch, row, number, clips)
        self._fill_video(batch, row, number, clips)
        stop = row + len(clips)
        batch["video_index"][row:stop] = number
        batch["clip_start"][row:stop] = torch.tensor([clip.start for clip in clips])
        batch["clip_end"][row:stop] = torch.tensor([clip.end for clip in clips])

    def _fill_text(self, batch: Batch, row: int, clips: Sequence[Clip], narration: Narration) -> None:
        word_ids, mask = batch["word_ids"].numpy(), batch["text_mask"].numpy()
        for place, clip in enumerate(clips, row):
            words = narration.words(clip.captions)[: self.settings.max_words]
            word_ids[place, : len(words)] = words
            mask[place, : len(words)] = 1.0

    def _fill_audio(self, batch: Batch, row: int, number: int, clips: Sequence[Clip]) -> None:
        member = self._members["audio"].get(number)
        if member is None:
            return
        limit = self.settings.max_audio_frames
        windows = [
            (min(clip.audio_first, member.length), min(clip.audio_stop, clip.audio_first + limit, member.length))
            for clip in clips
        ]
        audio, mask = batch["audio"].numpy(), batch["audio_mask"].numpy()
        for place, frames in enumerate(self._read("audio", number, member, windows), row):
            if frames.dtype == np.uint8:
                np.take(AUDIO_LEVELS, frames.T, out=audio[place, :, : len(frames)])
            else:
                _convert(np.ascontiguousarray(frames.T), audio[place, :, : len(frames)])
            mask[place, : len(frames)] = 1.0
            batch["audio_nframes"][place] = len(frames)

    def _fill_video(self, batch: Batch, row: int, number: int, clips: Sequence[Clip]) -> None:
        tracks: list[Iterable[NDArray[Any]] | None] = []
        for modality in ("2d", "3d"):
            member = self._members[modality].get(number)
            if not self.widths[modality]:
                tracks.append(None)
            elif member is None:
                tracks.append([np.zeros((0, self.widths[modality]), np.float16)] * len(clips))
            else:
                windows = [feature_window(clip.start, clip.end, member.rate, member.length) for clip in clips]
                tracks.append(self._read(modality, number, member, windows))
        video, mask = batch["video"].numpy(), batch["video_mask"].numpy()
        count, strategy = self.settings.max_video_tokens, self.settings.video_tokens
        split = self.widths["2d"]
        for place, (track_2d, track_3d) in enumerate(_side_by_side(tracks, len(clips)), row):
            chosen = token_features(track_2d, track_3d, count, strategy)
            for track, columns in zip(chosen, (slice(None, split), slice(split, None)), strict=True):
                if track is not None and len(track):
                    tokens = video[place, : len(track), columns]
                    _convert(track, tokens)
                    normalize(tokens, out=tokens)
                    mask[place, : len(track)] = 1.0

    def _read(
        self, modality: Modality, number: int, member: Member, windows: Sequence[tuple[int, int]]
    ) -> list[NDArray[Any]]:
        """The steps of each window ``(first, stop)``, valid until the modality is read again.

        Windows that are near each other are read at once.
        """
        step = np.dtype(member.dtype).itemsize * (member.width or 1)
        pieces: list[NDArray[Any]] = [np.zeros((0, member.width), member.dtype)] * len(windows)
        spans = _spans(windows, _JOIN_BYTES // step)
        buffer = self._buffer(modality, sum(stop - first for first, stop, _ in spans) * step)
        filled = 0
        for first, stop, places in spans:
            data = buffer[filled : filled + (stop - first) * step]
            filled += len(data)
            self.tars.read_into(int(self.shard[number]), member.offset + first * step, data)
            steps = decode_array(data, member, stop - first)
            for place in places:
                pieces[place] = steps[windows[place][0] - first : windows[place][1] - first]
        return pieces

    def _buffer(self, modality: Modality, size: int) -> memoryview:
        """Memory to read into, used again and again: fresh memory costs more than the copy into it."""
        if len(self._buffers.get(modality, b"")) < size:
            self._buffers[modality] = bytearray(size)
        return memoryview(self._buffers[modality])


class _Members:
    """One modality's columns of the index, as arrays."""

    def __init__(self, table: pa.Table, modality: Modality):
        self.offset = _column(table, f"{modality}_offset", -1)
        self.length = _column(table, f"{modality}_length", 0)
        self.width = _column(table, f"{modality}_width", 0)
        self.rate = _column(table, f"{modality}_rate", 0.0)
        names = pc.fill_null(table[f"{modality}_dtype"], "")
        self.dtypes = pc.unique(names).to_pylist()
        self.dtype = np.asarray(pc.index_in(names, pa.array(self.dtypes)).to_numpy(), np.uint8)

    def get(self, number: int) -> Member | None:
        """Where a video's array is; None: it has none."""
        offset = int(self.offset[number])
        if offset < 0:
            return None
        return Member(
            offset,
            int(self.length[number]),
            int(self.width[number]),
            self.dtypes[self.dtype[number]],
            float(self.rate[number]),
        )


def _zeros(*shape: int) -> torch.Tensor:
    """Zeros in memory from NumPy, which asks for huge pages: a third of the time that torch's takes to touch."""
    return torch.from_numpy(np.zeros(shape, np.float32))


def _convert(source: NDArray[Any], target: NDArray[np.float32]) -> None:
    """Copies float16 into float32 by torch's vectorised conversion, ten times as fast as NumPy's."""
    torch.from_numpy(target).copy_(torch.from_numpy(source))


def _column(table: pa.Table, name: str, absent: Any) -> NDArray[Any]:
    column = table[name]
    return np.asarray(pc.fill_null(column, pa.scalar(absent, column.type)).to_numpy())


def _side_by_side(
    tracks: Sequence[Iterable[NDArray[Any]] | None], clips: int
) -> Iterable[tuple[NDArray[Any] | None, NDArray[Any] | None]]:
    first, second = (track if track is not None else [None] * clips for track in tracks)
    return zip(first, second, strict=True)


def _spans(windows: Sequence[tuple[int, int]], join: int) -> list[tuple[int, int, list[int]]]:
    """Joins windows that overlap or lie at most ``join`` steps apart: first, stop, and the windows in it."""
    spans: list[tuple[int, int, list[int]]] = []
    for place in sorted(range(len(windows)), key=windows.__getitem__):
        first, stop = windows[place]
        if stop <= first:
            continue
        if spans and first <= spans[-1][1] + join:
            begin, end, places = spans[-1]
            spans[-1] = (begin, max(end, stop), [*places, place])
        else:
            spans.append((first, stop, [place]))
    return spans
