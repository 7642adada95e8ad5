"""Which FFmpeg is used."""

from __future__ import annotations

import shutil
from functools import cache

import imageio_ffmpeg

from pipeline.errors import InputError


@cache
def ffmpeg_binary() -> str:
    """The path of ``ffmpeg``: the system's, else the one in imageio-ffmpeg's wheel.

    Raises:
        InputError: there is neither.
    """
    system = shutil.which("ffmpeg")
    if system is not None:
        return system
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        raise InputError(
            "no ffmpeg: neither on PATH nor in the imageio-ffmpeg wheel for this platform; install FFmpeg 5.1 or newer"
        ) from None
