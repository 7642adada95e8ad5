import itertools
import math

import pytest
import torch

from pipeline.config import TrainSettings
from pipeline.training.schedule import learning_rate, total_steps


def rates(settings: TrainSettings, steps: int, steps_per_epoch: int = 10) -> list[float]:
    return [learning_rate(settings, step, steps_per_epoch) for step in range(steps)]


def test_exponential_is_torchs_once_per_epoch() -> None:
    settings = TrainSettings(learning_rate=0.5, schedule="exponential", decay=0.9)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    expected = []
    for _ in range(4):
        expected += [optimizer.param_groups[0]["lr"]] * 10
        optimizer.step()
        scheduler.step()
    assert rates(settings, 40) == pytest.approx(expected, rel=1e-12)


def test_cosine_ends_at_zero_after_a_linear_warm_up() -> None:
    settings = TrainSettings(learning_rate=2.0, schedule="cosine", warmup_steps=4, epochs=3)
    assert total_steps(settings, 10) == 30
    found = rates(settings, 31)
    assert found[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert found[17] == pytest.approx(1.0)
    assert found[29] == pytest.approx(1.0 + math.cos(math.pi * 25 / 26))
    assert found[30] == pytest.approx(0.0)
    assert all(later <= earlier for earlier, later in itertools.pairwise(found[4:]))


def test_constant_and_a_limit_of_steps() -> None:
    settings = TrainSettings(learning_rate=0.1, schedule="constant", steps=7, epochs=100)
    assert total_steps(settings, 10) == 7
    assert rates(settings, 7) == [0.1] * 7
