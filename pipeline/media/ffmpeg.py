"""Which FFmpeg is used."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache

import imageio_ffmpeg

from pipeline.errors import InputError

OLDEST = (5, 1)
"""The first version that knows all options that are used here."""


@cache
def ffmpeg_binary() -> str:
    """The path of ``ffmpeg``: the system's if it is recent enough, else the one in imageio-ffmpeg's wheel.

    Raises:
        InputError: there is neither.
    """
    system = shutil.which("ffmpeg")
    if system is not None and _is_recent(system):
        return system
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        raise InputError(
            "no ffmpeg of version 5.1 or newer: neither on PATH nor in the imageio-ffmpeg wheel for this platform; "
            "install FFmpeg"
        ) from None


def check_ffmpeg() -> None:
    """Says that FFmpeg cannot be run before every video does; raises :class:`InputError`."""
    binary = ffmpeg_binary()
    try:
        subprocess.run([binary, "-version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(f"{binary}: FFmpeg cannot be run ({error}); install it, or unset IMAGEIO_FFMPEG_EXE") from None


def without_addresses(text: str) -> str:
    """A message of FFmpeg's without the addresses of its objects, which differ each time."""
    return re.sub(r" @ 0x[0-9a-f]+", "", text)


def _is_recent(binary: str) -> bool:
    try:
        described = subprocess.run([binary, "-version"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    version = re.match(r"ffmpeg version n?(\d+)\.(\d+)", described)
    # builds between releases are named by a commit, and nobody keeps them for years
    return version is None or (int(version[1]), int(version[2])) >= OLDEST
