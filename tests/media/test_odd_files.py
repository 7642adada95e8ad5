"""Odd and damaged files: each is decoded as far as it is right, or fails for the right reason."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.media.decode import FrameFormat, decode
from pipeline.media.errors import MediaError
from tests.conftest import VIDEOS, needs_shared
from tests.media.clips import H264, make, pictures, tone

FORMATS = {"2d": FrameFormat(rate=1, size=64), "3d": FrameFormat(rate=24, size=32, crop=True)}
AAC = ["-c:a", "aac"]
H265 = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none"]
VP8 = ["-c:v", "libvpx", "-deadline", "realtime"]
VP9 = ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"]
LOSSLESS = ["-c:v", "ffv1"]
SURROUND = ["-filter_complex", "[1:a]pan=5.1|FL=c0|FR=c0|FC=c0|LFE=c0|BL=c0|BR=c0[a]", "-map", "0:v", "-map", "[a]"]


class Outcome:
    """What a decode gave: arrays and notes."""

    def __init__(self, path: Path) -> None:
        chunks = defaultdict(list)
        decoding = decode(path, FORMATS, True, timeout=60)
        for name, chunk in decoding:
            chunks[name].append(chunk)
        self.arrays = {name: np.concatenate(parts) for name, parts in chunks.items()}
        self.notes = decoding.notes

    def shape(self) -> tuple[int, int, float]:
        """Frames of each format, seconds of sound."""
        frames = [len(self.arrays.get(name, ())) for name in FORMATS]
        return frames[0], frames[1], len(self.arrays.get("audio", ())) / 16_000


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
    "name like an option": (generated("-i %03d:x.mp4", *pictures(2), *H264), (2, 48, 0)),
    "wrong ending": (lambda folder: make(folder / "v.mp4", *pictures(2), *H264).rename(folder / "v.txt"), (2, 48, 0)),
}


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


def whole_file(folder: Path, ending: str = "mp4", seconds: int = 8) -> bytes:
    """A short video with its index at the start."""
    options = ["-movflags", "+faststart"] if ending == "mp4" else []
    codec = VP8 if ending == "webm" else [*H264, *AAC]
    return make(folder / f"whole.{ending}", *pictures(seconds), *tone(seconds), *codec, *options).read_bytes()


def flipped(data: bytes, first: float, last: float, every: int) -> bytes:
    damaged = bytearray(data)
    for place in range(int(len(data) * first), int(len(data) * last), every):
        damaged[place] ^= 0xFF
    return bytes(damaged)


def zeroed(data: bytes, first: float) -> bytes:
    kept = int(len(data) * first)
    return data[:kept] + bytes(len(data) - kept)


USABLE_DAMAGE = {
    "3 % cut off": ("mp4", lambda data: data[: int(len(data) * 0.97)]),
    "3 % cut off, Matroska": ("mkv", lambda data: data[: int(len(data) * 0.97)]),
    "zeros at the end": ("mp4", lambda data: zeroed(data, 0.97)),
    "flipped bytes in the middle": ("mp4", lambda data: flipped(data, 0.4, 0.6, 97)),
}


@pytest.mark.parametrize("case", USABLE_DAMAGE)
def test_a_little_damage_is_kept_with_a_note(case: str, tmp_path: Path) -> None:
    ending, damage = USABLE_DAMAGE[case]
    path = tmp_path / f"v.{ending}"
    path.write_bytes(damage(whole_file(tmp_path, ending)))
    outcome = Outcome(path)
    assert outcome.shape()[1] >= 0.9 * 8 * 24
    assert len(outcome.notes) == 1 and outcome.notes[0].startswith("damaged: ")


FAILURES = {
    "empty": ("corrupt", lambda data: b""),
    "a web page": ("corrupt", lambda data: b"<!DOCTYPE html><html><body>Too many requests</body></html>" * 99),
    "zeros": ("corrupt", lambda data: bytes(100_000)),
    "noise": ("corrupt", lambda data: np.random.RandomState(0).bytes(100_000)),
    "index cut off": ("corrupt", lambda data: data[:600]),
    "half": ("corrupt", lambda data: data[: len(data) // 2]),
    "80 %": ("corrupt", lambda data: data[: int(len(data) * 0.8)]),
    "second half zeros": ("corrupt", lambda data: zeroed(data, 0.5)),
    "pictures destroyed": ("corrupt", lambda data: flipped(data, 0.04, 1, 5)),
    "no known codec": (
        "unsupported",
        lambda data: (
            data.replace(b"avc1", b"zzz1").replace(b"avcC", b"zzzC").replace(b"mp4a", b"zzza").replace(b"esds", b"zzzs")
        ),
    ),
    "a list of files": ("unsupported", lambda data: b"ffconcat version 1.0\nfile 'whole.mp4'\n"),
    "a playlist": ("corrupt", lambda data: b"#EXTM3U\n#EXTINF:4,\nwhole.mp4\n#EXT-X-ENDLIST\n"),
    "subtitles": ("unsupported", lambda data: b"1\n00:00:00,000 --> 00:00:02,000\nslowly\n"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_cannot_be_used_says_why(case: str, tmp_path: Path) -> None:
    reason, damage = FAILURES[case]
    path = tmp_path / "v.mp4"
    path.write_bytes(damage(whole_file(tmp_path)))
    with pytest.raises(MediaError) as caught:
        Outcome(path)
    assert caught.value.reason == reason, caught.value
    assert str(path) in caught.value.message


@pytest.mark.parametrize("ending", ["mkv", "webm", "flv"])
def test_half_a_file_of_other_containers(ending: str, tmp_path: Path) -> None:
    whole = whole_file(tmp_path, ending) if ending != "flv" else flash_file(tmp_path)
    path = tmp_path / f"v.{ending}"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match="could be decoded") as caught:
        Outcome(path)
    assert caught.value.reason == "corrupt"


def flash_file(folder: Path) -> bytes:
    return make(folder / "w.flv", *pictures(8), *tone(8, 44_100), "-c:v", "flv1").read_bytes()


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(MediaError) as caught:
        Outcome(tmp_path / "v.mp4")
    assert caught.value.reason == "not_found"


def test_an_extreme_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="2000x16") as caught:
        Outcome(make(tmp_path / "v.mkv", *pictures(1, "2000x16"), *LOSSLESS, "-pix_fmt", "yuv420p"))
    assert caught.value.reason == "unsupported"


def test_pictures_of_no_known_codec_leave_the_sound(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(whole_file(tmp_path).replace(b"avc1", b"zzz1").replace(b"avcC", b"zzzC"))
    outcome = Outcome(path)
    assert outcome.shape() == (0, 0, pytest.approx(8, abs=0.1))
    assert outcome.notes == ["passed over video stream 0 (none)"]


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
