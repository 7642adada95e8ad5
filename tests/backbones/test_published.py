"""The published networks, on the golden cases, through a TORCH_HOME that is filled beforehand; nothing is fetched."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.backbones import slowfast
from pipeline.backbones.base import Normalized
from pipeline.backbones.extractor import FeatureExtractor
from pipeline.backbones.names import NAMES, OF_CLIPS, OF_FRAMES
from pipeline.backbones.registry import get_backbone
from pipeline.config import ExtractSettings
from pipeline.errors import InputError
from tests.backbones.hub import golden_state, put_checkpoint, put_program, put_pytorchvideo
from tests.conftest import GOLDEN, VIDEOS, needs_shared
from tests.media.clips import H264, make, pictures

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


def extract_one_second(name: str, key: str, folder: Path) -> None:
    """All of extraction with a backbone whose weights are in TORCH_HOME."""
    one_second = make(folder / "v.mp4", *pictures(1), *H264)
    names = {"video_2d": None, "video_3d": None, f"video_{key}": name}
    features = FeatureExtractor(ExtractSettings(audio=False, **names)).extract(one_second)
    backbone = get_backbone(name)
    assert features.arrays[key].shape == (1, backbone.dim)
    assert features.rates == {key: 1.0}
    assert np.isfinite(features.arrays[key]).all() and features.arrays[key].any()


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
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6 * np.abs(theirs).max())

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
    golden = np.load(GOLDEN / "visual_flipping_a_pancake.npz")
    clip = torch.from_numpy(golden["3d/frames"].reshape(2, 16, 112, 112, 3)[:1])
    with torch.inference_mode():
        ours = get_backbone("resnext101_3d").load()(clip).numpy()
    theirs = golden["3d/features"][:1]
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6 * np.abs(theirs).max())


@pytest.mark.slow
def test_slowfast_through_its_hub_entry(torch_home: Path, tmp_path: Path) -> None:
    put_pytorchvideo(torch_home, slowfast.REVISION)
    put_checkpoint(torch_home, "SLOWFAST_8x8_R50.pyth", {"model_state": golden_state("slowfast_r50", 63)})
    golden = np.load(GOLDEN / "slowfast_r50.npz")
    network = get_backbone("slowfast_r50").load()
    assert isinstance(network, slowfast.SlowFastFeatures)
    random = np.random.RandomState(int(golden["input_seed"]))
    clip = random.standard_normal(golden["input_shape"]).astype(np.float32)
    with torch.inference_mode():
        ours = network.features(torch.from_numpy(clip)).numpy()
    np.testing.assert_allclose(ours, golden["features"], rtol=1e-4, atol=1e-6 * np.abs(golden["features"]).max())
    extract_one_second("slowfast_r50", "3d", tmp_path)


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


@pytest.mark.slow
def test_s3d_on_the_golden_clip(torch_home: Path, tmp_path: Path) -> None:
    put_checkpoint(torch_home, "s3d_howto100m.pth", golden_state("s3d_howto100m", 65))
    golden = np.load(GOLDEN / "s3d_howto100m.npz")
    network = get_backbone("s3d_howto100m").load()
    assert isinstance(network, Normalized)
    random = np.random.RandomState(int(golden["input_seed"]))
    clips = random.uniform(0, 1, golden["input_shape"]).astype(np.float32)
    with torch.inference_mode():
        ours = network.network(torch.from_numpy(clips)).numpy()
        pixels = torch.from_numpy((clips[:1] * 255).round().astype(np.uint8)).movedim(1, -1)
        from_pixels = network(pixels).numpy()
    theirs = golden["mixed_5c"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6 * np.abs(theirs).max())
    assert cosine(from_pixels, theirs[:1]).min() >= 0.999
    extract_one_second("s3d_howto100m", "3d", tmp_path)


@pytest.mark.slow
def test_clip_gives_what_timm_gives_with_the_same_weights(torch_home: Path, tmp_path: Path) -> None:
    import timm

    theirs = timm.create_model("vit_base_patch32_clip_quickgelu_224.openai", pretrained=False, num_classes=512).eval()
    state = theirs.state_dict()
    random = torch.Generator().manual_seed(1)
    for key, value in state.items():  # timm starts with zeros where training would not leave any
        state[key] = (value + 0.02 * torch.randn(value.shape, generator=random)).half().float()
    state["head.bias"].zero_()
    theirs.load_state_dict(state)
    published = clip_state_from_timm(state)
    put_program(torch_home, "ViT-B-32.pt", published)
    backbone = get_backbone("clip_vit_b32")
    network = backbone.load()
    frames = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8, generator=random)
    mean, std = (torch.tensor(theirs.pretrained_cfg[key]) for key in ("mean", "std"))
    with torch.inference_mode():
        expected = theirs(((frames / 255 - mean) / std).movedim(-1, 1))
        ours = network(frames)
    assert ours.shape == (2, backbone.dim)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)
    put_checkpoint(torch_home, "ViT-B-32.pt", published)  # a file of weights alone does as well
    assert all(map(torch.equal, backbone.load().parameters(), network.parameters()))
    extract_one_second("clip_vit_b32", "2d", tmp_path)


def clip_state_from_timm(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights under the names of OpenAI's file, as half floats like there."""
    renamed = {
        "cls_token": "class_embedding",
        "pos_embed": "positional_embedding",
        "patch_embed.proj.weight": "conv1.weight",
        "head.weight": "proj",
    }
    parts = {
        "norm_pre": "ln_pre",
        "norm.": "ln_post.",
        "blocks": "transformer.resblocks",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.qkv.": "attn.in_proj_",
        "attn.proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    result = {"logit_scale": torch.tensor(1.0)}  # and what else is not of the image tower
    for key, value in state.items():
        if key == "head.bias":
            continue
        name = renamed.get(key, key)
        if name == key:
            for theirs, ours in parts.items():
                name = name.replace(theirs, ours, 1)
        value = value.T if key == "head.weight" else value.squeeze() if key in ("cls_token", "pos_embed") else value
        result[f"visual.{name}"] = value.half().contiguous()
    return result


@pytest.mark.slow
def test_any_network_of_timm(torch_home: Path, tmp_path: Path) -> None:
    import timm

    network = timm.create_model("resnet18.a1_in1k", pretrained=False).eval()
    put_checkpoint(torch_home, "resnet18_a1_0-d63eafa0.pth", network.state_dict())
    backbone = get_backbone("timm:resnet18.a1_in1k")
    assert backbone.dim == 512 and backbone.frame_format.crop
    frames = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        ours = backbone.load()(frames)
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        expected = network.forward_head(
            network.forward_features(((frames / 255 - mean) / std).movedim(-1, 1)), pre_logits=True
        )
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    extract_one_second("timm:resnet18.a1_in1k", "2d", tmp_path)


def test_a_network_that_timm_does_not_have() -> None:
    with pytest.raises(InputError, match="did you mean timm:resnet18"):
        get_backbone("timm:resnet81.a1_in1k")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("resnet152", "hub/checkpoints/resnet152-394f9c45.pth"),
        ("resnext101_3d", "hub/checkpoints/resnext101.pth"),
        ("s3d_howto100m", "hub/checkpoints/s3d_howto100m.pth"),
        ("clip_vit_b32", "hub/checkpoints/ViT-B-32.pt"),
        ("timm:resnet18.a1_in1k", "hub/checkpoints/resnet18_a1_0-d63eafa0.pth"),
        ("timm:vit_base_patch32_clip_224.openai", "hub/checkpoints/vit_base_patch32_clip_224.openai.safetensors"),
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


def test_names_are_those_of_the_registry() -> None:
    assert all(get_backbone(name).name == name for name in NAMES)
    assert all(get_backbone(name).clip_length is None for name in OF_FRAMES)
    assert all(get_backbone(name).clip_length for name in OF_CLIPS)
