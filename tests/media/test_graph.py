import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.media.decode import decode
from pipeline.media.ffmpeg import ffmpeg_binary
from pipeline.media.graph import FrameFormat
from tests.media.clips import LOSSLESS, make, pictures


def published(path: Path, width: int, height: int, size: int) -> np.ndarray:
    """A second's first frame, scaled as a whole and cropped behind that, in one step from the file's planes to RGB."""
    x, y = (width - size) // 2, (height - size) // 2
    chain = f"fps=1,scale={width}:{height},crop={size}:{size}:{x}:{y}"
    command = [
        ffmpeg_binary(),
        "-v",
        "error",
        "-i",
        str(path),
        "-vf",
        chain,
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    pixels = subprocess.run(command, check=True, capture_output=True).stdout
    return np.frombuffer(pixels, np.uint8).reshape(-1, size, size, 3)


@pytest.mark.parametrize(
    ("original", "size", "whole"),
    [
        ("426x240", 112, (198, 112)),
        ("320x240", 224, (298, 224)),
        ("640x360", 224, (398, 224)),
        ("640x360", 112, (199, 112)),
        ("240x426", 112, (112, 198)),
    ],
)
def test_the_square_in_the_middle_is_where_the_published_way_cuts_it(
    tmp_path: Path, original: str, size: int, whole: tuple[int, int]
) -> None:
    video = make(tmp_path / "v.mkv", *pictures(2, original), "-vf", "gblur=sigma=4", *LOSSLESS, "-pix_fmt", "yuv420p")
    frame_format = FrameFormat(rate=1, size=size, crop=True)
    assert frame_format.whole_size(*map(int, original.split("x"))) == whole
    chunks = [chunk for _, chunk in decode(video, {"frames": frame_format}, False, timeout=60)]
    ours, theirs = np.concatenate(chunks), published(video, *whole, size)
    assert ours.shape == theirs.shape
    here, left, right = (np.abs(ours.astype(float) - np.roll(theirs, shift, axis=2)).mean() for shift in (0, -1, 1))
    assert here < 0.5 * min(left, right)


def test_published_sizes() -> None:
    whole = FrameFormat(rate=1, size=224)
    assert whole.scaled_size(426, 240) == (397, 224) and whole.scaled_size(240, 426) == (224, 397)
    assert whole.scaled_size(100, 100) == (224, 224)
    assert FrameFormat(rate=24, size=112, crop=True).scaled_size(426, 240) == (112, 112)
