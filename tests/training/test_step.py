from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.config import LossSettings, ModelSettings
from pipeline.models import build_model
from pipeline.objectives import build_loss
from pipeline.training.distributed import Ranks
from pipeline.training.step import embed, loss_and_gradients
from tests.training.fakes import FakeLoss, FakeModel, clips_batch

ALONE = Ranks()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def tiny_mft() -> nn.Module:
    torch.manual_seed(5)
    sizes: dict[str, Any] = {"video_dim": 12, "text_dim": 10, "embed_dim": 16, "projection_dim": 8, "heads": 2}
    return build_model(ModelSettings(**sizes, davenet="small", davenet_width=4)).double()


def double_batch() -> dict[str, Tensor]:
    return {name: value.double() for name, value in clips_batch().items()}


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_parts_give_the_loss_and_gradients_of_the_whole_batch(parts: int) -> None:
    whole, cut = tiny_mft().eval(), tiny_mft().eval()
    loss = build_loss(LossSettings())
    expected, terms = loss_and_gradients(whole, loss, double_batch(), ALONE)
    total, terms_of_parts = loss_and_gradients(cut, loss, double_batch(), ALONE, parts=parts)
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(terms_of_parts, terms, rtol=1e-12, atol=1e-12)
    assert gradients(cut).keys() == gradients(whole).keys()
    torch.testing.assert_close(gradients(cut), gradients(whole), rtol=1e-10, atol=1e-12)


def test_both_passes_over_a_part_draw_the_same_and_count_once() -> None:
    """Against the same parts embedded with all that their gradients need."""
    batch = {"video": torch.randn(8, 3, 6, generator=torch.Generator().manual_seed(1)), "video_mask": torch.ones(8, 3)}
    torch.manual_seed(2)
    model, reference = FakeModel(dropout=0.5), FakeModel(dropout=0.5)
    reference.load_state_dict(model.state_dict())
    torch.manual_seed(3)
    pieces = [{name: value.chunk(2)[number] for name, value in batch.items()} for number in range(2)]
    outputs = [embed(reference, piece, "float32") for piece in pieces]
    total, _ = FakeLoss()({name: torch.cat([output[name] for output in outputs]) for name in outputs[0]})
    total.backward()
    after = torch.rand(1)
    torch.manual_seed(3)
    ours, _ = loss_and_gradients(model, FakeLoss(), batch, ALONE, parts=2)
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(ours, total.detach())
    torch.testing.assert_close(gradients(model), gradients(reference))
    torch.testing.assert_close(model.state_dict(), reference.state_dict())


@pytest.mark.parametrize(("precision", "likeness"), [("bfloat16", 0.95), ("float16", 0.99)])
def test_half_precision_stays_near_and_reaches_the_loss_in_float32(precision: Any, likeness: float) -> None:
    batch = clips_batch()
    exact, half = tiny_mft().float(), tiny_mft().float()
    outputs = embed(half, batch, precision)
    assert {value.dtype for name, value in outputs.items() if name.endswith("_embed")} == {torch.float32}
    loss = build_loss(LossSettings())
    expected, _ = loss_and_gradients(exact, loss, batch, ALONE)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=precision == "float16")
    total, _ = loss_and_gradients(half, loss, batch, ALONE, precision, scaler)
    assert abs(total - expected) < 0.03 * abs(expected)
    flat = [torch.cat([value.flatten() for value in gradients(model).values()]) for model in (exact, half)]
    scale = 256.0 if precision == "float16" else 1.0
    assert torch.nn.functional.cosine_similarity(flat[0], flat[1] / scale, dim=0) > likeness


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("training", [True, False])
def test_a_gpu_gives_the_loss_and_gradients_of_a_cpu(training: bool) -> None:
    of_cpu, of_gpu = tiny_mft().train(training), tiny_mft().train(training).cuda()
    loss = build_loss(LossSettings())
    expected, terms = loss_and_gradients(of_cpu, loss, double_batch(), ALONE)
    batch = {name: value.cuda() for name, value in double_batch().items()}
    total, terms_of_gpu = loss_and_gradients(of_gpu, loss, batch, Ranks(device=torch.device("cuda")))
    near: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11, "check_device": False}
    torch.testing.assert_close(total, expected, **near)
    torch.testing.assert_close(terms_of_gpu, terms, **near)
    torch.testing.assert_close(gradients(of_gpu), gradients(of_cpu), **near)
