"""Damaged files, and what is no video: kept with a note where most is there, else refused for the right reason."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.media.errors import MediaError
from tests.media.clips import AAC, H264, LOSSLESS, VP8, make, pictures, tone
from tests.media.outcome import Outcome


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


def test_an_uneven_rate_is_no_damage(tmp_path: Path) -> None:
    # the header gives 30 frames a second, of which a third is there
    uneven = ["-vf", "select='lt(mod(n\\,30)\\,10)'", "-fps_mode", "vfr", "-g", "10"]
    whole = make(tmp_path / "w.mkv", *pictures(8, rate=30), *uneven, *H264).read_bytes()
    for damaged in (whole[: int(len(whole) * 0.97)], flipped(whole, 0.5, 0.51, 29)):
        (tmp_path / "v.mkv").write_bytes(damaged)
        outcome = Outcome(tmp_path / "v.mkv")
        assert outcome.shape()[1] >= 0.9 * 7 * 24
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
    "a message": ("corrupt", lambda data: b'{"error": {"code": 403, "message": "forbidden"}}'),
    "an archive": ("corrupt", lambda data: b"PK\x03\x04" + data),
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


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_what_is_missing_in_the_middle_counts_although_pictures_are_repeated(ending: str, tmp_path: Path) -> None:
    whole = make(tmp_path / f"w.{ending}", *pictures(8), *tone(8), *H264, *AAC, "-g", "10").read_bytes()
    path = tmp_path / f"v.{ending}"
    path.write_bytes(whole[: int(len(whole) * 0.3)] + bytes(int(len(whole) * 0.4)) + whole[int(len(whole) * 0.7) :])
    with pytest.raises(MediaError, match=r"only [45]\.\d s of 8\.\d s \([56]\d %\) could be decoded") as caught:
        Outcome(path)
    assert caught.value.reason == "corrupt"


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


def test_a_text_is_not_drawn(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("flip it\n" * 100)
    with pytest.raises(MediaError, match="text, not a video") as caught:
        Outcome(tmp_path / "v.txt")
    assert caught.value.reason == "unsupported"


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
