"""The golden cases of the networks: their batches, their weights by published name, their numbers."""

import importlib.util
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config import ModelSettings
from pipeline.models import build_model
from tests.conftest import GOLDEN

TINY = {
    "video_dim": 6,
    "text_dim": 5,
    "embed_dim": 8,
    "projection_dim": 7,
    "heads": 2,
    "davenet": "small",
    "davenet_width": 2,
}
"""Sizes of an MFT that takes milliseconds."""

_MFT = {"video_dim": 32, "text_dim": 16, "embed_dim": 64, "projection_dim": 48, "heads": 4, "davenet": "small"}
_MCN = {"video_dim": 32, "text_dim": 16, "embed_dim": 64, "davenet": "small"}
MFT_CASES = {
    "mft_base": ModelSettings(**_MFT),
    "mft_depth2": ModelSettings(**_MFT, depth=2, mlp_ratio=2.0),
    "mft_audio_maxpool": ModelSettings(**_MFT, audio_pooling="max_pool", max_audio_tokens=6),
    "mft_per_modality": ModelSettings(**_MFT, per_modality=True),
}
MCN_CASES = {
    "mcn_base": ModelSettings(name="mcn", reconstruction_dim=24, **_MCN),
    "avlnet_text_tri": ModelSettings(name="avlnet_text_tri", **_MCN),
    "avlnet_text_fused": ModelSettings(name="avlnet_text_fused", **_MCN),
    "avlnet": ModelSettings(name="avlnet", **_MCN),
}
_SEEDS = {name: 11 + number for number, name in enumerate(MFT_CASES)}
_SEEDS |= {name: 21 + number for number, name in enumerate(MCN_CASES)}


@lru_cache(maxsize=1)
def _fill() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_fill", GOLDEN / "fill.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def published_keys(case: str) -> list[tuple[str, list[int]]]:
    keys: list[tuple[str, list[int]]] = _fill().load_keys(str(GOLDEN / f"{case}.keys.json"))
    return keys


@lru_cache(maxsize=8)
def _filled(case: str) -> dict[str, Any]:
    values: dict[str, Any] = _fill().fill(published_keys(case), _SEEDS[case])
    return values


def published_weights(case: str) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in _filled(case).items()}


def without_weights(case: str) -> nn.Module:
    with torch.device("meta"):
        return build_model((MFT_CASES | MCN_CASES)[case])


def with_published_weights(case: str) -> nn.Module:
    model = without_weights(case)
    model.load_state_dict(published_weights(case), strict=True, assign=True)
    return model


def numbers(case: str, prefix: str) -> dict[str, Any]:
    """What the case holds under ``prefix/``, without the prefix."""
    with np.load(GOLDEN / f"{case}.npz") as arrays:
        return {name.removeprefix(f"{prefix}/"): arrays[name] for name in arrays if name.startswith(f"{prefix}/")}


def batch_of(case: str) -> dict[str, Tensor]:
    """The case's batch, under the published names."""
    return {name: torch.from_numpy(value) for name, value in numbers(case, "in").items()}


def in_double(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same batch for a model of float64.

    Gradients are compared in it: among some hundred thousand units a few lie so near to zero (1e-6) that float32's
    rounding, another on each machine, decides whether a gradient passes them, and one of them can move a norm by 1e-3.
    """
    return {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}


def assert_close(ours: Tensor | float, golden: Any, tolerance: float = 1e-4) -> None:
    """Relative to each golden number; those near zero may be off by a hundred-thousandth of the largest."""
    ours, golden = np.asarray(torch.as_tensor(ours).detach()), np.asarray(golden)
    assert ours.shape == golden.shape
    np.testing.assert_allclose(ours, golden, rtol=tolerance, atol=0.1 * tolerance * np.abs(golden).max())


def assert_gradient_norms(model: nn.Module, golden: dict[str, Any]) -> None:
    """The same parameters have gradients, of the same norms.

    Norms are summed in float32, as the golden ones were: of ten million squares that is 4e-4 off.
    """
    norms = {name: p.grad.float().norm() for name, p in model.named_parameters() if p.grad is not None}
    assert set(norms) == set(golden)
    for name, norm in norms.items():
        np.testing.assert_allclose(norm.item(), golden[name], rtol=1e-4, atol=1e-7, err_msg=name)
