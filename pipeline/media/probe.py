"""What is in a media file, read from FFmpeg's own description of its input (no ffprobe is needed)."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.media.errors import MediaError
from pipeline.media.ffmpeg import ffmpeg_binary

PROBE_TIMEOUT = 60.0
"""Seconds for reading a header."""

_PLAYLISTS = frozenset({"concat", "hls", "dash", "imf", "image2", "sdp"})
"""Formats that would make FFmpeg open files that a downloaded file names, or that its own name stands for."""
_TEXT = "tty"
"""FFmpeg would draw the letters."""
_WITHOUT_LENGTH = frozenset({"mpegts", "mpeg"})
"""Streams for broadcast: FFmpeg takes the difference of two time stamps for their length, and these may jump."""
_INPUT = re.compile(r"^Input #0, (.+), from '", re.MULTILINE)
_STREAM = re.compile(r"^ {2,4}Stream #0:(?P<index>\d+)(?:\[0x[0-9a-f]+\])?(?:\([^)]*\))?: (?P<kind>\w+): (?P<rest>.*)$")
_DURATION = re.compile(r"^ {2}Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)")
_START = re.compile(r", start: (\d+\.\d+)")
_FROM_ZERO = frozenset({"matroska", "webm"})
"""Formats whose lengths are counted from the clock's zero, also where the first picture is later."""
_LATE = 0.5
"""Seconds by which a clock starts late that are no mere delay of an encoder."""
_STREAM_DURATION = re.compile(r"^ {6}DURATION +: (\d+):(\d\d):(\d\d(?:\.\d+)?)")
_ROTATION = re.compile(r"rotation of (-?\d+(?:\.\d+)?) degrees")
_SIZE = re.compile(r"(?:^|, )(\d+)x(\d+)(?=[ ,\[]|$)")
_RATE = re.compile(r"(?:^|, )(\d+(?:\.\d+)?)(k?) fps(?:,|$| )")
_SAMPLE_RATE = re.compile(r"(?:^|, )(\d+) Hz(?:, ([^,]+))?")


@dataclass(frozen=True)
class VideoStream:
    """A stream of pictures that a decoder is there for."""

    index: int
    """Its number among all streams of the file."""
    codec: str
    width: int
    """Pixels as shown, after rotation."""
    height: int
    rate: float | None
    """Mean frames per second; None: not known."""
    rotation: float = 0.0
    """Degrees that FFmpeg turns the pictures by."""
    duration: float | None = None
    """Seconds, where the container says so for each stream."""
    pixel_format: str = ""


@dataclass(frozen=True)
class AudioStream:
    """A stream of sound that a decoder is there for."""

    index: int
    codec: str
    sample_rate: int
    channels: str
    """FFmpeg's name of the layout: ``mono``, ``stereo``, ``5.1``."""
    duration: float | None = None


@dataclass(frozen=True)
class MediaInfo:
    """A file's streams."""

    duration: float | None
    """Seconds that the container announces; None: it does not say."""
    videos: tuple[VideoStream, ...] = ()
    """The usable ones, in the file's order; cover pictures are not among them."""
    audios: tuple[AudioStream, ...] = ()
    stream_count: int = 0
    """Streams of any kind."""
    unusable: tuple[str, ...] = field(default=())
    """Why streams of pictures or sound were passed over."""

    @property
    def video(self) -> VideoStream | None:
        """The first usable stream of pictures."""
        return self.videos[0] if self.videos else None

    @property
    def audio(self) -> AudioStream | None:
        """The first usable stream of sound."""
        return self.audios[0] if self.audios else None


def probe(path: str | Path) -> MediaInfo:
    """Reads the header of a file.

    Raises:
        MediaError: ``not_found``, ``corrupt`` (not a media file, or its header is damaged), ``timeout``.
    """
    path = Path(path)
    if not path.is_file():
        raise MediaError("not_found", f"{path}: no such file")
    if path.stat().st_size == 0:
        raise MediaError("corrupt", f"{path}: it is empty")
    # without an output FFmpeg describes the input, then ends with an error that means nothing here
    command = [ffmpeg_binary(), "-hide_banner", "-nostdin", "-protocol_whitelist", "file", "-i", file_url(path)]
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=PROBE_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise MediaError("timeout", f"{path}: its header was not read within {PROBE_TIMEOUT:.0f} s") from None
    text = result.stderr.decode("utf-8", "replace")
    opened = _INPUT.search(text)
    if opened is None:
        raise MediaError("corrupt", f"{path}: not a media file that FFmpeg can open ({_cause(text)})")
    formats = opened[1].split(",")
    if not _PLAYLISTS.isdisjoint(formats):
        raise MediaError("unsupported", f"{path}: a single picture or a list of other files ({opened[1]}), not a video")
    if _TEXT in formats:
        raise MediaError("unsupported", f"{path}: text, not a video")
    info = parse_description(text)
    if not _FROM_ZERO.isdisjoint(formats):
        info = _from_its_start(info, text)
    return info if _WITHOUT_LENGTH.isdisjoint(formats) else replace(info, duration=None)


def _from_its_start(info: MediaInfo, description: str) -> MediaInfo:
    """Lengths from the first picture or sound on, which is where decoding begins."""
    found = _START.search(description)
    start = float(found[1]) if found else 0.0
    if start < _LATE:
        return info

    def left(seconds: float | None) -> float | None:
        return None if seconds is None else max(seconds - start, 0.0)

    return replace(
        info,
        duration=left(info.duration),
        videos=tuple(replace(stream, duration=left(stream.duration)) for stream in info.videos),
        audios=tuple(replace(stream, duration=left(stream.duration)) for stream in info.audios),
    )


def file_url(path: str | Path) -> str:
    """A path such that FFmpeg takes no part of it for an option or a protocol."""
    return f"file:{Path(path).absolute()}"


def parse_description(text: str) -> MediaInfo:
    """Reads what ``ffmpeg -i FILE`` prints about its input."""
    duration: float | None = None
    videos: list[VideoStream] = []
    audios: list[AudioStream] = []
    unusable: list[str] = []
    count = 0
    latest = ""
    for line in text.splitlines():
        if match := _DURATION.match(line):
            duration = _seconds(match)
        elif match := _STREAM.match(line):
            count += 1
            # details of a stream follow its line, indented; they are read only if the stream was taken
            latest = ""
            index, kind, rest = int(match["index"]), match["kind"], match["rest"]
            if kind == "Video" and "(attached pic)" not in rest:
                if video := _parse_video(index, rest):
                    videos.append(video)
                    latest = kind
                else:
                    unusable.append(f"video stream {index} ({_codec(rest)})")
            elif kind == "Audio":
                if audio := _parse_audio(index, rest):
                    audios.append(audio)
                    latest = kind
                else:
                    unusable.append(f"audio stream {index} ({_codec(rest)})")
        elif match := _STREAM_DURATION.match(line):
            if latest == "Video":
                videos[-1] = replace(videos[-1], duration=_seconds(match))
            elif latest == "Audio":
                audios[-1] = replace(audios[-1], duration=_seconds(match))
        elif latest == "Video" and (match := _ROTATION.search(line)):
            videos[-1] = _rotated(videos[-1], float(match[1]))
    return MediaInfo(duration, tuple(videos), tuple(audios), count, tuple(unusable))


def _parse_video(index: int, rest: str) -> VideoStream | None:
    codec = _codec(rest)
    size = _SIZE.search(rest)
    if codec in ("", "none", "unknown") or size is None or "0" in size.groups():
        return None
    rate = _RATE.search(rest)
    pixel_format = re.split(r"[(,]", rest.split(", ", 1)[-1], maxsplit=1)[0]
    return VideoStream(
        index,
        codec,
        width=int(size[1]),
        height=int(size[2]),
        rate=float(rate[1]) * (1000 if rate[2] else 1) if rate else None,
        pixel_format=pixel_format,
    )


def _parse_audio(index: int, rest: str) -> AudioStream | None:
    codec = _codec(rest)
    rate = _SAMPLE_RATE.search(rest)
    if codec in ("", "none", "unknown") or rate is None or int(rate[1]) == 0:
        return None
    return AudioStream(index, codec, sample_rate=int(rate[1]), channels=rate[2] or "unknown")


def _codec(rest: str) -> str:
    return re.split(r"[ ,]", rest, maxsplit=1)[0]


def _rotated(stream: VideoStream, degrees: float) -> VideoStream:
    if round(degrees / 90) % 2 == 0:
        return replace(stream, rotation=degrees)
    return replace(stream, rotation=degrees, width=stream.height, height=stream.width)


def _seconds(match: re.Match[str]) -> float:
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])


def _cause(text: str) -> str:
    """FFmpeg's first complaint, without its addresses."""
    lines = [re.sub(r"^\[[^]]*\] ", "", line).strip() for line in text.splitlines()]
    # what it takes the file for, and that it could not be opened, is known already
    return next((line for line in lines if line and not _NO_CAUSE.search(line)), "no reason given")


_NO_CAUSE = re.compile(r"^Error opening|detected only with low score")
