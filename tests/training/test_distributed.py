import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.config import LossSettings, ModelSettings
from pipeline.errors import InputError
from pipeline.models import build_model
from pipeline.objectives import build_loss
from pipeline.training.batch_norm import SynchronizedBatchNorm, synchronize_batch_norm
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.distributed import Ranks, join_ranks
from pipeline.training.logging import read_rows
from pipeline.training.loop import train
from pipeline.training.step import loss_and_gradients
from tests.training.fakes import CLIPS, QUIET, FakeLoader, FakeLoss, FakeModel, clips_batch, recipe
from tests.training.processes import run_ranks


def mft_step(
    ranks: Ranks, dtype: torch.dtype, synchronized: bool = True, evaluating: bool = False, parts: int = 1
) -> dict[str, Any]:
    """Loss, gradients and statistics after one step on the global batch."""
    settings = ModelSettings(
        video_dim=12, text_dim=10, embed_dim=16, projection_dim=8, heads=2, davenet="small", davenet_width=4
    )
    torch.manual_seed(5)
    model = build_model(settings).to(dtype)
    if synchronized:
        synchronize_batch_norm(model)
    size = CLIPS // ranks.world_size
    part = slice(ranks.rank * size, (ranks.rank + 1) * size)
    batch = {name: value[part].to(dtype) for name, value in clips_batch().items()}
    model.train(not evaluating)
    total, terms = loss_and_gradients(model, build_loss(LossSettings()), batch, ranks, parts=parts)
    return {
        "loss": {"total": float(total), **{name: float(term) for name, term in terms.items()}},
        "gradients": {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None},
        "buffers": {name: value.numpy() for name, value in model.named_buffers()},
    }


def flat(values: dict[str, Any]) -> np.ndarray:
    return np.concatenate([np.ravel(value) for value in values.values()]).astype(np.float64)


def steps_of_all_kinds(ranks: Ranks) -> list[dict[str, Any]]:
    """In both precisions; and with each rank's part of the batch embedded in parts."""
    parts = 1 if ranks.world_size == 1 else 2
    in_parts = mft_step(ranks, torch.float64, evaluating=True, parts=parts)
    return [mft_step(ranks, torch.float32), mft_step(ranks, torch.float64), in_parts]


@pytest.mark.parametrize("world_size", [2, 4])
def test_many_processes_give_the_loss_and_gradients_of_one(world_size: int) -> None:
    expected = steps_of_all_kinds(Ranks())
    for of_rank in run_ranks(world_size, steps_of_all_kinds):
        for ours, one, tolerance in zip(of_rank, expected, [1e-6, 1e-13, 1e-13], strict=True):
            assert_apart_at_most(ours, one, tolerance)


def test_synchronized_batch_norm_is_torchs_own() -> None:
    assert_apart_at_most(mft_step(Ranks(), torch.float64), mft_step(Ranks(), torch.float64, False), 1e-13)


def assert_apart_at_most(ours: dict[str, Any], one: dict[str, Any], tolerance: float) -> None:
    for kind, values in one.items():
        assert list(ours[kind]) == list(values)
        difference = np.linalg.norm(flat(ours[kind]) - flat(values)) / np.linalg.norm(flat(values))
        assert difference < tolerance, kind


def fake_training(ranks: Ranks, run: str) -> dict[str, np.ndarray]:
    torch.manual_seed(7 + ranks.rank)  # the main rank's weights count
    model = FakeModel(dropout=0.0, norm=False)
    loader = FakeLoader(rank=ranks.rank, world_size=ranks.world_size)
    train(recipe(steps=20), model, FakeLoss(), loader, dict, Path(run), QUIET, ranks=ranks)
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def test_a_whole_run_goes_as_in_one_process(tmp_path: Path) -> None:
    expected = fake_training(Ranks(), str(tmp_path / "one"))
    for weights in run_ranks(2, fake_training, str(tmp_path / "many")):
        for name, value in expected.items():
            np.testing.assert_allclose(weights[name], value, atol=2e-6, err_msg=name)
    one, many = (read_rows(tmp_path / name / "metrics.jsonl") for name in ("one", "many"))
    assert [row["step"] for row in many] == list(range(1, 21))
    np.testing.assert_allclose([row["loss"] for row in many], [row["loss"] for row in one], atol=1e-6)


def first_half(ranks: Ranks, run: str) -> None:
    torch.manual_seed(7)
    loader = FakeLoader(rank=ranks.rank, world_size=ranks.world_size)
    model = FakeModel(dropout=0.0, norm=False)
    train(recipe(steps=7), model, FakeLoss(), loader, dict, Path(run), QUIET, ranks=ranks)


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    fake_training(Ranks(), str(tmp_path / "one"))
    run_ranks(2, first_half, str(tmp_path / "changing"))
    found = Checkpoints(tmp_path / "changing" / "checkpoints").last(pytest.fail)
    assert found is not None
    model = FakeModel(dropout=0.0, norm=False)
    train(recipe(steps=20), model, FakeLoss(), FakeLoader(), dict, tmp_path / "changing", QUIET, state=found[1])
    one, many = (read_rows(tmp_path / name / "metrics.jsonl") for name in ("one", "changing"))
    np.testing.assert_allclose([row["loss"] for row in many], [row["loss"] for row in one], atol=1e-6)


def uneven_gradients(ranks: Ranks) -> list[Any]:
    """One parameter that both ranks use, in a bucket of its own, one that only rank 1 does, one that nobody does."""
    both = nn.Parameter(torch.ones(1 << 23))
    one, none = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    both.grad = torch.ones_like(both)  # of an earlier part of the batch
    with ranks.summing_gradients([none, both, one]):
        total = both.sum() * (ranks.rank + 1)
        if ranks.rank == 1:
            total = total + (one * torch.tensor([1.0, 2.0, 3.0])).sum()
        total.backward()
    assert both.grad is not None and bool((both.grad == both.grad[0]).all())
    return [both.grad[0].item(), one.grad.tolist() if one.grad is not None else None, none.grad]


def test_a_parameter_without_gradient_is_treated_as_in_one_process() -> None:
    assert run_ranks(2, uneven_gradients) == [[5.0, [1.0, 2.0, 3.0], None]] * 2


def resumed_in_ranks(ranks: Ranks, run: str) -> list[float]:
    settings = recipe(steps=12, checkpoint_every=5)
    for state in (None, 5):
        torch.manual_seed(7)
        loader = FakeLoader(rank=ranks.rank, world_size=ranks.world_size)
        found = None if state is None else torch.load(Checkpoints(Path(run) / "checkpoints").path(state))
        train(settings, FakeModel(), FakeLoss(), loader, dict, Path(run), QUIET, ranks=ranks, state=found)
        if ranks.is_main and state is None:
            Path(run, "first.json").write_text(str([row["loss"] for row in read_rows(Path(run) / "metrics.jsonl")]))
    return [row["loss"] for row in read_rows(Path(run) / "metrics.jsonl")]


def test_ranks_resume_with_their_own_random_states(tmp_path: Path) -> None:
    losses = run_ranks(2, resumed_in_ranks, str(tmp_path))[0]
    assert str(losses) == (tmp_path / "first.json").read_text()


def waiting_for_the_main_rank(ranks: Ranks) -> str:
    if ranks.is_main:
        time.sleep(8)
    return ranks.from_main("an evaluation's numbers" if ranks.is_main else "")


@pytest.mark.slow
def test_the_main_ranks_work_is_waited_for_beyond_the_limit() -> None:
    assert run_ranks(2, waiting_for_the_main_rank, limit=timedelta(seconds=5)) == ["an evaluation's numbers"] * 2


def test_synchronized_batch_norm_keeps_names_and_evaluates_alike() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 4, 1), nn.BatchNorm1d(4), nn.Sequential(nn.BatchNorm1d(4)))
    model(torch.randn(5, 3, 7))
    before, x = {name: value.clone() for name, value in model.state_dict().items()}, torch.randn(5, 3, 7)
    expected = model.eval()(x)
    synchronize_batch_norm(model)
    assert sum(isinstance(module, SynchronizedBatchNorm) for module in model.modules()) == 2
    assert list(model.state_dict()) == list(before)
    assert torch.equal(model(x), expected)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with (
        pytest.raises(InputError, match="process 2 of this machine has no GPU of its own, PyTorch sees 2"),
        join_ranks(),
    ):
        pass
