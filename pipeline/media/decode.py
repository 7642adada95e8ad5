"""A video file decoded once, for frames in several formats and sound at the same time.

One FFmpeg process reads the file and writes each output into a pipe of its own: raw RGB frames of a size that is
known beforehand, and 16-bit sound. All pipes are drained together, so no output can block another.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from pipeline.media.damage import Outcome, judge
from pipeline.media.errors import MediaError
from pipeline.media.ffmpeg import ffmpeg_binary
from pipeline.media.graph import SAMPLE_RATE, FrameFormat, FrameOutput, decode_command
from pipeline.media.pipes import ArrayPipe, Messages
from pipeline.media.probe import AudioStream, MediaInfo, VideoStream, file_url, probe

__all__ = ["SAMPLE_RATE", "Decoding", "FrameFormat", "decode"]

CHUNK_BYTES = 2 << 20
"""About how much of one output is handed over at once."""
MAX_SIDE = 4096
"""Longest side of a scaled frame, in pixels; a longer one would only come from a damaged header."""
LONGEST_HOURS = 24
"""A file that announces no duration ends here."""

_PAUSE_SECONDS = 0.002
"""Between two readings: FFmpeg fills its pipes meanwhile, and is not interrupted for each frame."""

_ONE_PICTURE = ("-frames:v", "1", "-vf", "scale=16:16", "-f", "rawvideo")
_ONE_SOUND = ("-frames:a", "1", "-f", "s16le")

_Chunk = tuple[str, np.ndarray]
_Stream = TypeVar("_Stream", VideoStream, AudioStream)


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


class Decoding(Iterator[_Chunk]):
    """The chunks of one file as they come; made by :func:`decode`.

    :attr:`info`, :attr:`video` and :attr:`audio` are known from the start, :attr:`notes`, :attr:`seconds` and
    :attr:`left_out` once it is exhausted.
    """

    def __init__(self, path: str | Path, frames: Mapping[str, FrameFormat], audio: bool, timeout: float) -> None:
        self.path = Path(path)
        self.notes: list[str] = []
        """What is wrong with a file that was used all the same."""
        self.seconds: dict[str, float] = {}
        """How much of each output there was."""
        self.left_out: set[str] = set()
        """Outputs that turned out, at the end, to be too damaged to be used."""
        self._deadline = time.monotonic() + timeout
        self._timeout = timeout
        self.info: MediaInfo = probe(path)
        self.video: VideoStream | None = self._first_that_works(self.info.videos if frames else (), *_ONE_PICTURE)
        self.audio: AudioStream | None = self._first_that_works(self.info.audios if audio else (), *_ONE_SOUND)
        if self.info.stream_count == 0:
            raise MediaError("corrupt", f"{path}: its header lists no stream at all")
        if self.video is None and self.audio is None:
            raise MediaError("unsupported", f"{path}: {_nothing_usable(self.info)}")
        self._formats = dict(frames) if self.video is not None else {}
        self._sizes = {}
        for name, frame_format in self._formats.items():
            assert self.video is not None
            self._sizes[name] = frame_format.scaled_size(self.video.width, self.video.height)
            if max(self._sizes[name]) > MAX_SIDE:
                width, height = self._sizes[name]
                raise MediaError(
                    "unsupported",
                    f"{path}: pictures of {self.video.width}x{self.video.height} would become {width}x{height}",
                )
        self._chunks = self._run()

    def __next__(self) -> _Chunk:
        """The next chunk; raises :class:`MediaError`."""
        return next(self._chunks)

    def close(self) -> None:
        """Ends FFmpeg, if it still runs."""
        self._chunks.close()

    def _first_that_works(self, streams: Sequence[_Stream], *output: str) -> _Stream | None:
        """The first stream that gives a picture or a sound; looks into the file only where there are several."""
        for stream in streams[:-1]:
            command = [ffmpeg_binary(), "-nostdin", "-v", "quiet", "-protocol_whitelist", "file"]
            command += ["-i", file_url(self.path), "-map", f"0:{stream.index}", *output, "-"]
            try:
                tried = subprocess.run(
                    command, stdin=subprocess.DEVNULL, capture_output=True, timeout=self._remaining()
                )
            except subprocess.TimeoutExpired:
                raise self._too_slow() from None
            if tried.stdout:
                return stream
        return streams[-1] if streams else None

    def _run(self) -> Generator[_Chunk, None, None]:
        code, messages = yield from self._run_ffmpeg(self._formats, self.audio)
        lacking = {name: self._formats[name] for name in self._formats if not self.seconds[name]}
        if lacking:
            # pictures for less than half a frame's time were rounded away; they still show something
            yield from self._run_ffmpeg(lacking, None, keep_last=True)
            code = min(code, 0)  # FFmpeg takes an output without a frame for a failure
        self._judge(code, messages)

    def _judge(self, code: int, messages: Messages) -> None:
        """Decides whether what came is enough, once FFmpeg has ended with ``code``."""
        if code < 0:
            raise MediaError("unknown", f"{self.path}: FFmpeg was ended by signal {-code}")
        seen = max((self.seconds[name] for name in self._formats), default=0.0)
        heard = self.seconds.get("audio", 0.0)
        verdict = judge(Outcome(self.info, self.video, self.audio, seen, heard, messages, code))
        if verdict.failure:
            raise MediaError("corrupt", f"{self.path}: {verdict.failure}")
        self.notes = verdict.notes
        if not verdict.sound_usable:
            self.left_out.add("audio")

    def _run_ffmpeg(
        self, formats: Mapping[str, FrameFormat], audio: AudioStream | None, *, keep_last: bool = False
    ) -> Generator[_Chunk, None, tuple[int, Messages]]:
        """Yields what one FFmpeg process gives; returns its exit code and what it said."""
        names = [*formats, *(["audio"] if audio is not None else [])]
        ends = {name: os.pipe() for name in names}
        pipes = [ArrayPipe(name, ends[name][0], self._shape(name), CHUNK_BYTES) for name in names]
        process: subprocess.Popen[bytes] | None = None
        try:
            try:
                outputs = {name: FrameOutput(formats[name], ends[name][1]) for name in formats}
                sound = ends["audio"][1] if audio is not None else None
                process = subprocess.Popen(
                    decode_command(self.path, self.video, outputs, audio, sound, keep_last=keep_last),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=[write_end for _, write_end in ends.values()],
                    process_group=0,  # Ctrl-C in a terminal must not end it: the file would look damaged
                )
            finally:
                for _, write_end in ends.values():
                    os.close(write_end)
            assert process.stderr is not None
            messages = Messages(process.stderr.fileno())
            yield from self._drain(pipes, messages)
            try:
                code = process.wait(self._remaining())
            except subprocess.TimeoutExpired:
                raise self._too_slow() from None
            return code, messages
        finally:
            if process is not None:
                process.kill()
                process.wait()
                assert process.stderr is not None
                process.stderr.close()
            for pipe in pipes:
                pipe.close()

    def _drain(self, pipes: list[ArrayPipe], messages: Messages) -> Iterator[_Chunk]:
        with selectors.DefaultSelector() as selector:
            sources: list[ArrayPipe | Messages] = [*pipes, messages]
            for source in sources:
                selector.register(source.descriptor, selectors.EVENT_READ, source)
            while selector.get_map():
                time.sleep(_PAUSE_SECONDS)
                for key, _ in selector.select(self._remaining()):
                    chunk, ended = key.data.read()
                    if ended:
                        selector.unregister(key.fd)
                    if chunk is not None:
                        self._count(key.data)
                        yield key.data.name, chunk
        for pipe in pipes:
            self._count(pipe)

    def _count(self, pipe: ArrayPipe) -> None:
        rate = self._formats[pipe.name].rate if pipe.name in self._formats else SAMPLE_RATE
        seconds = self.seconds[pipe.name] = pipe.items / rate
        announced = self.info.duration
        # a single wrong timestamp makes FFmpeg repeat a picture for hours
        longest = LONGEST_HOURS * 3600 if announced is None else 10 * announced + 600
        if seconds > longest:
            raise MediaError(
                "corrupt", f"{self.path}: it goes on after {seconds:.0f} s, though it announces {announced or 0:.0f} s"
            )

    def _shape(self, name: str) -> tuple[int, int] | None:
        if name not in self._sizes:
            return None
        width, height = self._sizes[name]
        return height, width

    def _remaining(self) -> float:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise self._too_slow()
        return remaining

    def _too_slow(self) -> MediaError:
        return MediaError("timeout", f"{self.path}: not done within {self._timeout:.0f} s")


def _nothing_usable(info: MediaInfo) -> str:
    if info.unusable:
        return f"no decoder for {', '.join(info.unusable)}"
    return "it has neither pictures nor sound of the kinds asked for"
