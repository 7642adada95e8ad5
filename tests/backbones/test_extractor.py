from pathlib import Path

import numpy as np
import pytest

from pipeline.backbones.extractor import FeatureExtractor
from pipeline.config import ExtractSettings
from pipeline.media.errors import MediaError
from tests.conftest import VIDEOS, needs_shared
from tests.media.clips import H264, make, pictures, tone


def settings(**changes: object) -> ExtractSettings:
    return ExtractSettings(**{"video_2d": "seeded_2d", "video_3d": "seeded_3d", "batch_size": 4, **changes})


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return FeatureExtractor(settings())


def test_all_modalities_of_a_video(extractor: FeatureExtractor, tmp_path: Path) -> None:
    video = make(tmp_path / "v.mp4", *pictures(6), *tone(6), *H264)
    features = extractor.extract(video)
    assert features.arrays["2d"].shape == (6, 128)
    assert features.arrays["3d"].shape == (9, 128)
    assert features.arrays["audio"].shape[1] == 40 and abs(len(features.arrays["audio"]) - 601) < 8
    assert {array.dtype for array in features.arrays.values()} == {np.dtype(np.float16)}
    assert features.rates == {"2d": 1.0, "3d": 1.5, "audio": 100.0}
    assert features.duration == pytest.approx(6, abs=0.1)
    assert "seed" in features.backbones["2d"] and set(features.backbones) == {"2d", "3d", "audio"}
    assert features.notes == []


def test_what_is_missing_has_no_key(extractor: FeatureExtractor, tmp_path: Path) -> None:
    silent = extractor.extract(make(tmp_path / "v.mp4", *pictures(2), *H264))
    assert set(silent.arrays) == set(silent.rates) == {"2d", "3d"} and silent.notes == ["no audio"]
    blind = extractor.extract(make(tmp_path / "a.m4a", *tone(2)))
    assert set(blind.arrays) == {"audio"} and blind.notes == ["no 2d", "no 3d"]
    text = tmp_path / "t.srt"
    text.write_text("1\n00:00:00,000 --> 00:00:01,000\nflip it\n")
    with pytest.raises(MediaError) as caught:
        extractor.extract(text)
    assert caught.value.reason == "unsupported"


def test_sound_that_is_mostly_damaged_is_left_out(extractor: FeatureExtractor, tmp_path: Path) -> None:
    noise = ["-bsf:a", "noise=amount=if(mod(n\\,2)\\,1\\,1e9)"]
    features = extractor.extract(make(tmp_path / "v.mkv", *pictures(2), *tone(2), *H264, "-c:a", "ac3", *noise))
    assert set(features.arrays) == {"2d", "3d"}
    assert features.notes[0].startswith("damaged: ") and "sound left out" in features.notes[0]
    assert features.notes[1] == "no audio"


def test_features_do_not_depend_on_what_else_was_extracted(extractor: FeatureExtractor, tmp_path: Path) -> None:
    videos = [
        make(tmp_path / f"{name}.mp4", *pictures(seconds, source=name), *H264)
        for name, seconds in (("testsrc2", 7), ("rgbtestsrc", 3), ("mandelbrot", 1))
        if name != "mandelbrot"
    ]
    first = extractor.extract(videos[0])
    extractor.extract(videos[1])
    again = extractor.extract(videos[0])
    alone = FeatureExtractor(settings()).extract(videos[0])
    for key in ("2d", "3d"):
        assert first.arrays[key].tobytes() == again.arrays[key].tobytes() == alone.arrays[key].tobytes()


def test_normalised_features_say_so(tmp_path: Path) -> None:
    video = make(tmp_path / "v.mp4", *pictures(3), *H264)
    features = FeatureExtractor(settings(normalize=True)).extract(video)
    np.testing.assert_allclose(np.linalg.norm(features.arrays["3d"].astype(np.float32), axis=1), 1, atol=1e-3)
    assert "L2-normalised" in features.backbones["3d"]


def test_a_modality_that_is_not_asked_for(tmp_path: Path) -> None:
    video = make(tmp_path / "v.mp4", *pictures(2), *tone(2), *H264)
    features = FeatureExtractor(settings(video_2d=None, audio=False)).extract(video)
    assert set(features.arrays) == {"3d"} and features.notes == []


def test_features_tell_frames_apart(extractor: FeatureExtractor, tmp_path: Path) -> None:
    def of(source: str) -> np.ndarray:
        video = make(tmp_path / "v.mp4", "-f", "lavfi", "-i", f"{source}:duration=2:size=160x120:rate=25", *H264)
        arrays = extractor.extract(video).arrays
        return np.concatenate((arrays["2d"].mean(axis=0), arrays["3d"].mean(axis=0))).astype(np.float32)

    red, crimson, blue = (of(f"color={name}") for name in ("red", "crimson", "blue"))
    assert np.linalg.norm(red - blue) > 2 * np.linalg.norm(red - crimson)


@needs_shared
def test_real_files_go_through(extractor: FeatureExtractor) -> None:
    for name in ("flipping_a_pancake.mkv", "nasa_13013.mp4", "odd/unordered.mov", "odd/video_90.mov"):
        arrays = extractor.extract(VIDEOS / name).arrays
        assert len(arrays["2d"]) and len(arrays["3d"]), name
        assert all(np.isfinite(array).all() for array in arrays.values()), name
