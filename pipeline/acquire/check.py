"""Whether a file that came in is a whole video."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO

from pipeline.acquire.reasons import Failure
from pipeline.media.errors import MediaError
from pipeline.media.ffmpeg import ffmpeg_binary, without_addresses
from pipeline.media.probe import probe

TIMEOUT = 120.0
"""Seconds for decoding the two ends."""
FAR = 30.0
"""Seconds of both ends that are decoded where one second does not tell."""
FAR_BYTES = 16_000_000
TS_PACKET, TS_SYNC = 188, b"G"
"""Bytes of a packet of MPEG-TS, and the first of them."""
SLACK = 0.5
"""Seconds by which both tracks may end before the file does."""
_TIME_BASE = re.compile(r"#tb (\d+): (\d+)/(\d+)")
_PAGE_STARTS = (b"<!doctype", b"<html", b"<head", b"<?xml", b"{", b"[")


class _KilledError(Exception):
    """FFmpeg did not come to its end, which tells nothing of the file."""


def check_video(path: Path, expected_bytes: int | None = None) -> Failure | None:
    """What is wrong with a video: its size, what kind of file it is, its first and its last second, decoded.

    Args:
        path: the file.
        expected_bytes: its size as the server announced it; None: not known.

    Returns:
        None when nothing is.
    """
    size = path.stat().st_size
    if expected_bytes is not None and size != expected_bytes:
        return Failure("corrupt", f"{size} bytes instead of the announced {expected_bytes}")
    with path.open("rb") as file:
        head = file.read(512).lstrip().lower()
    if head.startswith(_PAGE_STARTS):
        return Failure("unsupported", "the server sent a web page or a message in place of the video")
    if not _ends_in_its_packets(path, size):
        return Failure("corrupt", "its last bytes are no packet of its stream")
    return _decode_both_ends(path)


def _decode_both_ends(path: Path) -> Failure | None:
    try:
        times, complaint = _decode(path, _ends(path, 1.0, 1.0))
        if (times[0] and times[1]) or _reaches_its_end(path):
            return None
    except subprocess.TimeoutExpired:
        return Failure("timeout", f"its first and last second could not be decoded within {TIMEOUT:.0f} s")
    except _KilledError as error:
        return Failure("unknown", str(error))
    if not (times[0] or times[1]) and _has_sound_only(path):
        return Failure("unsupported", "there is sound in it but no picture")
    where = "last" if times[0] else "first"
    return Failure("corrupt", f"no picture in its {where} second{': ' if complaint else ''}{complaint}")


def _reaches_its_end(path: Path) -> bool:
    """Whether a file in whose first or last second no picture is found is whole all the same.

    A stream without an index (MPEG-TS) cannot be entered between two key pictures, and of a still picture that is
    shown to the end the last seconds hold sound alone. So more of the file is decoded, and held against its packets:
    they must go on to the announced end, and the pictures to the last of their packets.
    """
    try:
        duration = probe(path).duration
    except MediaError:
        return False
    packets = ["-map", "1:v:0", "-map", "1:a:0?", "-c:v:2", "copy", "-copyinkf:v:2", "-c:a", "copy"]
    if duration is None:
        # such as a stream for broadcast, which begins anew with every packet: its last bytes stand for themselves
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - FAR_BYTES, 0))
            times, _ = _decode(path, [*_ends(path, FAR, None, "pipe:0"), *packets], file)
            whole = True
    else:
        tail = min(duration, FAR)
        times, _ = _decode(path, [*_ends(path, FAR, tail if tail < duration else None), *packets])
        whole = max([*times[2], *times[3], 0.0]) > tail - SLACK
    return bool(whole and times[0] and times[1] and times[2]) and max(times[1]) > max(times[2]) - 1


def _ends_in_its_packets(path: Path, size: int) -> bool:
    """Whether the last whole packet of a stream begins as all do; FFmpeg would not miss what is no packet."""
    if container_of(path) != "ts":
        return True
    with path.open("rb") as file:
        file.seek((size // TS_PACKET - 1) * TS_PACKET)
        return file.read(1) == TS_SYNC


def _ends(path: Path, head: float, tail: float | None, rest: str | None = None) -> list[str]:
    """FFmpeg's arguments for the first and the last seconds of the pictures; None: all of them, or of the ``rest``."""
    source = f"file:{path}"
    late = [] if tail is None else ["-sseof", f"-{tail}"]
    return ["-t", f"{head}", "-i", source, *late, "-i", rest or source, "-map", "0:v:0", "-map", "1:v:0"]


def _decode(
    path: Path, arguments: Sequence[str], rest: IO[bytes] | int = subprocess.DEVNULL
) -> tuple[defaultdict[int, list[float]], str]:
    """Seconds up to which each picture or packet of each output lasts, and FFmpeg's complaints."""
    # one line per decoded picture tells more than the exit code: FFmpeg calls a cut file's lack of an end no error
    command = [ffmpeg_binary(), "-v", "error", "-nostdin", "-threads", "1", *arguments, "-f", "framecrc", "pipe:1"]
    run = subprocess.run(command, capture_output=True, stdin=rest, timeout=TIMEOUT)
    if run.returncode < 0:
        raise _KilledError(
            f"FFmpeg was killed by signal {-run.returncode} while it checked the file; too little memory?"
        )
    units: dict[int, Fraction] = {}
    times: defaultdict[int, list[float]] = defaultdict(list)
    for line in run.stdout.decode("ascii", "replace").splitlines():
        if match := _TIME_BASE.match(line):
            units[int(match[1])] = Fraction(int(match[2]), int(match[3]))
        elif not line.startswith("#"):
            stream, _, begin, length, *_ = map(str.strip, line.split(","))
            times[int(stream)].append(float((int(begin) + int(length)) * units[int(stream)]))
    complaint = without_addresses(run.stderr.decode("utf-8", "replace")).replace(f"file:{path}", path.name)
    return times, " ".join(complaint.split())[:300]


def _has_sound_only(path: Path) -> bool:
    try:
        streams = probe(path)
    except MediaError:
        return False
    return streams.video is None and streams.audio is not None


def container_of(path: Path) -> str:
    """The ending that a video's first bytes call for, ``mp4`` where they say nothing."""
    with path.open("rb") as file:
        head = file.read(256)
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "webm" if b"webm" in head else "mkv"
    if head.startswith(b"RIFF"):
        return "avi"
    if head[:1] == head[TS_PACKET : TS_PACKET + 1] == TS_SYNC:
        return "ts"
    return "flv" if head.startswith(b"FLV") else "mp4"
