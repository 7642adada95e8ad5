from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.media.errors import MediaError
from pipeline.media.probe import MediaInfo, parse_description, probe
from tests.media.clips import H264, make, pictures, tone

PHONE = """Input #0, mov,mp4,m4a,3gp,3g2,mj2, from 'phone: the "best", 640x480.mp4':
  Metadata:
    major_brand     : mp42
    title           : Stream #0:9: Video: h264, yuv420p, 1x1, 1 fps
  Duration: 01:02:03.50, start: -0.021333, bitrate: 17143 kb/s
  Stream #0:0[0x1](und): Video: h264 (High) (avc1 / 0x31637661), yuv420p(tv, bt709, progressive), \
1920x1080 [SAR 1:1 DAR 16:9], 16886 kb/s, 29.97 fps, 30 tbr, 90k tbn (default)
    Metadata:
      handler_name    : VideoHandle
    Side data:
      displaymatrix: rotation of -90.00 degrees
  Stream #0:1[0x2](eng): Audio: aac (LC) (mp4a / 0x6134706D), 48000 Hz, stereo, fltp, 256 kb/s (default)
  Stream #0:2[0x3](und): Data: none (mebx / 0x7862656D), 0 kb/s (default)
At least one output file must be specified
"""

OLD = """Input #0, matroska,webm, from 'old.mkv':
  Duration: N/A, start: 0.000000, bitrate: N/A
    Stream #0:0(eng): Audio: vorbis, 44100 Hz, 5.1(side), fltp (default)
    Metadata:
      DURATION        : 00:00:10.500000000
    Stream #0:1: Video: vp9 (Profile 0), yuv420p(tv), 320x240, SAR 4:3 DAR 16:9, 1k fps, 1k tbr, 1k tbn, 1k tbc
    Metadata:
      DURATION        : 00:00:09.250000000
    Stream #0:2: Video: mjpeg (Baseline), yuvj444p(pc, bt470bg/unknown/unknown), 600x600, 90k tbn (attached pic)
"""

BROKEN = """Input #0, mpegts, from 'broken.ts':
  Duration: 00:00:02.00, start: 1.400000, bitrate: 310 kb/s
  Program 1
  Stream #0:0[0x100]: Video: none ([27][0][0][0] / 0x001B), none, 0x0, 25 fps, 25 tbr, 90k tbn
  Stream #0:1[0x101](und): Audio: aac ([15][0][0][0] / 0x000F), 0 channels, fltp
  Stream #0:2[0x102](und): Audio: mp2 ([3][0][0][0] / 0x0003), 32000 Hz, mono, fltp, 64 kb/s
"""


def test_a_phones_video() -> None:
    info = parse_description(PHONE)
    assert info.duration == 3723.5 and info.stream_count == 3
    assert info.video is not None and info.audio is not None
    assert (info.video.index, info.video.codec, info.video.pixel_format) == (0, "h264", "yuv420p")
    assert (info.video.width, info.video.height, info.video.rotation) == (1080, 1920, -90)
    assert info.video.rate == 29.97
    assert (info.audio.index, info.audio.sample_rate, info.audio.channels) == (1, 48_000, "stereo")


def test_an_older_ffmpegs_words_and_a_cover_picture() -> None:
    info = parse_description(OLD)
    assert info.duration is None and info.stream_count == 3 and len(info.videos) == 1
    assert info.video is not None and info.audio is not None
    assert (info.video.index, info.video.width, info.video.height, info.video.rate) == (1, 320, 240, 1000)
    assert (info.video.duration, info.audio.duration, info.audio.channels) == (9.25, 10.5, "5.1(side)")


def test_streams_without_a_codec_are_named() -> None:
    info = parse_description(BROKEN)
    assert info.video is None and [audio.index for audio in info.audios] == [2]
    assert info.unusable == ("video stream 0 (none)", "audio stream 1 (aac)")


def test_a_made_file(tmp_path: Path) -> None:
    info = probe(make(tmp_path / "v.mkv", *pictures(2, "320x180", 30), *tone(2), *H264))
    assert info.video is not None and info.audio is not None and info.duration == pytest.approx(2, abs=0.1)
    assert (info.video.width, info.video.height, info.video.rate, info.audio.sample_rate) == (320, 180, 30, 16_000)


@pytest.mark.parametrize("content", [b"", b"<html></html>", bytes(5000)])
def test_what_is_no_media_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(content)
    with pytest.raises(MediaError) as caught:
        probe(tmp_path / "v.mp4")
    assert caught.value.reason == "corrupt"


@given(st.text())
def test_any_text_is_read_without_complaint(text: str) -> None:
    assert isinstance(parse_description(text), MediaInfo)


@given(st.integers(1, 9999), st.integers(1, 9999), st.sampled_from([0, 90, -90, 180, 270, 360, 12]))
def test_sizes_are_those_after_rotation(width: int, height: int, degrees: int) -> None:
    text = f"  Stream #0:0: Video: h264 (High), yuv420p, {width}x{height}, 25 fps\n"
    text += f"    Side data:\n      Display Matrix: rotation of {degrees}.00 degrees\n"
    video = parse_description(text).video
    assert video is not None
    turned = degrees in (90, -90, 270)
    assert (video.width, video.height) == ((height, width) if turned else (width, height))
