"""The published networks, on the golden cases, through a TORCH_HOME that is filled beforehand; nothing is fetched."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.backbones import slowfast
from pipeline.backbones.extractor import FeatureExtractor
from pipeline.backbones.registry import get_backbone
from pipeline.config import ExtractSettings
from pipeline.errors import InputError
from tests.backbones.hub import golden_state, put_checkpoint, put_pytorchvideo
from tests.conftest import GOLDEN, VIDEOS, needs_shared

pytestmark = needs_shared

URL_ERROR = "no network in tests"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(URL_ERROR)

    monkeypatch.setattr(torch.hub, "urlopen", refuse)


@pytest.fixture(scope="module")
def torch_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(home))
        yield home


def cosine(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    product = (ours * theirs).sum(axis=1)
    return product / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)


@pytest.mark.slow
def test_frame_and_clip_features_of_a_real_video(torch_home: Path) -> None:
    put_checkpoint(torch_home, "resnet152-394f9c45.pth", golden_state("resnet152", 61))
    put_checkpoint(torch_home, "resnext101.pth", golden_state("resnext101_3d", 62))
    golden = np.load(GOLDEN / "visual_flipping_a_pancake.npz")

    frames, clips = golden["2d/frames"], golden["3d/frames"].reshape(2, 16, 112, 112, 3)
    for name, key, inputs in (("resnet152", "2d", frames), ("resnext101_3d", "3d", clips)):
        with torch.inference_mode():
            ours = get_backbone(name).load()(torch.from_numpy(inputs)).numpy()
        theirs = golden[f"{key}/features"][: len(inputs)]
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())

    extracted = FeatureExtractor(ExtractSettings(batch_size=4)).extract(VIDEOS / "flipping_a_pancake.mkv")
    assert extracted.rates == {"2d": 1.0, "3d": 1.5, "audio": 100.0}
    for key in ("2d", "3d"):
        ours, theirs = extracted.arrays[key].astype(np.float32), golden[f"{key}/features"]
        assert ours.shape == theirs.shape
        assert cosine(ours, theirs).min() >= 0.999


@pytest.mark.slow
def test_a_checkpoint_as_3d_resnets_saves_it(torch_home: Path) -> None:
    state = golden_state("resnext101_3d", 62)
    put_checkpoint(
        torch_home,
        "resnext101.pth",
        {"epoch": 1, "state_dict": {f"module.{key}": value for key, value in state.items()}},
    )
    network = get_backbone("resnext101_3d").load()
    assert torch.equal(network.state_dict()["network.fc.weight"], state["fc.weight"])


@pytest.mark.slow
def test_slowfast_through_its_hub_entry(torch_home: Path) -> None:
    put_pytorchvideo(torch_home, slowfast.REVISION)
    put_checkpoint(torch_home, "SLOWFAST_8x8_R50.pyth", {"model_state": golden_state("slowfast_r50", 63)})
    golden = np.load(GOLDEN / "slowfast_r50.npz")
    network = get_backbone("slowfast_r50").load()
    assert isinstance(network, slowfast.SlowFastFeatures)
    random = np.random.RandomState(int(golden["input_seed"]))
    clip = random.standard_normal(golden["input_shape"]).astype(np.float32)
    with torch.inference_mode():
        ours = network.features(torch.from_numpy(clip)).numpy()
    np.testing.assert_allclose(ours, golden["features"], rtol=1e-3, atol=1e-4 * np.abs(golden["features"]).max())


@pytest.mark.slow
def test_slowfast_from_a_copy_that_nobody_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytorchvideo.models.hub import slowfast_r101

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    put_pytorchvideo(tmp_path, "main")
    put_checkpoint(tmp_path, "SLOWFAST_8x8_R101.pyth", {"model_state": slowfast_r101(pretrained=False).state_dict()})
    backbone = get_backbone("slowfast_r101")
    clip = torch.zeros((1, 32, 224, 224, 3), dtype=torch.uint8)
    with torch.inference_mode():
        assert backbone.load()(clip).shape == (1, backbone.dim)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("resnet152", "hub/checkpoints/resnet152-394f9c45.pth"),
        ("resnext101_3d", "hub/checkpoints/resnext101.pth"),
        ("slowfast_r50", "hub/checkpoints/SLOWFAST_8x8_R50.pyth"),
        ("slowfast_r50", f"hub/facebookresearch_pytorchvideo_{slowfast.REVISION}"),
    ],
)
def test_missing_weights_say_which_file_to_put_where(
    name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError) as caught:
        get_backbone(name).load()
    assert "put https://" in str(caught.value) and f"at {tmp_path / file}" in str(caught.value)
    assert URL_ERROR in str(caught.value)


@pytest.mark.parametrize("content", ["cut", "other network"])
def test_weights_that_are_no_good_are_named(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = put_checkpoint(tmp_path, "resnext101.pth", {"conv1.weight": torch.zeros(3)})
    if content == "cut":
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="resnext101") as caught:
        get_backbone("resnext101_3d").load()
    assert ("remove it" if content == "cut" else "not of this network") in str(caught.value)


def test_an_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean resnet152"):
        get_backbone("resnet512")
