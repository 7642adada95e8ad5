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
from pipeline.shards.clips import Clip, feature_window, lengths, token_features, whole_seconds
from pipeline.shards.index import MODALITIES, Member
from pipeline.shards.pool import Batch
from pipeline.shards.reader import ShardSet
from pipeline.shards.sample import AUDIO_LEVELS, decode_array
from pipeline.types import Modality

_MEL_BANDS = 40
_ALIGNMENT = 64
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
        self._offset = _column(table, "offset", 0)
        self._size = _column(table, "size", 0)
        self._json_offset = _column(table, "json_offset", 0)
        self._json_size = _column(table, "json_size", 0)
        self._members = {modality: _Members(table, modality) for modality in MODALITIES}
        self._buffers: dict[Modality, bytearray] = {}
        self.widths: dict[Modality, int] = {
            modality: int(members.width.max(initial=0)) for modality, members in self._members.items()
        }

    def layout(self, clips: int) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
        """Shapes and types of a batch of ``clips`` clips.

        ``word_ids`` ``[B, max_words]``, -1 where there is none, and ``text_mask``; ``video`` ``[B, T, D]`` and
        ``video_mask`` ``[B, T]``; ``audio`` ``[B, 40, frames]``, ``audio_mask`` ``[B, frames]`` and ``audio_nframes``
        ``[B]``; ``video_index``, the video's number; ``clip_start`` and ``clip_end``, seconds. ``T`` is 1 where
        ``max_video_tokens`` is 0. Masks are 1 where something is, 0 behind it.
        """
        settings = self.settings
        tokens, words, frames = max(settings.max_video_tokens, 1), settings.max_words, settings.max_audio_frames
        return {
            "video_index": ((clips,), np.int64),
            "word_ids": ((clips, words), np.int32),
            "text_mask": ((clips, words), np.float32),
            "video": ((clips, tokens, self.widths["2d"] + self.widths["3d"]), np.float32),
            "video_mask": ((clips, tokens), np.float32),
            "audio": ((clips, self.widths["audio"] or _MEL_BANDS, frames), np.float32),
            "audio_mask": ((clips, frames), np.float32),
            "audio_nframes": ((clips,), np.float32),
            "clip_start": ((clips,), np.float32),
            "clip_end": ((clips,), np.float32),
        }

    def allocate(self, clips: int) -> Batch:
        """A batch to be filled.

        Its memory is NumPy's, which asks for huge pages: a third of the time that torch's takes to touch. It is
        aligned as a worker's is, since vectorised sums go by alignment.
        """
        size = self.size(clips)
        memory = np.empty(size + _ALIGNMENT, np.uint8)
        first = -memory.ctypes.data % _ALIGNMENT
        return self.view(memory[first : first + size].data, clips)

    def view(self, memory: memoryview, clips: int) -> Batch:
        """A batch to be filled, or that is filled, in some memory."""
        batch: Batch = {}
        offset = 0
        for name, (shape, kind) in self.layout(clips).items():
            size = int(np.prod(shape)) * np.dtype(kind).itemsize
            batch[name] = torch.from_numpy(np.frombuffer(memory[offset : offset + size], kind).reshape(shape))
            offset += size + -size % _ALIGNMENT
        return batch

    def size(self, clips: int) -> int:
        """The bytes that :meth:`view` needs."""
        sizes = (int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in self.layout(clips).values())
        return sum(size + -size % _ALIGNMENT for size in sizes)

    @staticmethod
    def clear(batch: Batch, row: int, stop: int) -> None:
        """Makes rows those of clips in which every modality is missing."""
        for name, values in batch.items():
            values[row:stop] = -1 if name in ("word_ids", "video_index") else 0

    def fetch(self, numbers: Sequence[int]) -> None:
        """Gets whole samples that will soon be read, where the shards are in an object store."""
        self.tars.fetch([(int(self.shard[n]), int(self._offset[n]), int(self._size[n])) for n in numbers])

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
        """Reads clips of one video into every cell of a batch's rows from ``row`` on; raises ShardError."""
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
            word_ids[place, len(words) :] = -1
            _mask(mask[place], len(words))

    def _fill_audio(self, batch: Batch, row: int, number: int, clips: Sequence[Clip]) -> None:
        audio, mask, counts = (batch[name].numpy() for name in ("audio", "audio_mask", "audio_nframes"))
        member = self._members["audio"].get(number)
        length = member.length if member else 0
        limit = self.settings.max_audio_frames
        windows = [
            (min(clip.audio_first, length), min(clip.audio_stop, clip.audio_first + limit, length)) for clip in clips
        ]
        pieces = self._read("audio", number, member, windows) if member else [np.zeros((0, 0), np.float16)] * len(clips)
        for place, frames in enumerate(pieces, row):
            count = len(frames)
            if frames.dtype == np.uint8:
                np.take(AUDIO_LEVELS, frames.T, out=audio[place, :, :count])
            elif count:
                bands_first = torch.from_numpy(np.ascontiguousarray(frames.T))
                torch.from_numpy(audio[place, :, :count]).copy_(bands_first)
            audio[place, :, count:] = 0.0
            _mask(mask[place], count)
            counts[place] = count

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
            filled = 0
            for track, columns in zip(chosen, (slice(None, split), slice(split, None)), strict=True):
                if track is None:
                    continue
                tokens = video[place, : len(track), columns]
                if len(track):
                    target = torch.from_numpy(tokens)  # its arithmetic is two to ten times as fast as NumPy's
                    target.copy_(torch.from_numpy(track)).div_(torch.from_numpy(lengths(tokens)))
                video[place, len(track) :, columns] = 0.0
                filled = max(filled, len(track))
            _mask(mask[place], filled)

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


def _mask(mask: NDArray[np.float32], count: int) -> None:
    mask[:count] = 1.0
    mask[count:] = 0.0


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
