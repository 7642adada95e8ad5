"""What counts as a whole video, by files that players show to the end."""

import subprocess

import pytest

from pipeline.acquire import check
from pipeline.acquire.check import check_video, container_of
from pipeline.acquire.reasons import is_temporary
from pipeline.media.ffmpeg import ffmpeg_binary

PICTURES = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=10"]
SOUND = ["-f", "lavfi", "-i", "sine=frequency=440"]


@pytest.fixture
def make(tmp_path):
    def run(name, *options):
        path = tmp_path / name
        subprocess.run([ffmpeg_binary(), "-v", "error", *options, str(path)], check=True, timeout=60)
        return path

    return run


def test_a_stream_without_an_index_has_its_key_pictures_far_apart(make):
    path = make("a.ts", *PICTURES, *SOUND, "-t", "6", "-c:v", "libx264", "-preset", "ultrafast", "-g", "30")
    assert check_video(path) is None and container_of(path) == "ts"
    whole = path.read_bytes()
    path.write_bytes(whole[:200_000] + bytes(255 - byte for byte in whole[200_000:]))
    assert check_video(path).reason == "corrupt"
    program = make("a.mpg", *PICTURES[:-1], "testsrc2=size=64x48:rate=25", "-t", "6", "-c:v", "mpeg1video", "-g", "100")
    assert check_video(program) is None


def test_a_still_picture_that_ends_before_the_sound(make):
    path = make("a.mp4", "-t", "2", *PICTURES, "-t", "8", *SOUND, "-c:v", "libx264", "-preset", "ultrafast")
    assert check_video(path) is None


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm"])
def test_a_cut_file_is_damaged_also_where_its_header_is_whole(make, name):
    options = {"a.webm": ["-c:v", "libvpx"]}.get(name, ["-c:v", "libx264", "-preset", "ultrafast"])
    fast = ["-movflags", "+faststart"] if name == "a.mp4" else []
    path = make(name, "-t", "2", *PICTURES, "-t", "8", *SOUND, *options, *fast)
    whole = path.read_bytes()
    for share in (0.5, 0.8):
        path.write_bytes(whole[: int(share * len(whole))])
        failure = check_video(path)
        assert failure.reason == "corrupt"
        assert "@ 0x" not in failure.message  # FFmpeg names objects by their addresses, which differ each time


@pytest.mark.parametrize(("script", "reason"), [("kill -9 $$", "unknown"), ("sleep 5", "timeout")])
def test_an_ffmpeg_that_is_killed_or_slow_says_nothing_of_the_file(make, tmp_path, monkeypatch, script, reason):
    path = make("a.mp4", "-t", "2", *PICTURES, "-c:v", "libx264")
    binary = tmp_path / "ffmpeg"
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o755)
    monkeypatch.setattr(check, "ffmpeg_binary", lambda: str(binary))
    monkeypatch.setattr(check, "TIMEOUT", 0.3)
    failure = check_video(path)
    assert failure.reason == reason
    assert is_temporary(failure.reason)
