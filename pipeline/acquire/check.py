"""Whether a file that came in is a whole video."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

from pipeline.acquire.reasons import Failure
from pipeline.media.errors import MediaError
from pipeline.media.ffmpeg import ffmpeg_binary
from pipeline.media.probe import probe

TIMEOUT = 120.0
"""Seconds for decoding the two ends."""
_PAGE_STARTS = (b"<!doctype", b"<html", b"<head", b"<?xml", b"{", b"[")


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
    return _decode_both_ends(path)


def _decode_both_ends(path: Path) -> Failure | None:
    source = f"file:{path}"
    ends = ["-t", "1", "-i", source, "-sseof", "-1", "-i", source, "-map", "0:v:0", "-map", "1:v:0"]
    # one line per decoded picture tells more than the exit code: FFmpeg calls a cut file's lack of an end no error
    command = [ffmpeg_binary(), "-v", "error", "-nostdin", "-threads", "1", *ends, "-f", "framecrc", "pipe:1"]
    try:
        run = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return Failure("corrupt", f"its first and last second could not be decoded within {TIMEOUT:.0f} s")
    pictures = Counter(line.partition(b",")[0] for line in run.stdout.splitlines() if not line.startswith(b"#"))
    if pictures[b"0"] and pictures[b"1"]:
        return None
    complaint = " ".join(run.stderr.decode("utf-8", "replace").replace(source, path.name).split())[:300]
    if not pictures and _has_sound_only(path):
        return Failure("unsupported", "there is sound in it but no picture")
    where = "last" if pictures[b"0"] else "first"
    return Failure("corrupt", f"no picture in its {where} second{': ' if complaint else ''}{complaint}")


def _has_sound_only(path: Path) -> bool:
    try:
        streams = probe(path)
    except MediaError:
        return False
    return streams.video is None and streams.audio is not None


def container_of(path: Path) -> str:
    """The ending that a video's first bytes call for, ``mp4`` where they say nothing."""
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "webm" if b"webm" in head else "mkv"
    if head.startswith(b"RIFF"):
        return "avi"
    return "flv" if head.startswith(b"FLV") else "mp4"
