"""Reading what FFmpeg writes into several pipes at once, in bounded memory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from dataclasses import dataclass

import numpy as np

from pipeline.media.ffmpeg import without_addresses

PIPE_BYTES = 1 << 20
"""Size asked for each pipe: FFmpeg runs ahead by this much while a caller computes."""
MESSAGE_BYTES = 16_384
"""How much of FFmpeg's complaints is kept."""


class ArrayPipe:
    """Gathers what one pipe gives into arrays of whole frames or samples."""

    def __init__(self, name: str, descriptor: int, shape: tuple[int, int] | None, chunk_bytes: int) -> None:
        """Takes over a pipe's read end.

        Args:
            name: what the output is called.
            descriptor: the read end; :meth:`close` closes it.
            shape: height and width of the RGB frames in it; None: it holds 16-bit samples.
            chunk_bytes: size of the arrays that :meth:`read` gives; a single frame may be larger.
        """
        self.name = name
        self.descriptor = descriptor
        self.items = 0
        """Frames or samples so far."""
        self._item_shape = (*shape, 3) if shape is not None else ()
        self._dtype = np.dtype(np.uint8 if shape is not None else "<i2")
        self._item_bytes = int(np.prod(self._item_shape, dtype=np.int64)) * self._dtype.itemsize
        self._capacity = max(1, chunk_bytes // self._item_bytes)
        self._buffer = np.empty(0, np.uint8)
        self._filled = 0
        with contextlib.suppress(OSError, AttributeError):  # only Linux has it, and a user's share may be used up
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def read(self) -> tuple[np.ndarray | None, bool]:
        """Takes what is there.

        Returns:
            a chunk, once it is full or the pipe has ended, uint8 ``[n, height, width, 3]`` or int16 ``[n]``; and
            whether the pipe has ended.
        """
        if not self._filled:
            self._buffer = np.empty(self._capacity * self._item_bytes, np.uint8)
        count = os.readv(self.descriptor, [self._buffer.data[self._filled :]])
        self._filled += count
        if count and self._filled < len(self._buffer):
            return None, False
        whole = self._filled // self._item_bytes  # a last frame that was cut off is left out
        used = self._buffer[: whole * self._item_bytes]
        self._filled = 0
        self.items += whole
        return (used.view(self._dtype).reshape(whole, *self._item_shape) if whole else None), count == 0

    def close(self) -> None:
        """Closes the read end."""
        os.close(self.descriptor)


@dataclass(frozen=True)
class Decoded:
    """What a decoder made of one stream, by FFmpeg's own count."""

    frames: int
    errors: int
    """Packets that it could make nothing of."""
    samples: int
    """Samples of sound in the frames; 0 for pictures."""


class Messages:
    """What FFmpeg writes to its standard error, at level ``verbose``, each line with its level.

    The first complaints are kept, and what it says in the end about each stream of the input; the rest is dropped.
    """

    name = "messages"

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.complaints: list[str] = []
        """Errors, without the addresses of FFmpeg's objects."""
        self.decoded: dict[int, Decoded] = {}
        """By the stream's number in the file."""
        self._rest = b""
        self._left = MESSAGE_BYTES

    def read(self) -> tuple[None, bool]:
        """Takes what is there; whether it has ended."""
        data = os.read(self.descriptor, 65_536)
        *lines, self._rest = (self._rest + (data or b"\n")).split(b"\n")
        self._rest = self._rest[:MESSAGE_BYTES]
        for line in lines:
            self._take(line.decode("utf-8", "replace"))
        return None, not data

    def _take(self, line: str) -> None:
        if match := _COUNTS.search(line):
            index, frames, errors, samples = (int(number or 0) for number in match.groups())
            self.decoded[index] = Decoded(frames, errors, samples)
        elif match := _COMPLAINT.match(line):
            text = " ".join(part for part in (without_addresses(match[1]).strip(), match[2]) if part)
            # an output that got no frame at all is not damage: what it lacks shows in its length
            if match[2] and not re.match(r"\[([va]ost|out)#", text) and self._left > 0:
                self._left -= len(text)
                self.complaints.append(text)


_COUNTS = re.compile(
    r" Input stream #0:(\d+) \(\w+\): \d+ packets read \(\d+ bytes\); (\d+) frames decoded"
    r"(?:; (\d+) decode errors)?(?: \((\d+) samples\))?"
)
_COMPLAINT = re.compile(r"((?:\[[^]]*\] )*)\[(?:error|fatal|panic)\] (.*\S)")
