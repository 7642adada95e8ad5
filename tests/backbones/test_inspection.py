from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.backbones.inspection import draw, feature_rows, inspect_video, stream_rows
from pipeline.config import ExtractSettings
from pipeline.media.errors import MediaError
from pipeline.media.pictures import spectrogram_picture, wrapped
from tests.media.clips import H264, make, pictures, tone

SEEDED = ExtractSettings(video_2d="seeded_2d", video_3d="seeded_3d")


def test_a_file_is_described_and_drawn(tmp_path: Path) -> None:
    red = ["-f", "lavfi", "-i", "color=red:duration=40:size=160x120:rate=5"]
    inspection = inspect_video(make(tmp_path / "v.mp4", *red, *tone(40), *H264), SEEDED)
    assert stream_rows(inspection.info)[0] == ("stream 0", "video", "h264", "160 x 120, 5/s, yuv420p")
    assert [row[:3] for row in feature_rows(inspection)][:2] == [("2d", "40 x 128", "1/s"), ("3d", "60 x 128", "1.5/s")]
    draw(inspection, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    red_share = ((sheet[..., 0] > 200) & (sheet[..., 1:].max(axis=2) < 60)).mean()
    assert sheet.shape[1] == 1240 and red_share > 0.3  # frames of both backbones fill much of the page


def test_frames_shown_are_spread_over_the_whole_file(tmp_path: Path) -> None:
    inspection = inspect_video(make(tmp_path / "v.mp4", *pictures(130, "64x48", 1), *H264), SEEDED)
    shown = [place for place, _ in inspection.inputs["2d"].spread()]
    assert len(shown) <= 24 and shown[0] == 0 and shown[-1] >= 120
    assert max(np.diff(shown)) <= 2 * min(np.diff(shown))
    assert len(inspection.inputs["2d"].kept) < 48  # and memory does not grow with the file


def test_without_weights_there_are_still_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("no network")))
    inspection = inspect_video(make(tmp_path / "v.mp4", *pictures(2), *H264), ExtractSettings())
    assert inspection.features is None and "resnet152-394f9c45.pth" in inspection.missing
    assert inspection.inputs["2d"].kept[0].shape == (224, 298, 3)
    assert inspection.inputs["3d"].kept[0].shape == (16, 112, 112, 3)
    draw(inspection, tmp_path / "sheet.png")
    tall = Image.open(tmp_path / "sheet.png").height
    assert tall > 400
    inspection.missing = ""
    draw(inspection, tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").height < tall - 40  # what is missing takes more than one line


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_text("<html>")
    with pytest.raises(MediaError):
        inspect_video(tmp_path / "v.mp4", SEEDED)


def test_a_short_loud_moment_shows_in_a_long_spectrogram() -> None:
    decibels = np.full((100_000, 40), -80, np.float16)
    decibels[50_000, 39] = 0
    picture = np.asarray(spectrogram_picture(decibels, 1000, 40)).astype(int)
    assert picture[0, 500].sum() > picture[0, 100].sum() + 200  # the highest band is at the top
    assert (picture[1:] == picture[1, 0]).all()


@given(text=st.text(alphabet="ab /"), width=st.integers(1, 12))
def test_no_letter_of_a_long_line_is_lost(text: str, width: int) -> None:
    lines = wrapped(text, len, width)
    assert all(len(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_lines_are_cut_between_words() -> None:
    assert wrapped("put the file   at /a/very/long/place", len, 12) == ["put the file", "at", "/a/very/long", "/place"]
    assert wrapped("", len, 12) == [""]
