"""A run's folder from outside: its settings, its best checkpoint, the model that it trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from pipeline.config import ModelSettings, Recipe, load_recipe
from pipeline.errors import InputError
from pipeline.models import Network, build_model
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.state import load_weights


def read_recipe(run: Path, name: str | None, overrides: Sequence[str]) -> Recipe:
    """The settings of a model.

    Args:
        run: the run that trained it.
        name: a recipe by name or path, for a model that was not trained here; None: the run's ``config.yaml``.
        overrides: as for :func:`load_recipe`.

    Raises:
        InputError: there is neither.
    """
    settings = run / "config.yaml"
    if name is None and not settings.is_file():
        raise InputError(
            f"there is no run {run}; train one with: python -m pipeline.train --run {run} ... or give --recipe and "
            "--checkpoint"
        )
    return load_recipe(name or str(settings), overrides)


def best_checkpoint(run: Path) -> Path:
    """A run's best checkpoint, else its last; raises :class:`InputError` where there is none."""
    checkpoints = Checkpoints(run / "checkpoints")
    best, steps = checkpoints.best(), checkpoints.steps()
    if not steps:
        raise InputError(f"{run} has no checkpoint yet; train with: python -m pipeline.train --run {run} ...")
    return checkpoints.path(best[0] if best is not None and best[0] in steps else steps[-1])


def load_model(settings: ModelSettings, checkpoint: Path, device: torch.device) -> Network:
    """A network with a checkpoint's weights, on the device; raises :class:`InputError`."""
    model = build_model(settings)
    load_weights(model, checkpoint)
    return model.to(device)


def best_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
