import subprocess

import pytest

from pipeline.config import DownloadSettings
from pipeline.media.ffmpeg import ffmpeg_binary


@pytest.fixture(scope="session")
def video_file(tmp_path_factory):
    """A video of 3 s with pictures and sound, about 200 kB."""
    path = tmp_path_factory.mktemp("video") / "made.mp4"
    sources = ["-f", "lavfi", "-i", "testsrc2=size=160x120:rate=10", "-f", "lavfi", "-i", "sine=frequency=440"]
    coding = ["-c:v", "libx264", "-preset", "ultrafast", "-qp", "10", "-c:a", "aac", "-movflags", "+faststart"]
    command = [ffmpeg_binary(), "-v", "error", *sources, "-t", "3", *coding, str(path)]
    subprocess.run(command, check=True, timeout=60)
    return path


@pytest.fixture
def corpus(tmp_path, video_file):
    """A folder to serve, with videos a0 ... a9."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(10):
        (folder / f"a{number}.mp4").write_bytes(video_file.read_bytes())
    return folder


@pytest.fixture
def quick():
    """Settings that do not wait."""
    return DownloadSettings(timeout=1.0, backoff=0.01, pause=0.01)
