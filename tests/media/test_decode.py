import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from pipeline.media.decode import FrameFormat, decode
from pipeline.media.errors import MediaError
from tests.media.clips import H264, make, pictures, tone

FORMATS = {"2d": FrameFormat(rate=1, size=64), "3d": FrameFormat(rate=24, size=32, crop=True)}


def decode_all(path: Path, audio: bool = True, **kwargs: object) -> dict[str, np.ndarray]:
    chunks = defaultdict(list)
    for name, chunk in decode(path, FORMATS, audio, timeout=60, **kwargs):
        chunks[name].append(chunk)
    return {name: np.concatenate(parts) for name, parts in chunks.items()}


def test_frames_and_sound_of_one_decode(tmp_path: Path) -> None:
    video = make(tmp_path / "v.mp4", *pictures(3), *tone(3), *H264, "-c:a", "aac")
    outputs = decode_all(video)
    assert outputs["2d"].shape == (3, 64, 85, 3) and outputs["2d"].dtype == np.uint8
    assert outputs["3d"].shape == (72, 32, 32, 3)
    assert outputs["audio"].dtype == np.int16
    assert abs(len(outputs["audio"]) - 48_000) < 1100  # a frame of AAC more or less
    spectrum = np.abs(np.fft.rfft(outputs["audio"][8000:24000].astype(float)))
    assert abs(int(spectrum.argmax()) - 440) <= 1


def test_each_frame_is_the_one_of_its_second(tmp_path: Path) -> None:
    # second 0 red, second 1 green, second 2 blue
    colours = [argument for name in ("red", "lime", "blue") for argument in pictures(1, source=f"color={name}")]
    colours = [argument.replace("=duration", ":duration", 1) for argument in colours]
    video = make(tmp_path / "v.mp4", *colours, "-filter_complex", "concat=n=3", *H264)
    outputs = decode_all(video)
    assert outputs["2d"].mean(axis=(1, 2)).argmax(axis=1).tolist() == [0, 1, 2]
    assert outputs["3d"].mean(axis=(1, 2)).argmax(axis=1).tolist() == [0] * 24 + [1] * 24 + [2] * 24


def test_memory_is_bounded_by_the_chunk(tmp_path: Path) -> None:
    video = make(tmp_path / "v.mp4", *pictures(8), *tone(8), *H264)
    sizes = [chunk.nbytes for _, chunk in decode(video, FORMATS, True, timeout=60)]
    assert max(sizes) <= 2 << 20


def test_a_missing_modality_gives_no_chunk(tmp_path: Path) -> None:
    assert set(decode_all(make(tmp_path / "v.mp4", *pictures(1), *H264))) == {"2d", "3d"}
    assert set(decode_all(make(tmp_path / "a.m4a", *tone(1)))) == {"audio"}
    with pytest.raises(MediaError, match="neither pictures nor sound") as caught:
        decode_all(make(tmp_path / "b.m4a", *tone(1)), audio=False)
    assert caught.value.reason == "unsupported"


def test_a_file_that_takes_too_long_is_a_timeout(tmp_path: Path) -> None:
    video = make(tmp_path / "v.mp4", *pictures(20), *H264)
    decoding = decode(video, FORMATS, True, timeout=2)
    next(decoding)
    time.sleep(2)  # the caller's own work counts, and 18 MB of frames do not fit into the pipes meanwhile
    with pytest.raises(MediaError) as caught:
        list(decoding)
    assert caught.value.reason == "timeout"


def test_a_decoding_that_is_given_up_leaves_no_process(tmp_path: Path) -> None:
    video = make(tmp_path / "v.mp4", *pictures(20), *H264)
    before = set(Path("/proc/self/fd").iterdir())
    decoding = decode(video, FORMATS, True, timeout=60)
    next(decoding)
    decoding.close()
    assert set(Path("/proc/self/fd").iterdir()) == before
    with pytest.raises(StopIteration):
        next(decoding)


DECODE_AND_WAIT = """
import sys, time
from pathlib import Path
from pipeline.media.decode import FrameFormat, decode

decoding = decode(sys.argv[1], {"2d": FrameFormat(25, 224)}, False, 60)
next(decoding)
print(*(children.read_text() for children in Path("/proc/self/task").glob("*/children")), flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for the process in /proc")
def test_a_killed_process_leaves_no_ffmpeg_behind(tmp_path: Path) -> None:
    video = make(tmp_path / "v.mp4", *pictures(30), *H264)
    with subprocess.Popen([sys.executable, "-c", DECODE_AND_WAIT, str(video)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = Path("/proc") / process.stdout.readline().decode().split()[0]
        assert "ffmpeg" in (child / "cmdline").read_text()
        process.kill()
    deadline = time.monotonic() + 20
    while child.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.exists() or "Z" in (child / "stat").read_text()
