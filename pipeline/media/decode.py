"""A video file decoded once, for frames in several formats and sound at the same time.

One FFmpeg process reads the file and writes each output into a pipe of its own: raw RGB frames of a size that is
known beforehand, and 16-bit sound. All pipes are drained together, so no output can block another.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import selectors
import subprocess
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np

from pipeline.media.errors import MediaError
from pipeline.media.ffmpeg import ffmpeg_binary
from pipeline.media.probe import AudioStream, MediaInfo, VideoStream, file_url, probe

SAMPLE_RATE = 16_000
"""Samples of sound per second."""
CHUNK_BYTES = 2 << 20
"""About how much of one output is handed over at once."""
PIPE_BYTES = 1 << 20
"""Size asked for each pipe: the decoder runs ahead by this much while a caller computes."""
MAX_SIDE = 4096
"""Longest side of a scaled frame, in pixels; a longer one would only come from a damaged header."""
KEPT_SHARE = 0.9
"""Share of the announced duration that a damaged file must still give."""
_MESSAGE_BYTES = 16_384
"""How much of FFmpeg's complaints is kept."""


@dataclass(frozen=True)
class FrameFormat:
    """How frames are sampled and scaled."""

    rate: float
    """Frames per second; frames are repeated or left out to meet it."""
    size: int
    """Pixels of the shorter side."""
    crop: bool = False
    """Whether only the square in the middle is kept, or the whole frame."""

    def scaled_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the frames that come out, for frames of ``width`` x ``height`` in the file.

        The longer side is cut to whole pixels, as in HowTo100M's feature extractor.
        """
        if self.crop:
            return self.size, self.size
        if height >= width:
            return self.size, int(height * self.size / width)
        return int(width * self.size / height), self.size


class Decoding(Iterator[tuple[str, np.ndarray]]):
    """The chunks of one file as they come; made by :func:`decode`.

    :attr:`info` and the sizes are known from the start, :attr:`notes` and :attr:`seconds` once it is exhausted.
    """

    def __init__(
        self,
        path: str | Path,
        frames: Mapping[str, FrameFormat],
        audio: bool,
        timeout: float,
        *,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self.path = Path(path)
        self.notes: list[str] = []
        """What is wrong with a file that was used all the same."""
        self.seconds: dict[str, float] = {}
        """How much of each output there was."""
        self._deadline = time.monotonic() + timeout
        self._timeout = timeout
        self._chunk_bytes = chunk_bytes
        self.info: MediaInfo = probe(path)
        self.video: VideoStream | None = self.info.video if frames else None
        self.audio: AudioStream | None = self.info.audio if audio else None
        if self.video is None and self.audio is None:
            raise MediaError("unsupported", f"{path}: {_nothing_usable(self.info)}")
        self._rates: dict[str, float] = {}
        self._shapes: dict[str, tuple[int, int]] = {}
        if self.video is not None:
            for name, frame_format in frames.items():
                width, height = frame_format.scaled_size(self.video.width, self.video.height)
                if max(width, height) > MAX_SIDE:
                    raise MediaError(
                        "unsupported", f"{path}: a picture of {self.video.width}x{self.video.height} pixels"
                    )
                self._rates[name] = frame_format.rate
                self._shapes[name] = (height, width)
        self._formats = dict(frames)
        self._chunks = self._run()

    def __next__(self) -> tuple[str, np.ndarray]:
        """The next chunk; raises :class:`MediaError`."""
        return next(self._chunks)

    def close(self) -> None:
        """Ends FFmpeg, if it still runs."""
        self._chunks.close()

    def _run(self) -> Generator[tuple[str, np.ndarray], None, None]:
        names = [*self._shapes, *(["audio"] if self.audio is not None else [])]
        pipes = {name: os.pipe() for name in names}
        readers = [_Reader(name, pipes[name][0], self._shapes.get(name), self._chunk_bytes) for name in names]
        try:
            command = self._command({name: write_end for name, (_, write_end) in pipes.items()})
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[write_end for _, write_end in pipes.values()],
            )
        except BaseException:
            for read_end, _ in pipes.values():
                os.close(read_end)
            raise
        finally:
            for _, write_end in pipes.values():
                os.close(write_end)
        assert process.stderr is not None
        complaints = _Tail()
        try:
            with selectors.DefaultSelector() as selector:
                for reader in readers:
                    selector.register(reader.descriptor, selectors.EVENT_READ, reader)
                selector.register(process.stderr.fileno(), selectors.EVENT_READ, complaints)
                while selector.get_map():
                    ready = selector.select(self._remaining())
                    for key, _ in ready:
                        chunk, ended = key.data.read(key.fd)
                        if ended:
                            selector.unregister(key.fd)
                        if chunk is not None:
                            yield key.data.name, chunk
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self._remaining())
            self._judge(readers, process.poll(), complaints.lines())
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
            for reader in readers:
                os.close(reader.descriptor)

    def _remaining(self) -> float:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise MediaError("timeout", f"{self.path}: not decoded within {self._timeout:.0f} s")
        return remaining

    def _command(self, descriptors: Mapping[str, int]) -> list[str]:
        """FFmpeg's command line, which writes each output into its descriptor."""
        # One thread per file: several files at once use the cores better than several threads on one file.
        source = ffmpeg.input(file_url(self.path), threads=1, protocol_whitelist="file")
        outputs: list[Any] = []
        if self.video is not None:
            # FFmpeg hands out the streams of a split in turn; one consumer needs no split.
            video = source[str(self.video.index)]
            several = len(self._formats) > 1
            split = video.filter_multi_output("split", len(self._formats)) if several else None
            for place, (name, frame_format) in enumerate(self._formats.items()):
                branch = split.stream(place) if split is not None else video
                outputs.append(
                    ffmpeg.output(
                        _scaled(branch, frame_format, self._shapes[name], self.info.duration),
                        f"pipe:{descriptors[name]}",
                        format="rawvideo",
                        pix_fmt="rgb24",
                        fps_mode="passthrough",
                    )
                )
        if self.audio is not None:
            # async=1 and first_pts=0 put silence where the sound starts late or has a gap, so that times hold
            sound = source[str(self.audio.index)].filter("aresample", SAMPLE_RATE, **{"async": 1, "first_pts": 0})
            sound = sound.filter("aformat", sample_fmts="s16", channel_layouts="mono")
            outputs.append(ffmpeg.output(sound, f"pipe:{descriptors['audio']}", format="s16le"))
        graph = ffmpeg.merge_outputs(*outputs).global_args(
            "-nostdin", "-hide_banner", "-v", "error", "-filter_complex_threads", "1"
        )
        command = ffmpeg.compile(graph, cmd=ffmpeg_binary())
        return [str(part) for part in command]

    def _judge(self, readers: list[_Reader], code: int | None, complaints: list[str]) -> None:
        """Decides whether what came is enough, once FFmpeg has ended with ``code``."""
        for reader in readers:
            self.seconds[reader.name] = reader.items / self._rates.get(reader.name, SAMPLE_RATE)
        seen = max((self.seconds[name] for name in self._shapes), default=0.0)
        heard = self.seconds.get("audio", 0.0)
        cause = complaints[0] if complaints else f"FFmpeg ended with code {code}" if code else ""
        announced = self.info.duration
        if max(seen, heard) == 0:
            raise MediaError("corrupt", f"{self.path}: nothing could be decoded ({cause or 'it is empty'})")
        if announced:
            # a stream may well be shorter than the file; one that FFmpeg complains of may not
            every_stream = self.info.stream_count == (self.video is not None) + (self.audio is not None)
            checked = [max(seen, heard)] if every_stream or cause else []
            if cause and _about_pictures(complaints) and self.video is not None:
                checked.append(seen)
            covered = min(checked, default=announced)
            # the last frame may be missing from a short file without any damage
            if covered < KEPT_SHARE * announced and announced - covered > 0.5:
                share = 100 * covered / announced
                raise MediaError(
                    "corrupt",
                    f"{self.path}: only {covered:.1f} s of {announced:.1f} s ({share:.0f} %) could be decoded"
                    + (f" ({cause})" if cause else ""),
                )
        if cause:
            self.notes.append(f"damaged: {cause}")


def decode(path: str | Path, frames: Mapping[str, FrameFormat], audio: bool, timeout: float) -> Decoding:
    """Decodes a file once.

    Frames are turned as the file says, and start at second 0: a first picture that comes later is repeated from
    there, as is any picture that stands longer than a frame. Sound is mixed to mono at 16 kHz.

    Args:
        path: the file.
        frames: what each output of frames is called, and its format.
        audio: whether sound is wanted.
        timeout: seconds until the last chunk has been taken, the caller's own work between chunks included.

    Returns:
        iterator of ``(name, uint8 [n, height, width, 3])`` and ``("audio", int16 [n])``, in the order in which
        FFmpeg gives them, each of a few MB at most. What the file lacks is not among them.

    Raises:
        MediaError: at once, when the header cannot be read or there is neither a picture nor a sound of those
            asked for; at the end, when less than 90 % of a damaged file could be decoded.
    """
    return Decoding(path, frames, audio, timeout)


def _scaled(stream: Any, frame_format: FrameFormat, shape: tuple[int, int], announced: float | None) -> Any:
    # The fps filter comes first, so that only frames that are used are scaled. It rounds a duration to whole frames;
    # a file that is over before half a frame still gives one.
    short = announced is None or announced * frame_format.rate < 1
    stream = stream.filter("fps", f"{frame_format.rate:g}", start_time=0, eof_action="pass" if short else "round")
    if frame_format.crop:
        # cropping before scaling gives the same picture as after it, and scales fewer pixels
        stream = stream.filter("crop", "min(iw,ih)", "min(iw,ih)")
    height, width = shape
    return stream.filter("scale", width, height)


def _about_pictures(complaints: list[str]) -> bool:
    return any(re.search(r"vist#|h264|hevc|av1|vp[89]|mpeg[24]|Video", line) for line in complaints)


def _nothing_usable(info: MediaInfo) -> str:
    if info.unusable:
        return f"no decoder for {', '.join(info.unusable)}"
    return "it has neither pictures nor sound of the kinds asked for"


class _Reader:
    """Gathers what one pipe gives into arrays of whole frames or samples."""

    def __init__(self, name: str, descriptor: int, shape: tuple[int, int] | None, chunk_bytes: int) -> None:
        self.name = name
        self.descriptor = descriptor
        self.items = 0
        self._item_shape = (*shape, 3) if shape is not None else ()
        self._dtype = np.dtype(np.uint8 if shape is not None else "<i2")
        self._item_bytes = int(np.prod(self._item_shape, dtype=np.int64)) * self._dtype.itemsize
        self._capacity = max(1, chunk_bytes // self._item_bytes)
        self._buffer = np.empty(0, np.uint8)
        self._filled = 0
        with contextlib.suppress(OSError, AttributeError):  # only Linux has it, and a user's share may be used up
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def read(self, descriptor: int) -> tuple[np.ndarray | None, bool]:
        """Takes what is there: a chunk once it is full or the pipe has ended, and whether it has ended."""
        if not self._filled:
            self._buffer = np.empty(self._capacity * self._item_bytes, np.uint8)
        count = os.readv(descriptor, [self._buffer.data[self._filled :]])
        self._filled += count
        if count and self._filled < len(self._buffer):
            return None, False
        whole = self._filled // self._item_bytes  # a last frame that was cut off is left out
        used = self._buffer[: whole * self._item_bytes]
        self._filled = 0
        self.items += whole
        return (used.view(self._dtype).reshape(whole, *self._item_shape) if whole else None), count == 0


class _Tail:
    """The first of FFmpeg's complaints; the rest is read and dropped."""

    def __init__(self) -> None:
        self._text = b""

    def read(self, descriptor: int) -> tuple[None, bool]:
        """Takes what is there; whether it has ended."""
        data = os.read(descriptor, 65_536)
        self._text = (self._text + data)[:_MESSAGE_BYTES]
        return None, not data

    def lines(self) -> list[str]:
        """Complaints without the addresses of FFmpeg's objects."""
        text = self._text.decode("utf-8", "replace")
        lines = [re.sub(r" @ 0x[0-9a-f]+", "", line).strip() for line in text.splitlines()]
        # an output that got no frame at all is not damage; what it lacks shows in its length
        return [line for line in lines if line and not re.match(r"\[[va]ost#", line)]
