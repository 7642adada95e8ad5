"""On a GPU: the features are those of a CPU, and do not depend on what shares a batch."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.backbones.extractor import FeatureExtractor
from pipeline.config import ExtractSettings
from tests.backbones.hub import golden_state, put_checkpoint
from tests.conftest import VIDEOS, needs_shared
from tests.media.clips import H264, make, pictures

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    needs_shared,
]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> FeatureExtractor:
    home = tmp_path_factory.mktemp("torch")
    put_checkpoint(home, "resnet152-394f9c45.pth", golden_state("resnet152", 61))
    put_checkpoint(home, "resnext101.pth", golden_state("resnext101_3d", 62))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(home))
        return FeatureExtractor(ExtractSettings(), "cuda")


def test_features_of_the_golden_video(published: FeatureExtractor) -> None:
    golden = np.load(VIDEOS.parent / "golden" / "visual_flipping_a_pancake.npz")
    features = published.extract(VIDEOS / "flipping_a_pancake.mkv")
    for key in ("2d", "3d"):
        ours, theirs = features.arrays[key].astype(np.float32), golden[f"{key}/features"]
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        assert ((ours * theirs).sum(axis=1) / norms).min() >= 0.999
        assert "mixed precision" in features.backbones[key]


def test_the_same_bits_alone_and_beside_others(published: FeatureExtractor, tmp_path: Path) -> None:
    videos = [
        make(tmp_path / f"{source}.mp4", *pictures(10 + place, "426x240", source=source), *H264)
        for place, source in enumerate(("testsrc2", "rgbtestsrc", "smptebars"))
    ]
    alone = published.extract(videos[0])
    with ThreadPoolExecutor(3) as pool:
        beside, *_ = pool.map(published.extract, videos)
    for key, array in alone.arrays.items():
        assert array.tobytes() == beside.arrays[key].tobytes(), key
