"""MCN's loss, gradients, queue and centroids on two processes are those of one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
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


def mcn_steps(ranks: Ranks, clustering: str) -> dict[str, Any]:
    """Some steps of gradient descent; what came of them."""
    torch.manual_seed(7)
    sizes = {"video_dim": 12, "text_dim": 10, "embed_dim": 16, "davenet": "small", "davenet_width": 2}
    head = {"cluster_classes": 5, "cluster_projection_dim": 4, "cluster_cosine": True}
    model = build_model(
        ModelSettings(name="mcn", reconstruction_dim=6, **sizes, **(head if clustering == "sinkhorn" else {}))
    ).double()
    settings = LossSettings(name="mcn", clusters=5, queue_size=2)
    if clustering == "sinkhorn":
        settings = replace(settings, clustering="sinkhorn", cluster_targets="swapped", soft_labels=True)
    loss = build_loss(settings)
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
    weights = np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])
    found = {"totals": np.array(totals), "weights": weights}
    if clustering == "kmeans":
        state = loss.state_dict()["clustering._extra_state"]
        found |= {"centroids": state["centroids"].numpy(), "queue": torch.cat(state["queue"]).numpy()}
    return found


@pytest.mark.parametrize("clustering", ["kmeans", "sinkhorn"])
def test_two_processes_are_one(clustering: str) -> None:
    expected = mcn_steps(Ranks(), clustering)
    first, second = run_ranks(2, mcn_steps, clustering)
    assert clustering == "sinkhorn" or len(expected["queue"]) == 2 * VIDEOS * PER_VIDEO // 2
    for name, value in expected.items():
        np.testing.assert_allclose(first[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
