from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import pytest

from pipeline.errors import InputError
from pipeline.media.ffmpeg import ffmpeg_binary


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    ffmpeg_binary.cache_clear()
    yield
    ffmpeg_binary.cache_clear()


def on_path(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> str:
    path = folder / "ffmpeg"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return str(path)


@pytest.mark.parametrize("version", ["5.1.6-0+deb12u1", "6.0", "n9.0.2-17-g2a571b6068", "N-118000-gdeadbeef", "10.0"])
def test_the_systems(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = on_path(tmp_path, f"echo 'ffmpeg version {version} Copyright'", monkeypatch)
    assert ffmpeg_binary() == path


@pytest.mark.parametrize(
    "script", ["echo 'ffmpeg version 4.4.2-0ubuntu0.22.04.1'", "echo 'ffmpeg version 5.0'", "exit 1"]
)
def test_one_that_is_too_old_or_broken_is_passed_over(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path(tmp_path, script, monkeypatch)
    assert ffmpeg_binary() == imageio_ffmpeg.get_ffmpeg_exe()


def test_none_at_all_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise RuntimeError("no ffmpeg exe could be found")

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(InputError, match="install FFmpeg"):
        ffmpeg_binary()
