"""What a clip is: a window of a video with its narration, its sound and its video tokens.

One definition for training and benchmarks. Pure functions of times and arrays; nothing here reads a file. The rules
are those of the published programs of MFT (Everything at Once, CVPR 2022) and MCN (ICCV 2021).
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config import ClipSettings

FREE_SAMPLINGS = ("mft", "avlnet")
"""Ways of drawing clips that need no captions."""

TokenStrategy = Literal["clip", "nearest", "max_pool"]

_SAMPLE_RATE = 16_000
_HOP = 160
_WINDOW = 400


class Clip(NamedTuple):
    """A window of a video."""

    start: float
    """Seconds; the video's features are taken from here to ``end``."""
    end: float
    captions: tuple[int, ...]
    """The captions whose words it has, in the order in which they follow each other in its text."""
    audio_first: int
    """First frame of the spectrogram."""
    audio_stop: int
    """The frame after the last; it may lie behind the end of the spectrogram."""


def time_to_frame(seconds: float) -> int:
    """The spectrogram's frame that is centred on a time, at least 0.

    ``librosa.time_to_frames(seconds, sr=16000, hop_length=160, n_fft=400)``.
    """
    return max(0, (int(seconds * _SAMPLE_RATE) - _WINDOW // 2) // _HOP)


def whole_seconds(duration: float, audio_frames: int) -> int:
    """The seconds in which random windows lie: those of the spectrogram if there is one, else of the video."""
    return int((audio_frames * _HOP + _WINDOW // 2) / _SAMPLE_RATE) if audio_frames else int(duration)


def grow(starts: Sequence[float], ends: Sequence[float], index: int, seconds: float) -> list[int]:
    """The captions of a clip that grows around caption ``index`` until it lasts ``seconds`` or has all captions.

    The nearer neighbour comes first, that which leaves the clip shorter; a tie goes to the earlier one.

    Returns:
        the captions in the order in which they were added.
    """
    first = last = index
    added = [index]
    while ends[last] - starts[first] < seconds:
        if first > 0 and last < len(ends) - 1:
            backwards = ends[last] - starts[first - 1] <= ends[last + 1] - starts[first]
        elif first == 0 and last == len(ends) - 1:
            break
        else:
            backwards = first > 0
        if backwards:
            first -= 1
            added.append(first)
        else:
            last += 1
            added.append(last)
    return added


def caption_clip(starts: Sequence[float], ends: Sequence[float], index: int, seconds: float, misaligned: bool) -> Clip:
    """The clip that grows around a caption.

    Args:
        starts: seconds at which each caption of the video starts.
        ends: seconds at which each ends.
        index: the caption.
        seconds: least length of the clip, where the captions allow it.
        misaligned: whether the sound starts half of ``seconds`` late and lasts ``seconds``, which keeps speech from
            giving the text away.
    """
    captions = grow(starts, ends, index, seconds)
    start, end = starts[min(captions)], ends[max(captions)]
    sound = (start + 0.5 * seconds, start + 1.5 * seconds) if misaligned else (start, end)
    return Clip(start, end, tuple(captions), time_to_frame(sound[0]), time_to_frame(sound[1]))


def random_clip(starts: Sequence[float], ends: Sequence[float], start: float, seconds: float, misaligned: bool) -> Clip:
    """The clip that a window from ``start`` on finds.

    A caption that is spoken when the window begins, else one that is spoken when it ends, makes it the clip that grows
    around that caption; a window that finds neither stays as it is, without text.
    """
    end = start + seconds
    for time in (start, end):
        index = max(0, bisect_left(starts, time) - 1)
        if index < len(starts) and starts[index] <= time <= ends[index]:
            return caption_clip(starts, ends, index, seconds, misaligned)
    return window(start, end)


def window(start: float, end: float) -> Clip:
    """Sight and sound of a video from ``start`` to ``end`` seconds, without its narration."""
    return Clip(start, end, (), time_to_frame(start), time_to_frame(end))


def training_clips(
    starts: Sequence[float],
    ends: Sequence[float],
    available: int,
    settings: ClipSettings,
    generator: np.random.Generator,
) -> list[Clip]:
    """The clips of one video in one epoch.

    Args:
        starts: seconds at which each caption starts, in order.
        ends: seconds at which each ends.
        available: see :func:`whole_seconds`.
        settings: the sampling, how many, how long.
        generator: decides all there is to decide.

    Raises:
        ValueError: the sampling needs captions and the video has none.
    """
    if settings.sampling == "avlnet":
        drawn = generator.integers(max(1, available - int(settings.seconds) - 1), size=settings.per_video)
        return [window(float(start), float(start) + settings.seconds) for start in drawn]
    if settings.sampling not in FREE_SAMPLINGS:
        if not starts:
            raise ValueError("a clip cannot be taken around a caption where there is none")
        indices = [int(index) for index in generator.integers(len(starts), size=settings.per_video)]
        if settings.sampling == "caption":
            return [whole_clip(starts[index], ends[index], index) for index in indices]
        return [caption_clip(starts, ends, index, settings.seconds, settings.misaligned_audio) for index in indices]
    room = max(0.0, available - settings.seconds)
    return [
        random_clip(starts, ends, float(share) * room, settings.seconds, settings.misaligned_audio)
        for share in generator.random(settings.per_video)
    ]


def whole_clip(start: float, end: float, caption: int) -> Clip:
    """The clip of a benchmark: a caption's own window, with its own words and sound."""
    return Clip(start, end, (caption,), time_to_frame(start), time_to_frame(end))


def feature_window(start: float, end: float, rate: float, length: int) -> tuple[int, int]:
    """The features of a window of seconds: first, and the one after the last, within ``length``."""
    first = max(0, min(int(start * rate), length))
    return first, max(first, min(int(end * rate) + 1, length))


@functools.lru_cache(maxsize=4096)
def nearest(length: int, count: int) -> NDArray[np.int64]:
    """Which of ``length`` features stand at ``count`` places: torch's ``interpolate(mode="nearest")``, in float32."""
    places = np.arange(count, dtype=np.float32) * (np.float32(length) / np.float32(count))
    return np.minimum(np.floor(places).astype(np.int64), length - 1)


class FirstTokens(NamedTuple):
    """The tokens of a clip of which the first are kept: no feature has to be known to tell which they are."""

    kept: int
    steps: tuple[int, ...]
    """How many of each track's first features they are made of."""
    places: NDArray[np.int64]
    """Which of the first track's features stands at each place; behind the last token the last place."""


@functools.lru_cache(maxsize=4096)
def first_tokens(lengths: tuple[int, ...], count: int) -> FirstTokens:
    """What :func:`token_features` keeps of a clip by the strategy ``clip``.

    Args:
        lengths: of each track that the data set has, 2D before 3D.
        count: places for tokens, at least 1.
    """
    kept = min(lengths[-1], count) if all(lengths) else 0
    places = np.full(count, count - 1, np.int64)
    places[:kept] = nearest(lengths[0], lengths[-1])[:kept] if kept else 0
    steps = int(places[kept - 1]) + 1 if kept else 0
    return FirstTokens(kept, (steps, kept)[-len(lengths) :], places)


def token_features(tracks: Sequence[NDArray[Any]], count: int, strategy: TokenStrategy) -> list[NDArray[Any]]:
    """The features that become a clip's tokens, before they are normalised.

    Args:
        tracks: the clip's ``[n, D]`` of each track that the data set has, 2D before 3D.
        count: most tokens; 0: one token, the maximum over the clip in each track by itself.
        strategy: ``clip`` keeps the first, ``nearest`` takes evenly spaced ones, ``max_pool`` the maxima of
            ``n // count`` consecutive ones, then evenly spaced ones of these. The 2D track is stretched to the 3D
            track where neither is thinned.

    Returns:
        the tracks, of equal length at most ``count``: none where one of them is empty. With ``count`` 0 of length 1,
        or 0 where the track is empty.
    """
    if count == 0:
        return [track[:1] if len(track) < 2 else _maxima(track[None]) for track in tracks]
    if len(tracks[-1]) <= count or strategy == "clip" or not all(map(len, tracks)):
        tokens = first_tokens(tuple(map(len, tracks)), count)
        return [tracks[0][tokens.places[: tokens.kept]], *(track[: tokens.kept] for track in tracks[1:])]
    kernels = [len(track) // count for track in tracks]
    if strategy == "max_pool" and min(kernels) > 1:
        tracks = [_pooled(track, kernel) for track, kernel in zip(tracks, kernels, strict=True)]
    return [track[nearest(len(track), count)] for track in tracks]


def _pooled(features: NDArray[Any], kernel: int) -> NDArray[Any]:
    groups = len(features) // kernel
    return _maxima(features[: groups * kernel].reshape(groups, kernel, -1))


def _maxima(groups: NDArray[Any]) -> NDArray[Any]:
    """``[groups, n, D]`` → ``[groups, D]``; torch compares float16 ten times as fast as NumPy."""
    return torch.from_numpy(groups).amax(dim=1).numpy()
