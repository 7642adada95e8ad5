"""Published weights, through torch.hub's folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from pipeline.errors import InputError

_Result = TypeVar("_Result")


def checkpoint_path(file_name: str) -> Path:
    """Where torch.hub keeps a weight file: ``TORCH_HOME/hub/checkpoints``."""
    return Path(torch.hub.get_dir()) / "checkpoints" / file_name


def fetch_weights(name: str, url: str, *, check_hash: bool = False) -> dict[str, torch.Tensor]:
    """The state dict at ``url``, from torch.hub's folder or fetched into it.

    Args:
        name: the backbone, for messages.
        url: where the weights are published; its last part names the file.
        check_hash: whether the file's name ends with the start of its hash; checked when it is fetched.

    Raises:
        InputError: it is not there and cannot be fetched, or is no weight file; the message says which file to put
            where.
    """
    file_name = url.rsplit("/", 1)[-1]
    state = from_hub(
        name,
        lambda: torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=check_hash, weights_only=True),
        files={url: checkpoint_path(file_name)},
    )
    # 3D-ResNets' own checkpoints wrap the state dict, and its names where several GPUs trained it
    state = state.get("state_dict", state)
    return {key.removeprefix("module."): value for key, value in state.items()}


def from_hub(name: str, load: Callable[[], _Result], files: Mapping[str, Path]) -> _Result:
    """Runs ``load``, which may fetch ``files`` (address: place), and says what to do when it cannot."""
    try:
        return load()
    except Exception as error:  # torch.hub lets URL, zip, pickle and hash errors of many types through
        missing = {url: place for url, place in files.items() if not place.exists()}
        cause = " ".join(str(error).split())[:200] or type(error).__name__
        if missing:
            todo = "; ".join(f"put {url} at {place}" for url, place in missing.items())
            raise InputError(f"{name}: its weights could not be fetched ({cause}): {todo}") from error
        places = ", ".join(str(place) for place in files.values())
        raise InputError(f"{name}: {places} cannot be used ({cause}): remove it, so that it is fetched anew") from error


def filled(name: str, make: Callable[[], nn.Module], state: Mapping[str, Any]) -> nn.Module:
    """The network that ``make`` makes, with weights; every key must be there, of the right shape, and no other.

    Raises:
        InputError: the weights are those of another network.
    """
    with torch.device("meta"):  # random weights would only be made to be thrown away
        network = make()
    try:
        network.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise InputError(f"{name}: the weight file is not of this network ({detail})") from None
    return network
