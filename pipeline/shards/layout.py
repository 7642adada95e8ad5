"""What a batch is between the tars and the device: arrays as they are stored, in one piece of memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from pipeline.config import ClipSettings
from pipeline.shards.sample import silence
from pipeline.types import Modality

Batch = dict[str, Any]
Arrays = dict[str, NDArray[Any]]
"""A batch's tensors as arrays over the same memory, to be filled."""

_MEL_BANDS = 40
_ALIGNMENT = 64


class BatchLayout:
    """Shapes and types of batches, and their place in memory.

    A batch of ``B`` clips has ``features_2d [B, T, D2]``; ``places_2d [B, T]``, which of a clip's 2D features stands at
    each token (one of zeros behind the last token; those that stand nowhere may be anything); ``features_3d
    [B, T, D3]``, zeros behind the last token; ``video_tokens [B]``, how many tokens;
    ``audio [B, frames, 40]``, silence behind the last of ``audio_nframes [B]``; ``word_ids [B, words]``, -1 where there
    is none; ``video_index [B]``, the video's number; ``clip_start`` and ``clip_end`` ``[B]``, seconds. ``T`` is 1 where
    ``max_video_tokens`` is 0. :func:`~pipeline.shards.decoding.decode_batch` makes of it what a network takes.
    """

    def __init__(self, settings: ClipSettings, widths: Mapping[Modality, int], dtypes: Mapping[Modality, DTypeLike]):
        """Takes the sizes.

        Args:
            settings: most words, tokens and frames of a clip.
            widths: values per step of each modality; 0: no video has it.
            dtypes: of each modality's values.
        """
        self._settings, self._widths, self._dtypes = settings, widths, dtypes

    def shapes(self, clips: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and type of each array of a batch of ``clips`` clips."""
        settings, widths, dtypes = self._settings, self._widths, self._dtypes
        tokens = max(settings.max_video_tokens, 1)
        shapes: dict[str, tuple[tuple[int, ...], DTypeLike]] = {
            "features_2d": ((clips, tokens, widths["2d"]), dtypes["2d"]),
            "features_3d": ((clips, tokens, widths["3d"]), dtypes["3d"]),
            "audio": ((clips, settings.max_audio_frames, widths["audio"] or _MEL_BANDS), dtypes["audio"]),
            "places_2d": ((clips, tokens), np.int64),
            "video_tokens": ((clips,), np.int64),
            "audio_nframes": ((clips,), np.float32),
            "word_ids": ((clips, settings.max_words), np.int32),
            "video_index": ((clips,), np.int64),
            "clip_start": ((clips,), np.float32),
            "clip_end": ((clips,), np.float32),
        }
        return {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in shapes.items()}

    def allocate(self, clips: int) -> Batch:
        """A batch to be filled."""
        memory = np.empty(self.size(clips) + _ALIGNMENT, np.uint8)
        return self.view(memory[-memory.ctypes.data % _ALIGNMENT :].data, clips)

    def view(self, memory: memoryview, clips: int) -> Batch:
        """A batch to be filled, or that is filled, in some memory."""
        batch: Batch = {}
        offset = 0
        for name, (shape, dtype) in self.shapes(clips).items():
            size = _bytes(shape, dtype)
            batch[name] = torch.from_numpy(np.frombuffer(memory[offset : offset + size], dtype).reshape(shape))
            offset += size + -size % _ALIGNMENT
        return batch

    def size(self, clips: int) -> int:
        """The bytes that :meth:`view` needs."""
        sizes = (_bytes(shape, dtype) for shape, dtype in self.shapes(clips).values())
        return sum(size + -size % _ALIGNMENT for size in sizes)

    @staticmethod
    def clear(batch: Batch, row: int, stop: int) -> None:
        """Makes rows those of clips in which every modality is missing."""
        for name, values in batch.items():
            nothing = silence(values.numpy().dtype) if name == "audio" else 0
            values[row:stop] = -1 if name in ("word_ids", "video_index") else nothing


def arrays_of(batch: Batch) -> Arrays:
    """A batch as arrays."""
    return {name: values.numpy() for name, values in batch.items() if isinstance(values, torch.Tensor)}


def _bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return int(np.prod(shape)) * dtype.itemsize
