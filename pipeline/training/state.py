"""What a checkpoint holds: everything that the next step depends on."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.models.checkpoints import find_state_dict
from pipeline.models.checkpoints import read_checkpoint as read_any_checkpoint
from pipeline.models.published import settings_told
from pipeline.training.checkpoint import State
from pipeline.training.distributed import Ranks


class Stateful(Protocol):
    """What can save and restore its position."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Goes on from a saved position."""


@dataclass
class Position:
    """How far a run is."""

    step: int = 0
    """Optimiser steps done."""
    elapsed: float = 0.0
    """Seconds of training so far, over all restarts."""


def capture(position: Position, parts: dict[str, Stateful], recipe: dict[str, Any], ranks: Ranks) -> State:
    """The run's state; all ranks take part, and the main rank's answer is the one to save.

    Args:
        position: how far the run is.
        parts: model, loss, optimiser, scaler by name.
        recipe: the settings, to tell later what was trained.
        ranks: whose random states are saved too.
    """
    return {
        "version": 1,
        **vars(position),
        "recipe": recipe,
        "random": ranks.all_of(random_state(ranks.device)),
        **{name: part.state_dict() for name, part in parts.items()},
    }


def restore(state: State, parts: dict[str, Stateful], ranks: Ranks) -> Position:
    """Puts the parts back to where they were.

    A rank that the saved run did not have keeps the random state that its seed gave it. The parts' states are taken out
    of ``state``.

    Raises:
        InputError: the checkpoint is of another model or optimiser.
    """
    for name, part in parts.items():
        if name == "scaler" and not state.get(name):
            continue  # saved without one: train.precision has changed
        if name not in state:
            raise InputError(f"the checkpoint has no {name}: it is only good for --init")
        try:
            part.load_state_dict(state.pop(name))  # what has been loaded need not stay in memory
        except (RuntimeError, ValueError, KeyError) as error:
            first = " ".join(str(error).split())[:200]
            raise InputError(f"the checkpoint does not fit this run's {name} ({first})") from None
    if ranks.rank < len(state["random"]):
        set_random_state(state["random"][ranks.rank], ranks.device)
    return Position(state["step"], state["elapsed"])


def random_state(device: torch.device) -> dict[str, Any]:
    """States of all generators that training may draw from."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [kind, [int(key) for key in keys], *rest],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Sets them again."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def load_weights(model: nn.Module, path: Path) -> None:
    """Puts the weights of a checkpoint, of this program or a published one, into a model.

    Raises:
        InputError: there is no such file, or it is of another model.
    """
    checkpoint = read_any_checkpoint(path)
    weights = find_state_dict(checkpoint, str(path))
    trained = checkpoint.get("recipe") if isinstance(checkpoint, dict) else None
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        recipe = f", it was trained with recipe {trained['name']}" if isinstance(trained, dict) else ""
        reason = _difference(model, weights) or " ".join(str(error).split())[:300]
        raise InputError(f"{path} is of another model than the recipe's: {reason}{recipe}") from None
    lost = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
    if lost:
        raise InputError(f"{path}: its {lost[0]} is not finite: its training diverged; take an earlier checkpoint")
    _check_told(model, checkpoint, path)


def _check_told(model: nn.Module, checkpoint: Any, path: Path) -> None:
    """What shapes don't tell, but what a network computes depends on: that it is as the checkpoint's settings say."""
    settings = getattr(model, "settings", None)
    if settings is None or settings.name != "mft":
        return
    told = settings_told(checkpoint, path, settings.davenet)
    heads = told.get("heads", settings.heads)
    if heads != settings.heads:
        raise InputError(
            f"{path} was trained with model.heads {heads}, not {settings.heads}: set --model.heads {heads}"
        )
    if told.get("text_video_only") and not settings.text_video_only:
        raise InputError(f"{path} was trained without sound: set --model.text_video_only true")


def _difference(model: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """The first thing that keeps weights out of a model."""
    own = model.state_dict()
    lacking, foreign = [name for name in own if name not in weights], [name for name in weights if name not in own]
    for names, what in ((lacking, "it has no"), (foreign, "the recipe's has no")):
        if names:
            more = f" (and {len(names) - 1:,} more)" if len(names) > 1 else ""
            return f"{what} {names[0]}{more}"
    for name, value in own.items():
        if weights[name].shape != value.shape:
            return f"its {name} is {list(weights[name].shape)}, the recipe's {list(value.shape)}"
    return ""
