"""Odd but whole files: of every kind all frames and all sound come out, at the right times."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import VIDEOS, needs_shared
from tests.media.clips import AAC, H264, LOSSLESS, VP8, make, pictures, tone
from tests.media.outcome import Outcome

H265 = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none"]
VP9 = ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"]
BT2020 = ["-color_primaries", "bt2020", "-colorspace", "bt2020nc"]
SURROUND = ["-filter_complex", "[1:a]pan=5.1|FL=c0|FR=c0|FC=c0|LFE=c0|BL=c0|BR=c0[a]", "-map", "0:v", "-map", "[a]"]


def generated(name: str, *arguments: str) -> Callable[[Path], Path]:
    return lambda folder: make(folder / name, *arguments)


WHOLE = {
    "hevc": (generated("v.mp4", *pictures(2), *tone(2), *H265), (2, 48, 2)),
    "hevc 10-bit": (generated("v.mkv", *pictures(2), *H265, "-pix_fmt", "yuv420p10le"), (2, 48, 0)),
    "vp8": (generated("v.webm", *pictures(2), *tone(2), *VP8), (2, 48, 2)),
    "vp9": (generated("v.webm", *pictures(2), *tone(2), *VP9), (2, 48, 2)),
    "h264 10-bit": (generated("v.mp4", *pictures(2), *H264, "-pix_fmt", "yuv420p10le"), (2, 48, 0)),
    "h264 4:4:4": (generated("v.mp4", *pictures(2), *H264, "-pix_fmt", "yuv444p"), (2, 48, 0)),
    "grey": (generated("v.mp4", *pictures(2), *H264, "-pix_fmt", "gray"), (2, 48, 0)),
    "RGB": (generated("v.mkv", *pictures(2), *LOSSLESS, "-pix_fmt", "bgr0"), (2, 48, 0)),
    "mpeg4 and mp3": (generated("v.avi", *pictures(2), *tone(2), "-c:v", "mpeg4", "-c:a", "mp3"), (2, 49, 2.04)),
    "windows media": (
        generated("v.wmv", *pictures(2), *tone(2, 44_100), "-c:v", "wmv2", "-c:a", "wmav2"),
        (2, 49, 2.05),
    ),
    "theora and vorbis": (
        generated("v.ogv", *pictures(2), *tone(2, 44_100), "-c:v", "libtheora", "-c:a", "libvorbis"),
        (2, 48, 2),
    ),
    "telephone": (
        generated("v.3gp", *pictures(2, "176x144", 15), *tone(2, 8000), "-c:v", "h263", *AAC, "-ar", "8000"),
        (2, 48, 2),
    ),
    "transparent": (generated("v.webm", *pictures(2), *VP9, "-pix_fmt", "yuva420p"), (2, 48, 0)),
    "high dynamic range": (
        generated("v.mp4", *pictures(2), *H265, "-pix_fmt", "yuv420p10le", "-color_trc", "smpte2084", *BT2020),
        (2, 48, 0),
    ),
    "pixels that are not square": (generated("v.mp4", *pictures(2), "-vf", "setsar=64/45", *H264), (2, 48, 0)),
    "a clock in a stream of its own": (
        generated("v.mov", *pictures(2), *tone(2), *H264, *AAC, "-timecode", "01:00:00:00"),
        (2, 48, 2),
    ),
    "96 kHz": (generated("v.mkv", *pictures(2), *tone(2, 96_000), *H264, "-c:a", "flac"), (2, 48, 2)),
    "three channels": (
        generated("v.wav", "-f", "lavfi", "-i", "aevalsrc=sin(t*2000)|sin(t*1000)|sin(3000*t):d=2:s=16000"),
        (0, 0, 2),
    ),
    "a cover picture before the video": (lambda folder: with_cover(folder), (2, 48, 2)),
    "cut without encoding anew": (lambda folder: cut_by_an_edit_list(folder), (3, 71, 3)),
    "mpeg2 stream": (generated("v.ts", *pictures(2), *tone(2), "-c:v", "mpeg2video"), (2, 49, 2)),
    "interlaced": (generated("v.ts", *pictures(2), "-c:v", "mpeg2video", "-flags", "+ildct+ilme"), (2, 48, 0)),
    "flash": (generated("v.flv", *pictures(2), *tone(2, 44_100), "-c:v", "flv1"), (2, 49, 2)),
    "no announced duration": (generated("v.webm", *pictures(2), *tone(2), *VP8, "-live", "1"), (2, 48, 2)),
    "no container": (generated("v.h264", *pictures(2), *H264), (2, 48, 0)),
    "fragmented": (
        generated("v.mp4", *pictures(2), *tone(2), *H264, *AAC, "-movflags", "frag_keyframe+empty_moov", "-g", "25"),
        (2, 49, 2.05),
    ),
    "gif": (generated("v.gif", *pictures(2, rate=10)), (2, 48, 0)),
    "picture": (generated("v.png", *pictures(0.04), "-frames:v", "1"), (1, 1, 0)),
    "one frame": (generated("v.mp4", *pictures(0.04), *H264), (1, 1, 0)),
    "one frame, long sound": (generated("v.mp4", *pictures(0.04), *tone(4), *H264, *AAC), (1, 1, 4)),
    "a tenth of a second": (generated("v.mp4", *pictures(0.12), *H264), (1, 3, 0)),
    "5 frames a second": (generated("v.mp4", *pictures(4, rate=5), *H264), (4, 96, 0)),
    "120 frames a second": (generated("v.mp4", *pictures(2, rate=120), *H264), (2, 48, 0)),
    "sound longer": (generated("v.mp4", *pictures(2), *tone(6), *H264, *AAC), (2, 48, 6)),
    "pictures longer": (generated("v.mp4", *pictures(6), *tone(2), *H264, *AAC), (6, 144, 2)),
    "stereo 48 kHz": (generated("v.mp4", *pictures(2), *tone(2, 48_000), *H264, "-ac", "2", *AAC), (2, 48, 2)),
    "5.1": (generated("v.mkv", *pictures(2), *tone(2), *SURROUND, *H264, "-c:a", "ac3"), (2, 48, 2)),
    "8 kHz": (generated("v.wav", *tone(2, 8000)), (0, 0, 2)),
    "cover picture": (
        generated("v.mp3", *tone(3), *pictures(0.04), "-map", "0", "-map", "1", "-disposition:v", "attached_pic"),
        (0, 0, 3),
    ),
    "odd size": (generated("v.mkv", *pictures(2, "161x121"), *LOSSLESS, "-pix_fmt", "yuv420p"), (2, 48, 0)),
    "2 x 2 pixels": (generated("v.mkv", *pictures(2, "2x2"), *LOSSLESS, "-pix_fmt", "yuv420p"), (2, 48, 0)),
    "subtitles longer": (lambda folder: with_subtitles(folder), (2, 48, 0)),
    "starts at 5 s": (
        generated("v.ts", *pictures(3), *tone(3), *H264, *AAC, "-output_ts_offset", "5"),
        (3, 73, 3),
    ),
    "starts at 5 s, Matroska": (
        generated("v.mkv", *pictures(3), *tone(3), *H264, *AAC, "-output_ts_offset", "5"),
        (3, 73, 3),
    ),
    "name like an option": (generated("-i %03d:x.mp4", *pictures(2), *H264), (2, 48, 0)),
    "wrong ending": (lambda folder: make(folder / "v.mp4", *pictures(2), *H264).rename(folder / "v.txt"), (2, 48, 0)),
}


def with_cover(folder: Path) -> Path:
    cover = make(folder / "c.png", *pictures(0.04), "-frames:v", "1")
    order = ["-map", "0", "-map", "1", "-map", "2", "-c:v:0", "mjpeg", "-disposition:v:0", "attached_pic"]
    return make(folder / "v.mp4", "-i", str(cover), *pictures(2), *tone(2), *order, "-c:v:1", "libx264", *AAC)


def cut_by_an_edit_list(folder: Path) -> Path:
    # one group of pictures: what lies before the cut is in the file, and an edit list says not to show it
    whole = make(folder / "w.mp4", *pictures(6), *tone(6), *H264, *AAC, "-g", "999")
    return make(folder / "v.mp4", "-ss", "3", "-i", str(whole), "-c", "copy")


def with_subtitles(folder: Path) -> Path:
    (folder / "s.srt").write_text("1\n00:00:00,000 --> 00:01:00,000\nslowly\n")
    return make(folder / "v.mkv", *pictures(2), "-i", str(folder / "s.srt"), *H264)


@pytest.mark.parametrize("case", WHOLE)
def test_odd_but_whole(case: str, tmp_path: Path) -> None:
    build, (frames_2d, frames_3d, seconds) = WHOLE[case]
    outcome = Outcome(build(tmp_path))
    ours_2d, ours_3d, heard = outcome.shape()
    assert ours_2d == frames_2d
    assert abs(ours_3d - frames_3d) <= 1  # containers differ in whether the last frame lasts
    assert heard == pytest.approx(seconds, abs=0.1)
    assert outcome.notes == []


def test_of_several_streams_the_first_that_works(tmp_path: Path) -> None:
    red, blue = (["-f", "lavfi", "-i", f"color={colour}:duration=2:size=64x64"] for colour in ("red", "blue"))
    both = [*red, *blue, *tone(2), "-map", "0", "-map", "1", "-map", "2"]
    assert Outcome(make(tmp_path / "v.mkv", *both, *H264)).arrays["2d"].mean(axis=(0, 1, 2)).argmax() == 0
    # the packets of the first stream are of another codec than its header says
    broken = make(tmp_path / "w.mkv", *both, *H264, "-bsf:v:0", "noise=amount=1")
    assert Outcome(broken).arrays["2d"].mean(axis=(0, 1, 2)).argmax() == 2


def test_of_several_sounds_the_first_that_works(tmp_path: Path) -> None:
    both = [*tone(2, hertz=440), *tone(2, hertz=1000), "-map", "0", "-map", "1", "-c:a", "flac"]

    def hertz(path: Path) -> float:
        sound = Outcome(path).arrays["audio"][4000:28_000].astype(float)
        return float(np.fft.rfftfreq(24_000, 1 / 16_000)[np.abs(np.fft.rfft(sound)).argmax()])

    assert hertz(make(tmp_path / "v.mka", *both)) == pytest.approx(440, abs=2)
    assert hertz(make(tmp_path / "w.mka", *both, "-bsf:a:0", "noise=amount=1")) == pytest.approx(1000, abs=2)


def test_uneven_frame_times(tmp_path: Path) -> None:
    # colour changes at 1 s; only few and irregular frames show it
    source = "color=red:duration=1:rate=25[r];color=blue:duration=3:rate=25[b];[r][b]concat,select='not(mod(n\\,7))'"
    video = make(tmp_path / "v.mkv", "-filter_complex", source, "-fps_mode", "vfr", *H264)
    colours = Outcome(video).arrays["3d"].mean(axis=(1, 2)).argmax(axis=1)
    assert len(colours) == pytest.approx(96, abs=7)
    assert np.flatnonzero(colours == 2)[0] == pytest.approx(27, abs=1)  # frame 28 of 25 a second


def test_late_pictures_are_repeated_from_the_start(tmp_path: Path) -> None:
    video = make(
        tmp_path / "v.mkv", "-itsoffset", "2", *pictures(3), *tone(5), "-map", "0:v", "-map", "1:a", *H264, *AAC
    )
    frames = Outcome(video).arrays["3d"]
    assert len(frames) == 120
    assert (frames[:48] == frames[0]).all() and not (frames[60] == frames[0]).all()


def test_late_sound_is_silence_before(tmp_path: Path) -> None:
    video = make(
        tmp_path / "v.mkv", *pictures(5), "-itsoffset", "2", *tone(3), "-map", "0:v", "-map", "1:a", *H264, *AAC
    )
    sound = Outcome(video).arrays["audio"]
    assert len(sound) / 16_000 == pytest.approx(5, abs=0.1)
    assert not sound[: 16_000 * 19 // 10].any() and np.abs(sound[16_000 * 21 // 10 : 16_000 * 4]).mean() > 100


@pytest.mark.parametrize(("degrees", "turned"), [(90, True), (180, False), (270, True)])
def test_rotation_is_applied(degrees: int, turned: bool, tmp_path: Path) -> None:
    # left half red, right half blue
    source = "color=red:size=80x120:duration=1[r];color=blue:size=80x120:duration=1[b];[r][b]hstack"
    upright = make(tmp_path / "v.mp4", "-filter_complex", source, *H264)
    rotated = make(tmp_path / "r.mp4", "-display_rotation", str(degrees), "-i", str(upright), "-c", "copy")
    frame = Outcome(rotated).arrays["2d"][0].astype(int)
    assert frame.shape[:2] == ((85, 64) if turned else (64, 85))
    red = frame[..., 0] > frame[..., 2]
    # counter-clockwise by 90 the left half is at the bottom, by 270 at the top
    where = {90: red[-20:].all(), 180: red[:, -20:].all(), 270: red[:20].all()}
    assert where[degrees]


def test_a_size_that_changes_midway(tmp_path: Path) -> None:
    first = make(tmp_path / "a.ts", *pictures(2), *tone(2), *H264, *AAC)
    second = make(tmp_path / "b.ts", *pictures(2, "320x180"), *tone(2), *H264, *AAC, "-output_ts_offset", "2")
    joined = tmp_path / "v.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    frames_2d, frames_3d, heard = Outcome(joined).shape()
    # the second part's clock runs on a few frames late; frames or sound from its start on again would be 2 s more
    assert frames_2d == 4 and abs(frames_3d - 96) <= 8 and heard == pytest.approx(4, abs=0.3)


def test_a_clock_that_jumps(tmp_path: Path) -> None:
    first = make(tmp_path / "f.ts", *pictures(2), *tone(2), *H264, *AAC)
    later = make(tmp_path / "l.ts", *pictures(2), *tone(2), *H264, *AAC, "-output_ts_offset", "3600")
    joined = tmp_path / "v.ts"
    joined.write_bytes(first.read_bytes() + later.read_bytes())
    outcome = Outcome(joined)
    frames_2d, frames_3d, heard = outcome.shape()
    assert frames_2d == 4 and abs(frames_3d - 96) <= 8 and heard == pytest.approx(4, abs=0.3)
    assert outcome.notes == []


@needs_shared
@pytest.mark.parametrize(
    ("name", "frames_2d", "frames_3d", "has_sound", "note"),
    [
        ("flipping_a_pancake.mkv", 10, 248, True, None),
        ("v_GGSY1Qvo990.mp4", 18, 434, True, None),
        ("nasa_13013.mp4", 13, 312, True, None),
        ("h265_10bits.mp4", 1, 24, False, None),
        ("av1_video.mkv", 5, 120, False, None),
        ("odd/corrupted.mp4", 5, 120, False, "damaged"),
        ("odd/unordered.mov", 1, 3, False, None),
        ("odd/video_90.mov", 1, 2, False, None),
    ],
)
def test_real_files(name: str, frames_2d: int, frames_3d: int, has_sound: bool, note: str | None) -> None:
    outcome = Outcome(VIDEOS / name)
    assert outcome.shape()[:2] == (frames_2d, frames_3d) and ("audio" in outcome.arrays) == has_sound
    assert outcome.notes == [] if note is None else outcome.notes[0].startswith(note)
