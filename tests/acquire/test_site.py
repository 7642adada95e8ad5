"""The choice of a format, and pictures and sound that come apart."""

import subprocess

import pytest

from pipeline.acquire.client import Downloader
from pipeline.acquire.layout import find_video
from pipeline.acquire.site import Site
from pipeline.demo.mirror import Fault, Mirror
from pipeline.media.ffmpeg import ffmpeg_binary
from pipeline.media.probe import probe
from pipeline.types import Video

HEIGHTS = (144, 240, 480)


@pytest.fixture(scope="module")
def tracks(tmp_path_factory, video_file):
    """Pictures of three sizes without sound, sound alone, and one file with both."""
    folder = tmp_path_factory.mktemp("tracks")

    def ffmpeg(*options):
        subprocess.run([ffmpeg_binary(), "-v", "error", "-i", str(video_file), *map(str, options)], check=True)

    for height in HEIGHTS:
        ffmpeg("-an", "-vf", f"scale=-2:{height}", "-c:v", "libx264", "-preset", "ultrafast", folder / f"{height}.mp4")
    ffmpeg("-vn", "-c:a", "copy", folder / "sound.m4a")
    ffmpeg("-vf", "scale=-2:360", "-c:v", "libx264", "-preset", "ultrafast", folder / "both.mp4")
    return folder


def fetch(folder, mirror, quick, monkeypatch, names):
    """As a site's extractor would describe these tracks."""

    def describe(name):
        path = mirror.folder / name
        one = {
            "format_id": name,
            "url": f"{mirror.url}/{name}",
            "ext": path.suffix[1:],
            "filesize": path.stat().st_size,
        }
        height = {"both.mp4": 360}.get(name) or (int(path.stem) if path.stem.isdigit() else None)
        pictures = {"vcodec": "avc1", "height": height, "width": 4 * (height or 0) // 3}
        sound = {"acodec": "mp4a", "abr": 64}
        if name == "sound.m4a":
            return {**one, **sound, "vcodec": "none"}
        return {**one, **pictures, **(sound if name == "both.mp4" else {"acodec": "none"})}

    def ask(site, video, url):
        page = {"id": "x", "title": "x", "extractor": "test", "extractor_key": "Test", "webpage_url": url}
        return site._client.process_ie_result({**page, "formats": list(map(describe, names))}, download=False)

    monkeypatch.setattr(Site, "_ask", ask)
    quick.template = mirror.url + "/{video_id}"
    row = Downloader(quick, folder).fetch(Video("a0"))
    assert row.outcome == "done", row.message
    return row, probe(find_video(folder, "a0"))


def test_the_smallest_pictures_that_serve_are_put_together_with_the_sound(tmp_path, tracks, quick, monkeypatch):
    names = ("480.mp4", "240.mp4", "144.mp4", "sound.m4a")
    with Mirror(tracks) as mirror:
        row, found = fetch(tmp_path, mirror, quick, monkeypatch, names)
        assert set(mirror.requests) == {"240.mp4", "sound.m4a"}
    assert found.video.height == 240 and found.audio is not None
    assert row.bytes == sum((tracks / name).stat().st_size for name in ("240.mp4", "sound.m4a"))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a0.mp4"]


def test_a_cut_track_is_continued(tmp_path, tracks, quick, monkeypatch):
    size = (tracks / "240.mp4").stat().st_size
    with Mirror(tracks, {"240.mp4": Fault("cut", times=1, after=size // 2)}) as mirror:
        row, found = fetch(tmp_path, mirror, quick, monkeypatch, ("240.mp4", "sound.m4a"))
        assert mirror.tally.log[1][1:] == ("240.mp4", f"bytes={size // 2}-")
    assert row.attempts == 2 and found.audio is not None


@pytest.mark.parametrize(
    ("names", "height", "sound"),
    [
        (("480.mp4", "both.mp4"), 360, True),  # sound rather than fewer or more lines
        (("144.mp4", "480.mp4"), 480, False),  # no sound anywhere
        (("144.mp4", "sound.m4a"), 144, True),  # too small rather than nothing
    ],
)
def test_what_is_taken_when_not_everything_is_there(tmp_path, tracks, quick, monkeypatch, names, height, sound):
    with Mirror(tracks) as mirror:
        _, found = fetch(tmp_path, mirror, quick, monkeypatch, names)
    assert found.video.height == height and (found.audio is not None) == sound
