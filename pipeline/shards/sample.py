"""A sample: what is stored of one video, and its bytes in a shard.

In the tar a sample is contiguous members ``<key>.json``, ``<key>.times.npy``, ``<key>.text.npy``, ``<key>.2d.npy``,
``<key>.3d.npy``, ``<key>.audio.npy``, in this order; the key is the video's id (a dot is written ``%2E``, since the
first dot of a member's name ends its key for every WebDataset reader). ``times`` repeats of the JSON what a training
loader needs of the captions, so that one short read gets that and their words, and nothing has to be parsed.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import re
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pipeline.shards.files import FORMAT_VERSION
from pipeline.shards.index import MODALITIES, IndexRow, Member
from pipeline.types import LATEST_TIME, Caption, Modality, without_surrogates

TIMES_WIDTH = 3
"""Values of a caption in ``times``: its start, its end, and where its words end."""

_BLOCK = 512
_VIDEO_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


@dataclass
class Sample:
    """What is stored of one video."""

    video_id: str
    duration: float
    """Seconds."""
    captions: list[Caption] = field(default_factory=list)
    arrays: dict[Modality, NDArray[Any]] = field(default_factory=dict)
    """``2d``, ``3d`` float16 ``[time, features]``; ``audio`` log-mel ``[frames, 40]``, float16 decibels or
    uint8 (see :func:`to_8bit`); ``text`` int32 word ids
    ``[words]`` of all captions. A missing modality is an absent key."""
    rates: dict[str, float] = field(default_factory=dict)
    """Features, or frames, per second of each timed modality."""
    caption_words: list[int] = field(default_factory=lambda: [0])
    """Caption ``i`` has the word ids ``text[caption_words[i] : caption_words[i + 1]]``."""
    recipe: str = ""
    """Fingerprint of the recipe that the arrays were extracted with."""
    backbones: dict[str, str] = field(default_factory=dict)
    """Version of the backbone of each modality."""
    notes: list[str] = field(default_factory=list)
    split: str = "train"
    category_1: str | None = None
    category_2: str | None = None
    task_id: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """Anything else that JSON can hold."""


def encode_captions(
    captions: Sequence[Caption], ids: Callable[[str], NDArray[np.int32]]
) -> tuple[NDArray[np.int32], list[int]]:
    """Word ids of all captions, and where each caption's begin and end: a sample's ``text`` and ``caption_words``.

    Args:
        captions: the captions.
        ids: gives the word ids of a text (``WordVectors.ids``).
    """
    per_caption = [np.asarray(ids(caption.text), np.int32) for caption in captions]
    offsets = np.cumsum([0, *(len(words) for words in per_caption)])
    return np.concatenate([np.zeros(0, np.int32), *per_caption]), [int(offset) for offset in offsets]


def caption_times(sample: Sample) -> NDArray[np.float64]:
    """``times`` of a sample, ``[captions, 3]``: start and end in seconds, and ``caption_words[i + 1]``."""
    word_ends = sample.caption_words[1:] or [0] * len(sample.captions)
    rows = [(start, end, words) for (start, end, _), words in zip(sample.captions, word_ends, strict=True)]
    return np.array(rows, "<f8").reshape(-1, TIMES_WIDTH)


def member_key(video_id: str) -> str:
    """What a video's members are called before the first dot.

    Raises:
        ValueError: the id has other characters than letters, digits, ``_ - .``, begins with a dot, or is longer than
            64 characters.
    """
    if not _VIDEO_ID.fullmatch(video_id):
        raise ValueError(f"{video_id!r} cannot be a video's id: up to 64 of letters, digits, _ - and . (not first)")
    return video_id.replace(".", "%2E")


def encode(sample: Sample) -> tuple[bytes, IndexRow]:
    """A sample's bytes in a tar (a multiple of 512) and its index row, with offsets from the sample's first byte.

    Equal samples give equal bytes. An array without any value is an absent member, but for the word ids of captions of
    which no word is known.

    Raises:
        ValueError: the sample is not what a shard can hold; the message names the video and what is wrong.
    """
    arrays = {
        modality: _checked(sample, modality)
        for modality in MODALITIES
        if modality in sample.arrays and (modality == "text" or sample.arrays[modality].size)
    }
    _check_captions(sample, arrays.get("text"))
    key = member_key(sample.video_id)
    buffer = bytearray()
    json_offset, json_size = _append(buffer, f"{key}.json", _to_json(sample, arrays))
    times_offset = _append_array(buffer, f"{key}.times.npy", caption_times(sample)) if sample.captions else None
    members: dict[Modality, Member] = {}
    for modality, array in arrays.items():
        members[modality] = Member(
            offset=_append_array(buffer, f"{key}.{modality}.npy", array),
            length=len(array),
            width=array.shape[1] if array.ndim == 2 else 0,
            dtype=array.dtype.name,
            rate=sample.rates.get(modality, 0.0),
        )
    row = IndexRow(
        video_id=sample.video_id,
        offset=0,
        size=len(buffer),
        checksum=zlib.crc32(buffer),
        json_offset=json_offset,
        json_size=json_size,
        duration=sample.duration,
        captions=len(sample.captions),
        split=sample.split,
        members=members,
        times_offset=times_offset,
    )
    return bytes(buffer), row


def decode_json(data: bytes | bytearray) -> Sample:
    """A sample without its arrays, from its ``json`` member.

    Raises:
        ValueError: the bytes are not such JSON.
    """
    values = json.loads(data)
    known = {
        key: values[key]
        for key in ("duration", "caption_words", "recipe", "backbones", "notes", "split", "category_1", "category_2")
        if key in values
    }
    captions = values["captions"]
    return Sample(
        video_id=values["video_id"],
        captions=[
            Caption(*caption) for caption in zip(captions["start"], captions["end"], captions["text"], strict=True)
        ],
        rates=values.get("rates", {}),
        task_id=values.get("task_id"),
        extra=values.get("extra", {}),
        **known,
    )


def _to_json(sample: Sample, arrays: dict[Modality, NDArray[Any]]) -> bytes:
    values = {
        "format": FORMAT_VERSION,
        "video_id": sample.video_id,
        "duration": sample.duration,
        "captions": {
            "start": [float(caption.start) for caption in sample.captions],
            "end": [float(caption.end) for caption in sample.captions],
            "text": [caption.text for caption in sample.captions],
        },
        "caption_words": sample.caption_words,
        "rates": {modality: rate for modality, rate in sample.rates.items() if modality in arrays},
        "recipe": sample.recipe,
        "backbones": sample.backbones,
        "notes": sample.notes,
        "split": sample.split,
        "category_1": sample.category_1,
        "category_2": sample.category_2,
        "task_id": sample.task_id,
        "extra": sample.extra,
    }
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    # half of a surrogate pair has no UTF-8: one character of a caption is not worth a video
    return without_surrogates(text).encode()


def _checked(sample: Sample, modality: Modality) -> NDArray[Any]:
    where = f"{sample.video_id}: {modality}"
    array = sample.arrays[modality]
    if modality == "text":
        if array.ndim != 1:
            raise ValueError(f"{where}: word ids are of shape [words], not {list(array.shape)}")
        return np.ascontiguousarray(array, "<i4")
    if array.ndim != 2:
        raise ValueError(f"{where}: an array is [time, features], not {list(array.shape)}")
    if not sample.rates.get(modality, 0.0) > 0.0:
        raise ValueError(f"{where}: its rate (features per second) is missing")
    if modality == "audio" and array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    stored = np.ascontiguousarray(array, "<f2")
    if not np.isfinite(stored).all():
        raise ValueError(f"{where}: holds values that float16 cannot (not finite, or beyond 65504)")
    return stored


def _check_captions(sample: Sample, text: NDArray[Any] | None) -> None:
    times = [time for start, end, _ in sample.captions for time in (start, end)]
    if not all(map(math.isfinite, [sample.duration, *times])):
        raise ValueError(f"{sample.video_id}: its duration, or a caption's time, is not a finite number")
    late = next((time for time in times if abs(time) >= LATEST_TIME), None)
    if late is not None:
        raise ValueError(f"{sample.video_id}: a caption's time is {late:g} s, but no video has {LATEST_TIME:g} s")
    offsets = sample.caption_words
    if text is None:
        if offsets != [0]:
            raise ValueError(f"{sample.video_id}: caption_words is {offsets[:9]} without text; it must be [0]")
        return
    in_order = all(first <= second for first, second in itertools.pairwise(offsets))
    if len(offsets) != len(sample.captions) + 1 or offsets[0] != 0 or offsets[-1] != len(text) or not in_order:
        raise ValueError(f"{sample.video_id}: caption_words does not cut {len(text)} words into its captions")


def _append(buffer: bytearray, name: str, data: bytes) -> tuple[int, int]:
    """Adds one member and returns the offset and size of its data."""
    header = tarfile.TarInfo(name)
    header.size, header.mode, header.mtime = len(data), 0o444, 0
    buffer += header.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    offset = len(buffer)
    buffer += data
    buffer += bytes(-len(data) % _BLOCK)
    return offset, len(data)


def _append_array(buffer: bytearray, name: str, array: NDArray[Any]) -> int:
    """Adds an array as a member and returns the offset of its values."""
    npy = io.BytesIO()
    np.lib.format.write_array(npy, array, version=(1, 0), allow_pickle=False)
    offset, size = _append(buffer, name, npy.getvalue())
    return offset + size - array.nbytes


LOUDEST = 255
"""The 8-bit value of 0 dB, the loudest."""
LEVEL = 80.0 / LOUDEST
"""Decibels between two values of an 8-bit log-mel spectrogram."""
_AUDIO_LEVELS = (np.arange(LOUDEST + 1, dtype=np.float32) - LOUDEST) * np.float32(LEVEL)


def to_8bit(decibels: NDArray[Any]) -> NDArray[np.uint8]:
    """A log-mel spectrogram in half the bytes: the nearest of 256 levels from -80 to 0 dB, 0.16 dB off at most."""
    return np.clip(np.rint(decibels.astype(np.float32) / LEVEL) + LOUDEST, 0, LOUDEST).astype(np.uint8)


def to_decibels(audio: NDArray[Any], dtype: DTypeLike = np.float16) -> NDArray[Any]:
    """A log-mel spectrogram as stored, in decibels; 8-bit ones become ``dtype``."""
    return _AUDIO_LEVELS[audio].astype(dtype, copy=False) if audio.dtype == np.uint8 else audio


def silence(dtype: np.dtype[Any]) -> int:
    """What stands behind the last frame of a clip, as stored: 0 dB, as in the published programs."""
    return LOUDEST if dtype == np.uint8 else 0


def decode_array(data: bytes | bytearray | memoryview, member: Member, rows: int) -> NDArray[Any]:
    """The array of ``rows`` steps whose bytes are ``data``: ``[rows, width]``, or ``[rows]`` for word ids."""
    array = np.frombuffer(data, np.dtype(member.dtype).newbyteorder("<"))
    return array.reshape(rows, member.width) if member.width else array
