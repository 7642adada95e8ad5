"""The choice of a format, and pictures and sound that come apart."""

import subprocess
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import yt_dlp

from pipeline.acquire.client import Downloader
from pipeline.acquire.layout import find_video, unfinished_files
from pipeline.acquire.options import Log, client_options
from pipeline.acquire.site import Site
from pipeline.acquire.transfer import Transfer
from pipeline.config import DownloadSettings
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


def pictures(name, height, width, size, **more):
    """A format as YouTube's are described, without sound."""
    codecs = {"vcodec": "avc1", "acodec": "none"}
    return {"format_id": name, "ext": "mp4", "height": height, "width": width, "filesize": size, **codecs, **more}


def sound(name, rate, size, preference=-1):
    language = {"language_preference": preference}
    return {
        "format_id": name,
        "ext": "m4a",
        "vcodec": "none",
        "acodec": "mp4a",
        "abr": rate,
        "filesize": size,
        **language,
    }


WIDE = [
    pictures("160", 144, 256, 7),
    pictures("133", 240, 426, 15),
    pictures("395", 240, 426, 9),
    pictures("134", 360, 640, 30),
]
BOTH = pictures("18", 360, 640, 40, acodec="mp4a")
SOUNDS = [sound("599", 31, 2), sound("139", 49, 5), sound("140", 129, 13)]


@pytest.mark.parametrize(
    ("formats", "chosen"),
    [
        ([*WIDE, *SOUNDS, BOTH], "395+139"),
        ([pictures("160", 256, 144, 7), pictures("133", 426, 240, 15), *SOUNDS], "133+139"),  # upright
        ([pictures("133", 178, 426, 15), pictures("134", 268, 640, 30), *SOUNDS], "134+139"),  # wide as a film
        ([pictures("160", 106, 256, 7), pictures("133", 178, 426, 15), *SOUNDS], "133+139"),  # none is large enough
        ([*WIDE, sound("en", 49, 5, 10), sound("de", 49, 4), sound("en-desc", 49, 3, -10)], "395+en"),  # dubbed
        ([*WIDE, sound("139", 20, 2)], "395+139"),  # nearly silent
        ([BOTH, pictures("22", 720, 1280, 90, acodec="mp4a")], "18"),
        (
            [
                pictures(n, h, w, None, acodec="mp4a", protocol="m3u8_native")
                for n, h, w in (("91", 144, 256), ("92", 240, 426))
            ],
            "92",
        ),
        ([*WIDE], "395"),
        ([{"format_id": "0", "ext": "mp4"}], "0"),
    ],
)
def test_which_formats(formats, chosen):
    settings = DownloadSettings()
    client = yt_dlp.YoutubeDL(client_options(settings, Transfer(settings, lambda _: None), Log()))
    page = {"id": "x", "title": "x", "extractor": "test", "extractor_key": "Test", "webpage_url": "http://h/"}
    listed = [{**one, "url": f"http://h/{one['format_id']}"} for one in formats]
    assert client.process_ie_result({**page, "formats": listed}, download=False)["format_id"] == chosen


def test_a_damaged_track_of_an_earlier_run_is_fetched_again(tmp_path, tracks, quick, monkeypatch):
    names = ("240.mp4", "sound.m4a")
    with Mirror(tracks) as mirror:
        (tmp_path / "a0").mkdir()
        (tmp_path / "a0" / ".a0~.f240.mp4.mp4").write_bytes(b"not a track")
        row, found = fetch(tmp_path, mirror, quick, monkeypatch, names)
    assert row.attempts == 2 and found.video.height == 240 and found.audio is not None


@pytest.fixture(scope="module")
def stream(tmp_path_factory, video_file):
    """An HLS playlist of pieces of a second."""
    folder = tmp_path_factory.mktemp("hls")
    coding = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "10", "-hls_time", "1", "-hls_list_size", "0"]
    command = [ffmpeg_binary(), "-v", "error", "-i", str(video_file), *coding, str(folder / "v.m3u8")]
    subprocess.run(command, check=True, timeout=60)
    return folder


def test_a_stream_of_pieces(tmp_path, stream, quick):
    with Mirror(stream, {"v1.ts": Fault("status", times=1)}) as mirror:
        quick.template = mirror.url + "/v.m3u8?{video_id}"
        row = Downloader(quick, tmp_path).fetch(Video("a0"))
        assert (row.outcome, row.attempts, mirror.requests["v0.ts"]) == ("done", 2, 1), row
    pieces = b"".join(path.read_bytes() for path in sorted(stream.glob("*.ts")))
    assert find_video(tmp_path, "a0").name == "a0.ts" and find_video(tmp_path, "a0").read_bytes() == pieces


@pytest.mark.parametrize("status", [404, 403])
def test_a_stream_without_one_of_its_pieces_does_not_count(tmp_path, stream, quick, status):
    with Mirror(stream, {"v1.ts": Fault("status", status=status)}) as mirror:
        quick.template, quick.attempts = mirror.url + "/v.m3u8?{video_id}", 2
        row = Downloader(quick, tmp_path).fetch(Video("a0"))
        assert (row.outcome, row.reason) == ("failed", "forbidden" if status == 403 else "network"), row.message
        assert mirror.requests["v1.ts"] == 2 and unfinished_files(tmp_path, "a0")
        mirror.faults.clear()
        assert Downloader(quick, tmp_path).fetch(Video("a0")).outcome == "done" and mirror.requests["v0.ts"] == 1


@pytest.mark.parametrize(("header", "least"), [("110", 110), ("date", 60), ("soon", 0)])
def test_what_the_server_asks_for_is_waited(tmp_path, tracks, quick, header, least):
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=110), usegmt=True)
    waits = []
    fault = Fault("status", times=1, retry_after=until if header == "date" else header)
    with Mirror(tracks, {"both.mp4": fault}) as mirror:
        quick.template = mirror.url + "/{video_id}.mp4"
        assert Downloader(quick, tmp_path, sleep=waits.append).fetch(Video("both")).outcome == "done"
    assert len(waits) == 1 and least <= waits[0] <= 111
