"""What clips are: windows of videos with their narration, their sound and their video tokens.

One definition for training and benchmarks. Pure functions of times and arrays; nothing here reads a file. The rules
are those of the published programs of MFT (Everything at Once, CVPR 2022) and MCN (ICCV 2021). The clips of many videos
are made at once: array operations on a batch cost what they cost on one clip.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pipeline.config import ClipSettings
from pipeline.shards.narrations import Narrations

FREE_SAMPLINGS = ("mft", "avlnet")
"""Ways of drawing clips that need no captions."""

TokenStrategy = Literal["clip", "nearest", "max_pool"]
Pooling = Literal["max", "mean"]
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

_SAMPLE_RATE = 16_000
_HOP = 160
_WINDOW = 400


class Clips(NamedTuple):
    """Windows of videos, one after the other."""

    video: Integers
    """``[n]``, ascending: which of the videos at hand."""
    start: Floats
    """``[n]`` seconds; the video's features are taken from here to ``end``."""
    end: Floats
    audio_first: Integers
    """``[n]``: first frame of the spectrogram."""
    audio_stop: Integers
    """``[n]``: the frame after the last; it may lie behind the end of the spectrogram."""
    owner: Integers
    """``[m]``, ascending: the clip of each of ``captions``."""
    captions: Integers
    """``[m]``: captions whose words a clip has, numbered as in the :class:`Narrations`, in the order of its text."""

    def part(self, first: int, stop: int) -> Clips:
        """The clips from ``first`` to before ``stop``."""
        spoken = slice(*np.searchsorted(self.owner, (first, stop)))
        return Clips(
            video=self.video[first:stop],
            start=self.start[first:stop],
            end=self.end[first:stop],
            audio_first=self.audio_first[first:stop],
            audio_stop=self.audio_stop[first:stop],
            owner=self.owner[spoken] - first,
            captions=self.captions[spoken],
        )


def time_to_frame(seconds: ArrayLike) -> Integers:
    """The spectrogram's frames that are centred on some times, at least 0.

    ``librosa.time_to_frames(seconds, sr=16000, hop_length=160, n_fft=400)``.
    """
    samples = (np.asarray(seconds, np.float64) * _SAMPLE_RATE).astype(np.int64)
    return np.asarray(np.maximum(0, (samples - _WINDOW // 2) // _HOP))


def whole_seconds(duration: ArrayLike, audio_frames: ArrayLike) -> Integers:
    """The seconds in which random windows lie: those of the spectrogram if there is one, else of the video."""
    frames = np.asarray(audio_frames, np.int64)
    heard = (frames * _HOP + _WINDOW // 2) // _SAMPLE_RATE
    return np.where(frames > 0, heard, np.asarray(duration).astype(np.int64))


def windows(video: ArrayLike, start: ArrayLike, end: ArrayLike) -> Clips:
    """Sight and sound of videos from ``start`` to ``end`` seconds, without narration."""
    place, begin, stop = np.asarray(video, np.int64), np.asarray(start, np.float64), np.asarray(end, np.float64)
    nothing = np.zeros(0, np.int64)
    return Clips(place, begin, stop, time_to_frame(begin), time_to_frame(stop), nothing, nothing)


def whole_clips(narrations: Narrations, captions: ArrayLike) -> Clips:
    """The clips of a benchmark: each caption's own window, with its own words and sound."""
    found = np.asarray(captions, np.int64)
    clips = windows(narrations.video(found), narrations.starts[found], narrations.ends[found])
    return clips._replace(owner=np.arange(len(found)), captions=found)


def grown_clips(narrations: Narrations, captions: ArrayLike, seconds: float, misaligned: bool) -> Clips:
    """The clips that grow around captions until they last ``seconds`` or have all captions of their video.

    The nearer neighbour comes first, that which leaves the clip shorter; a tie goes to the earlier one. Words follow
    each other in the order in which captions were added.

    Args:
        narrations: of the videos.
        captions: the caption that each clip grows around, those of a video together, the videos in their order.
        seconds: least length of a clip, where the captions allow it.
        misaligned: whether the sound starts half of ``seconds`` late and lasts ``seconds``, which keeps speech from
            giving the text away.
    """
    middle = np.asarray(captions, np.int64)
    video = narrations.video(middle)
    first, last, owner, added = _grow(narrations, middle, video, seconds)
    start, end = narrations.starts[first], narrations.ends[last]
    heard = (start + 0.5 * seconds, start + 1.5 * seconds) if misaligned else (start, end)
    return Clips(video, start, end, time_to_frame(heard[0]), time_to_frame(heard[1]), owner, added)


def _grow(
    narrations: Narrations, middle: Integers, video: Integers, seconds: float
) -> tuple[Integers, Integers, Integers, Integers]:
    """First and last caption of each grown clip, and pairs of a clip and a caption."""
    starts, ends, bounds = narrations.starts, narrations.ends, narrations.bounds
    first, last = middle.copy(), middle.copy()
    short = np.arange(len(middle))
    owners, added = [short], [middle]
    while True:
        low, high, place = first[short], last[short], video[short]
        earlier, later = low > bounds[place], high + 1 < bounds[place + 1]
        growing = (ends[high] - starts[low] < seconds) & (earlier | later)
        if not growing.any():
            break
        if not growing.all():
            low, high, short = low[growing], high[growing], short[growing]
            earlier, later = earlier[growing], later[growing]
        backwards = earlier & ~(later & (ends[high] - starts[low - 1] > ends[high + later] - starts[low]))
        first[short] -= backwards
        last[short] += ~backwards
        owners.append(short)
        added.append(np.where(backwards, low - 1, high + 1))
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    return first, last, owner[order], np.concatenate(added)[order]


def random_clips(narrations: Narrations, video: Integers, start: Floats, seconds: float, misaligned: bool) -> Clips:
    """The clips that windows from ``start`` on find.

    A caption that is spoken when a window begins, else one that is spoken when it ends, makes it the clip that grows
    around that caption; a window that finds neither stays as it is, without text.
    """
    found, spoken = _spoken(narrations, np.tile(video, 2), np.concatenate([start, start + seconds]))
    begins, ends = np.split(spoken, 2)
    captions = np.where(begins, *np.split(found, 2))
    talks = np.flatnonzero(begins | ends)
    free = windows(video, start, start + seconds)
    grown = grown_clips(narrations, captions[talks], seconds, misaligned)
    for values, others in zip(free[1:5], grown[1:5], strict=True):
        values[talks] = others
    return free._replace(owner=talks[grown.owner], captions=grown.captions)


def _spoken(narrations: Narrations, video: Integers, time: Floats) -> tuple[Integers, NDArray[np.bool_]]:
    """The last caption of a video that starts before a time, else its first, and whether it is spoken then."""
    starts, ends = narrations.starts, narrations.ends
    low, high = narrations.bounds[video], narrations.bounds[video + 1]
    if not len(starts):
        return low, np.zeros(len(low), bool)
    begin, end = low, high
    while (searched := low < high).any():
        middle = (low + high) // 2
        before = searched & (starts[np.minimum(middle, len(starts) - 1)] < time)
        low, high = np.where(before, middle + 1, low), np.where(searched & ~before, middle, high)
    found = np.minimum(np.maximum(begin, low - 1), len(starts) - 1)
    return found, (begin < end) & (starts[found] <= time) & (time <= ends[found])


def training_clips(
    narrations: Narrations, available: Integers, settings: ClipSettings, shares: NDArray[np.float64]
) -> Clips:
    """The clips of some videos in one epoch.

    Args:
        narrations: of the videos.
        available: ``[videos]``; see :func:`whole_seconds`.
        settings: the sampling and the length of clips.
        shares: ``[videos, clips of each]``, random numbers of [0, 1): they decide all there is to decide.

    Raises:
        ValueError: the sampling needs captions and a video has none.
    """
    video = np.repeat(np.arange(len(shares)), shares.shape[1])
    if settings.sampling == "avlnet":
        start = np.floor(shares * np.maximum(1, available - int(settings.seconds) - 1)[:, None]).ravel()
        drawn = windows(video, start, start + settings.seconds)
        # as many from the beginning of a video, where the frame at 0 seconds would lie before it, as from elsewhere
        return drawn._replace(audio_stop=drawn.audio_first + int(settings.seconds * _SAMPLE_RATE / _HOP))
    if settings.sampling == "mft":
        room = np.maximum(0.0, available - settings.seconds)
        start = (shares * room[:, None]).ravel()
        return random_clips(narrations, video, start, settings.seconds, settings.misaligned_audio)
    counts = np.diff(narrations.bounds)
    if not counts.all():
        raise ValueError("a clip cannot be taken around a caption where there is none")
    captions = (narrations.bounds[:-1, None] + (shares * counts[:, None]).astype(np.int64)).ravel()
    if settings.sampling == "caption":
        return whole_clips(narrations, captions)
    return grown_clips(narrations, captions, settings.seconds, settings.misaligned_audio)


def feature_window(start: ArrayLike, end: ArrayLike, rate: ArrayLike, length: ArrayLike) -> tuple[Integers, Integers]:
    """The features of windows of seconds: the first of each, and the one after the last, within ``length``."""
    rates = np.asarray(rate, np.float64)
    first = np.clip((np.asarray(start) * rates).astype(np.int64), 0, length)
    return first, np.maximum(first, np.minimum((np.asarray(end) * rates).astype(np.int64) + 1, length))


@functools.lru_cache(maxsize=4096)
def nearest(length: int, count: int) -> Integers:
    """Which of ``length`` features stand at ``count`` places: torch's ``interpolate(mode="nearest")``, in float32."""
    places = np.arange(count, dtype=np.float32) * (np.float32(length) / np.float32(count))
    return np.minimum(np.floor(places).astype(np.int64), length - 1)


class FirstTokens(NamedTuple):
    """The tokens of clips of which the first are kept: no feature has to be known to tell which they are."""

    kept: Integers
    """``[n]`` tokens."""
    steps: tuple[Integers, ...]
    """``[n]`` of each track: how many of its first features they are made of."""
    places: Integers
    """``[n, count]``: which of the first track's features stands at each place, behind the last token the last."""


def first_tokens(lengths: Sequence[Integers], count: int) -> FirstTokens:
    """What :func:`token_features` keeps of clips by the strategy ``clip``.

    Args:
        lengths: ``[n]`` of each track that the data set has, 2D before 3D.
        count: places for tokens, at least 1.
    """
    # clips of one duration have few lengths
    kinds, kind = np.unique((lengths[0] << 32) + lengths[-1], return_inverse=True)
    found = [_first_tokens(int(pair) >> 32, int(pair) & 0xFFFFFFFF, count) for pair in kinds]
    kept, steps = np.array([(kept, steps) for kept, steps, _ in found], np.int64).reshape(-1, 2).T[:, kind]
    places = np.array([places for _, _, places in found], np.int64).reshape(-1, count)[kind]
    return FirstTokens(kept, (steps, kept)[-len(lengths) :], places)


@functools.lru_cache(maxsize=4096)
def _first_tokens(length: int, last_length: int, count: int) -> tuple[int, int, Integers]:
    """Tokens, how many features of the first track, and which; of a first and a last track."""
    kept = min(last_length, count) if length else 0
    places = np.full(count, count - 1, np.int64)
    places[:kept] = nearest(length, last_length)[:kept] if kept else 0
    return kept, int(places[kept - 1]) + 1 if kept else 0, places


def token_features(
    tracks: Sequence[NDArray[Any]], count: int, strategy: TokenStrategy, pooling: Pooling = "max"
) -> list[NDArray[Any]]:
    """The features that become a clip's tokens, before they are normalised.

    Args:
        tracks: the clip's ``[n, D]`` of each track that the data set has, 2D before 3D.
        count: most tokens; 0: one token, what ``pooling`` makes of the clip in each track by itself.
        strategy: ``clip`` keeps the first, ``nearest`` takes evenly spaced ones, ``max_pool`` the maxima of
            ``n // count`` consecutive ones, then evenly spaced ones of these. The 2D track is stretched to the 3D
            track where neither is thinned.
        pooling: the maximum, or the mean.

    Returns:
        the tracks, of equal length at most ``count``: none where one of them is empty. With ``count`` 0 of length 1,
        or 0 where the track is empty.
    """
    if count == 0:
        pool = _maxima if pooling == "max" else _means
        return [track[:1] if len(track) < 2 else pool(track[None]) for track in tracks]
    if len(tracks[-1]) <= count or strategy == "clip" or not all(map(len, tracks)):
        kept, _, places = _first_tokens(len(tracks[0]), len(tracks[-1]), count)
        return [tracks[0][places[:kept]], *(track[:kept] for track in tracks[1:])]
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


def _means(groups: NDArray[Any]) -> NDArray[Any]:
    """``[groups, n, D]`` → ``[groups, D]``."""
    return groups.mean(axis=1, dtype=np.float32)
