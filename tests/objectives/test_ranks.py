"""MCN's loss, gradients, queue and centroids on two processes are those of one."""

from typing import Any

import numpy as np
import torch

from pipeline.config import LossSettings, ModelSettings
from pipeline.models import build_model
from pipeline.objectives import build_loss
from pipeline.training.batch_norm import synchronize_batch_norm
from pipeline.training.distributed import Ranks
from pipeline.training.step import loss_and_gradients
from tests.training.processes import run_ranks

VIDEOS, PER_VIDEO, STEPS = 4, 4, 5


def _batch(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    clips = VIDEOS * PER_VIDEO
    batch = {
        "text": torch.randn(clips, 6, 10, generator=generator, dtype=torch.float64),
        "video": torch.randn(clips, 1, 12, generator=generator, dtype=torch.float64),
        "audio": torch.randn(clips, 40, 64, generator=generator, dtype=torch.float64),
        "audio_nframes": torch.full((clips,), 64.0),
        "audio_mask": torch.ones(clips, 64),
        "video_index": torch.arange(clips) // PER_VIDEO,
    }
    batch["audio_mask"][3] = 0
    return batch


def mcn_steps(ranks: Ranks) -> dict[str, Any]:
    """Some steps of gradient descent; what came of them."""
    torch.manual_seed(7)
    sizes = {"video_dim": 12, "text_dim": 10, "embed_dim": 16, "davenet": "small", "davenet_width": 2}
    model = build_model(ModelSettings(name="mcn", reconstruction_dim=6, **sizes)).double()
    loss = build_loss(LossSettings(name="mcn", clusters=5, queue_size=2))
    if ranks.world_size > 1:
        synchronize_batch_norm(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    size = VIDEOS * PER_VIDEO // ranks.world_size
    own = slice(ranks.rank * size, (ranks.rank + 1) * size)
    totals = []
    for step in range(STEPS):
        optimizer.zero_grad()
        total, _ = loss_and_gradients(model, loss, {name: x[own] for name, x in _batch(step).items()}, ranks)
        optimizer.step()
        totals.append(float(total))
    state = loss.state_dict()["clustering._extra_state"]
    return {
        "totals": np.array(totals),
        "weights": np.concatenate([p.detach().numpy().ravel() for p in model.parameters()]),
        "centroids": state["centroids"].numpy(),
        "queue": torch.cat(state["queue"]).numpy(),
    }


def test_two_processes_are_one() -> None:
    expected = mcn_steps(Ranks())
    first, second = run_ranks(2, mcn_steps)
    assert len(expected["queue"]) == 2 * VIDEOS * PER_VIDEO // 2
    for name, value in expected.items():
        np.testing.assert_allclose(first[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
