"""MFT's shared and packed computation equals six separate passes with attention written out, for all its options."""

import importlib.util
from pathlib import Path

import pytest
import torch

from pipeline.config import ModelSettings
from pipeline.models import MFT, rows
from tests.models.golden import TINY

OPTIONS = {
    "plain": {},
    "no transformer": {"depth": 0},
    "three layers": {"depth": 3, "mlp_ratio": 2.5},
    "large audio network": {"davenet": "large"},
    "shared projection": {"individual_projections": False},
    "class token": {"class_token": True, "individual_projections": False, "depth": 2},
    "linear": {"token_projection": "linear", "projection": "linear"},
    "none": {
        "projection": "none",
        "token_projection": "none",
        "video_dim": 8,
        "text_dim": 8,
        "projection_dim": 8,
        "davenet_width": 1,
    },
    "positions": {"positions": True, "max_video_tokens": 12, "max_text_tokens": 20, "max_audio_tokens": 48},
}


@pytest.fixture(scope="module")
def benchmark_step():
    path = Path(__file__).parents[2] / "benchmarks" / "step.py"
    spec = importlib.util.spec_from_file_location("benchmark_step", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("padding_is", ["computed", "left out"])
@pytest.mark.parametrize("option", OPTIONS)
def test_same_loss_outputs_and_gradients(benchmark_step, option, padding_is, monkeypatch):
    monkeypatch.setattr(rows, "LEAST_DIM", 512 if padding_is == "computed" else 0)
    settings = ModelSettings(**TINY | OPTIONS[option])
    torch.manual_seed(1)
    model = MFT(settings).double().train()
    batch = {name: value.double() for name, value in benchmark_step.make_batch(settings, 5, "cpu").items()}
    steps = (benchmark_step.Step(model, "cpu", published=published) for published in (False, True))
    distance = benchmark_step.differences(*steps, batch)
    assert max(distance.values()) < 1e-9
