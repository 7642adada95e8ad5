"""FFmpeg's command lines: one input, decoded once, to several outputs in pipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ffmpeg

from pipeline.media.ffmpeg import ffmpeg_binary
from pipeline.media.probe import AudioStream, VideoStream, file_url

SAMPLE_RATE = 16_000
"""Samples of sound per second."""


@dataclass(frozen=True)
class FrameFormat:
    """How frames are sampled and scaled."""

    rate: float
    """Frames per second; frames are repeated or left out to meet it."""
    size: int
    """Pixels of the shorter side."""
    crop: bool = False
    """Whether only the square in the middle is kept, or the whole frame."""

    def whole_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height to which whole frames of ``width`` x ``height`` in the file are scaled.

        The longer side is cut to whole pixels, as in HowTo100M's feature extractor.
        """
        if height >= width:
            return self.size, int(height * self.size / width)
        return int(width * self.size / height), self.size

    def scaled_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the frames that come out, for frames of ``width`` x ``height`` in the file."""
        return (self.size, self.size) if self.crop else self.whole_size(width, height)


@dataclass(frozen=True)
class FrameOutput:
    """Frames of one format, and the pipe that they go to."""

    frame_format: FrameFormat
    descriptor: int


def decode_command(
    path: Path,
    video: VideoStream | None,
    frames: Mapping[str, FrameOutput],
    audio: AudioStream | None,
    audio_descriptor: int | None,
    *,
    keep_last: bool = False,
) -> list[str]:
    """The command that decodes a file once.

    Args:
        path: the file.
        video: the stream that frames are taken from.
        frames: what is made of it.
        audio: the stream that sound is taken from.
        audio_descriptor: the pipe for it.
        keep_last: whether the frame at the end is kept where rounding to whole frames would leave it out.
    """
    # One thread per file: several files at once use the cores better than several threads on one file.
    source = ffmpeg.input(file_url(path), threads=1, protocol_whitelist="file")
    outputs: list[Any] = []
    if video is not None and frames:
        stream = source[str(video.index)]
        # a stream can be consumed once; only more consumers need a split
        branches = stream.filter_multi_output("split", len(frames)) if len(frames) > 1 else None
        for place, output in enumerate(frames.values()):
            branch = branches.stream(place) if branches is not None else stream
            outputs.append(_frame_output(branch, output, video, keep_last))
    if audio is not None:
        # async=1 and first_pts=0 put silence where the sound starts late or has a gap, so that times hold. As an
        # option of the output it is a graph of its own, which does not start anew when pictures change their size.
        # Filters of twice the usual length cut as steeply above 8 kHz as SoX, which the published extractor uses.
        # asetnsamples hands a second on at a time: FFmpeg's threads, and ours, would wake up for each 20 ms.
        outputs.append(
            ffmpeg.output(
                source[str(audio.index)],
                f"pipe:{audio_descriptor}",
                af=f"aresample=async=1:first_pts=0:filter_size=64,asetnsamples=n={SAMPLE_RATE}:p=0",
                ar=SAMPLE_RATE,
                ac=1,
                format="s16le",
            )
        )
    graph = ffmpeg.merge_outputs(*outputs).global_args(
        "-nostdin", "-nostats", "-hide_banner", "-v", "level+verbose", "-filter_complex_threads", "1"
    )
    return [str(part) for part in ffmpeg.compile(graph, cmd=ffmpeg_binary())]


def _frame_output(stream: Any, output: FrameOutput, video: VideoStream, keep_last: bool) -> Any:
    frame_format = output.frame_format
    rate = f"{frame_format.rate:g}"
    width, height = frame_format.whole_size(video.width, video.height)
    # the fps filter comes first, so that only frames that are used are scaled
    stream = stream.filter("fps", rate, eof_action="pass" if keep_last else "round")
    if frame_format.crop:
        # Scaling planes as they are and turning the small picture to RGB costs half of what one step does
        # (docs/benchmarks.md). Where several pixels become one their mean is as near to the published picture as the
        # bicubic filter, and cheaper. Cropping comes last, and of RGB, as published: a window of the original that
        # scales to the same square begins between pixels.
        size = frame_format.size
        averaged = min(video.width, video.height) >= 2 * size
        stream = stream.filter("scale", width, height, flags="area" if averaged else "bicubic")
        stream = stream.filter("format", "yuv420p").filter("format", "rgb24")
        stream = stream.filter("crop", size, size, (width - size) // 2, (height - size) // 2)
    else:
        stream = stream.filter("scale", width, height)
    # Constant rate at the output, and not only in the filter: it also repeats a first picture that comes late, and
    # holds when a stream changes its size midway and FFmpeg starts the filters anew.
    return ffmpeg.output(
        stream, f"pipe:{output.descriptor}", format="rawvideo", pix_fmt="rgb24", r=rate, fps_mode="cfr"
    )
