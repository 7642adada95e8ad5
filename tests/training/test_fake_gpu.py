"""The way from a stored batch to the loss as a GPU goes it, with tensors that have a device and a shape but no numbers.

A tensor of another device among them is an error, and so is each place where the host would wait for a number.
"""

from collections.abc import Iterator
from dataclasses import replace
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.config import load_recipe
from pipeline.models import build_model
from pipeline.models.davenet import Davenet
from pipeline.objectives import build_loss
from pipeline.shards.decoding import decode_batch
from pipeline.training.step import Precision, embed
from pipeline.training.watch import LossWatch

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU to test on")

CLIPS, WORDS, TOKENS, FRAMES = 48, 20, 12, 768
DIM = 512
"""The least for which padding is left out."""
LIMITS = {"text": 15 * CLIPS, "video": 9 * CLIPS, "audio": 9 * CLIPS}
"""Of tokens; there is room for more of each."""
SMALL = {"embed_dim": DIM, "projection_dim": 64, "heads": 8, "text_dim": 30, "video_dim": 40, "davenet_width": 16}


@pytest.fixture(scope="module")
def gpu() -> Iterator[FakeTensorMode]:
    """Tensors on ``cuda``, and a torch that believes in it; one for all tests, since networks keep what they made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
        patch.setattr("torch.cuda.is_bf16_supported", lambda *_, **__: True)
        patch.setattr("torch.cuda.Event", MagicMock())
        yield FakeTensorMode()


def moved(module: nn.Module) -> nn.Module:
    """The module with parameters and buffers that have no numbers."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda")
            setattr(part, name, nn.Parameter(empty, requires_grad=parameter.requires_grad))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda"))
    return module


def loaded(video_dim: int) -> dict[str, Tensor]:
    """A batch as it comes to the device."""
    return {
        "word_ids": torch.zeros(CLIPS, WORDS, dtype=torch.int32, device="cuda"),
        "features_2d": torch.zeros(CLIPS, TOKENS, video_dim // 2, dtype=torch.float16, device="cuda"),
        "features_3d": torch.zeros(CLIPS, TOKENS, video_dim // 2, dtype=torch.float16, device="cuda"),
        "places_2d": torch.zeros(CLIPS, TOKENS, dtype=torch.int64, device="cuda"),
        "video_tokens": torch.zeros(CLIPS, dtype=torch.int64, device="cuda"),
        "audio": torch.zeros(CLIPS, FRAMES, 40, dtype=torch.uint8, device="cuda"),
        "audio_nframes": torch.zeros(CLIPS, device="cuda"),
    }


@pytest.mark.parametrize("ways", ["as defined", "transform", "no padding"])
@pytest.mark.parametrize("name", ["mft", "mft-class-token", "mft-tv", "mft-per-modality"])
def test_mft_trains_without_waiting(gpu: FakeTensorMode, name: str, ways: str) -> None:
    run(gpu, name, transform=ways != "as defined", limits=LIMITS if ways == "no padding" else None)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_in_each_precision(gpu: FakeTensorMode, precision: Precision, training: bool) -> None:
    run(gpu, "mft", precision, training, transform=True, limits=LIMITS)


@pytest.mark.parametrize(
    "name", ["mcn-no-clusters", "mcn-sinkhorn-swapped", "mcn-soft-labels", "avlnet", "avlnet-text-fused"]
)
def test_mcn_without_k_means_trains_without_waiting(gpu: FakeTensorMode, name: str) -> None:
    run(gpu, name, transform=True)


def run(
    gpu: FakeTensorMode,
    name: str,
    precision: Precision = "bfloat16",
    training: bool = True,
    *,
    transform: bool = False,
    limits: dict[str, int] | None = None,
) -> None:
    recipe = load_recipe(name)
    settings = replace(recipe.model, **SMALL)
    model = build_model(settings).train(training)
    loss = build_loss(recipe.loss)
    if transform:
        next(part for part in model.modules() if isinstance(part, Davenet)).take_transforms_on("cpu", "cuda")
    if limits is not None:
        model.most_tokens = limits
    losses = LossWatch(())
    with gpu:
        moved(model)
        if isinstance(loss, nn.Module):
            moved(loss)
        batch = decode_batch(loaded(settings.video_dim))
        batch["text"] = torch.zeros(CLIPS, WORDS, settings.text_dim, device="cuda")
        outputs = embed(model, batch, precision)
        total, terms = loss(loss.prepare(outputs))
        losses.add(1, {"loss": total, **terms}, batch["audio_nframes"])
        tensors = [value for value in (*outputs.values(), total, *terms.values()) if isinstance(value, Tensor)]
        assert {value.device.type for value in tensors} == {"cuda"}
        assert {value.dtype for value in tensors} <= {torch.float32, torch.bool, torch.int64}
