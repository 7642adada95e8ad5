"""AVLnet's log-mel spectrogram, for sound of any length in bounded memory.

The recipe (Rouditchenko et al., *AVLnet*, 2021, section 4.1, and its code; librosa's conventions): the mean is removed
from the whole sound, pre-emphasis 0.97, windows of 25 ms (symmetric Hamming) every 10 ms, centred, zeros beyond both
ends; power; 40 Slaney mel bands from 20 Hz; decibels below the loudest band of the whole sound, cut at -80.

Mean and loudest band are of the whole sound, so it has to be gone through twice. Samples wait in a spooled file and
decibels in 16 bits of fixed point: an 8-hour sound takes a few hundred MB.
"""

from __future__ import annotations

import tempfile
from functools import cache
from types import TracebackType

import numpy as np

BANDS = 40
FRAMES_PER_SECOND = 100
PREEMPHASIS = 0.97
LOWEST_HERTZ = 20.0
FLOOR = -80.0
"""Decibels, relative to the loudest band."""
_LEAST_POWER = 1e-10
_SPOOLED_BYTES = 32 << 20
"""Samples up to this are kept in memory (17 minutes), more in a temporary file."""
_BLOCK_FRAMES = 4096
_STEPS_PER_DECIBEL = 200
"""Fixed point: absolute decibels lie within +-160, and the error, 0.0025 dB, is a tenth of float16's at -40."""


class LogMel:
    """Takes sound in chunks, gives its spectrogram.

    Use as a context manager, so that the temporary file goes whatever happens.
    """

    def __init__(self, sample_rate: int = 16_000) -> None:
        self.samples = 0
        self._sample_rate = sample_rate
        self._hop = sample_rate // FRAMES_PER_SECOND
        self._window = sample_rate // 40  # 25 ms
        self._sum = 0
        self._spool = tempfile.SpooledTemporaryFile(max_size=_SPOOLED_BYTES)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> LogMel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._spool.close()

    def push(self, pcm: np.ndarray) -> None:
        """Takes the next samples, int16 ``[n]``."""
        pcm = np.ascontiguousarray(pcm, dtype=np.int16)
        self.samples += len(pcm)
        self._sum += int(pcm.sum(dtype=np.int64))
        self._spool.write(pcm.tobytes())

    def finish(self, dtype: type[np.floating] = np.float16) -> np.ndarray:
        """The spectrogram of all samples, ``[1 + samples // hop, 40]`` decibels in [-80, 0]; no sound gives no row."""
        beyond = self._window % 2  # a window of odd length is not quite in the middle
        frames = 1 + (self.samples - beyond) // self._hop if self.samples else 0
        levels = np.empty((frames, BANDS), np.int16)
        mean = self._sum / max(1, self.samples)
        for first in range(0, frames, _BLOCK_FRAMES):
            last = min(first + _BLOCK_FRAMES, frames)
            power = _mel_power(self._emphasized(first, last, mean), self._sample_rate)
            decibels = 10 * np.log10(np.maximum(power, _LEAST_POWER))
            levels[first:last] = np.rint(decibels * _STEPS_PER_DECIBEL)
        if not frames:
            return levels.astype(dtype)
        loudest = levels.max()
        # where the result is as wide as a level it takes the levels' place, block by block
        in_place = np.dtype(dtype).itemsize == levels.itemsize
        result = levels.view(dtype) if in_place else np.empty(levels.shape, dtype)
        for first in range(0, frames, _BLOCK_FRAMES):
            block = levels[first : first + _BLOCK_FRAMES].astype(np.float32)
            relative = (block - np.float32(loudest)) / np.float32(_STEPS_PER_DECIBEL)
            result[first : first + _BLOCK_FRAMES] = np.maximum(relative, np.float32(FLOOR))
        return result

    def _emphasized(self, first: int, last: int, mean: float) -> np.ndarray:
        """The samples under windows ``first`` to ``last``, without mean, emphasised; zeros beyond the ends."""
        start = first * self._hop - self._window // 2
        stop = (last - 1) * self._hop - self._window // 2 + self._window
        result = np.zeros(stop - start)
        inner_start, inner_stop = max(0, start), min(self.samples, stop)
        before = max(0, inner_start - 1)  # the emphasis looks one sample back
        self._spool.seek(before * 2)
        pcm = np.frombuffer(self._spool.read((inner_stop - before) * 2), np.int16)
        centred = (pcm - mean) / 32768
        emphasized = centred[1:] - PREEMPHASIS * centred[:-1]
        if inner_start == 0:
            emphasized = np.concatenate((centred[:1], emphasized))
        result[inner_start - start : inner_stop - start] = emphasized
        return result


def log_mel(pcm: np.ndarray, sample_rate: int = 16_000) -> np.ndarray:
    """The spectrogram of one sound.

    Args:
        pcm: int16 ``[n]``, mono.
        sample_rate: samples per second.

    Returns:
        float32 ``[1 + n // (sample_rate / 100), 40]``, decibels from -80 to 0, time first.
    """
    with LogMel(sample_rate) as transform:
        transform.push(pcm)
        return transform.finish(np.float32)


def _mel_power(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Power in each mel band of each window, ``[windows, 40]``."""
    window, bands = _filters(sample_rate)
    frames = np.lib.stride_tricks.sliding_window_view(samples, len(window))[:: sample_rate // FRAMES_PER_SECOND]
    spectrum = np.fft.rfft(frames * window, axis=1)
    return (spectrum.real**2 + spectrum.imag**2) @ bands


@cache
def _filters(sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """The window ``[n]``, and the mel bands ``[n // 2 + 1, 40]``: triangles of equal area (Slaney, 1998)."""
    length = sample_rate // 40
    edges = _mel_to_hertz(np.linspace(_hertz_to_mel(LOWEST_HERTZ), _hertz_to_mel(sample_rate / 2), BANDS + 2))
    frequencies = np.fft.rfftfreq(length, 1 / sample_rate)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0, np.minimum(rising, falling))
    return np.hamming(length), triangles * (2 / (edges[2:] - edges[:-2]))


# Slaney's mel scale (Auditory Toolbox, 1998): linear up to 1 kHz, 15 mel there, then logarithmic
_BREAK_HERTZ = 1000.0
_BREAK_MEL = 15.0
_LOG_STEP = np.log(6.4) / 27


def _hertz_to_mel(hertz: float) -> float:
    if hertz < _BREAK_HERTZ:
        return hertz * _BREAK_MEL / _BREAK_HERTZ
    return float(_BREAK_MEL + np.log(hertz / _BREAK_HERTZ) / _LOG_STEP)


def _mel_to_hertz(mel: np.ndarray) -> np.ndarray:
    linear = mel * _BREAK_HERTZ / _BREAK_MEL
    return np.where(mel < _BREAK_MEL, linear, _BREAK_HERTZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL)))
