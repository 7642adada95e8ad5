"""The network as ``torch.compile`` makes it."""

from __future__ import annotations

import os
import shutil
from typing import cast

import torch
from torch import nn

from pipeline.errors import InputError
from pipeline.models import MCN, MFT
from pipeline.training.distributed import Ranks

_MOST_PROGRAMS = 64
"""Of one network; torch's own limit is 8, and what comes then is not compiled. Each way that is timed makes one, and so
does each limit of tokens."""


def compiled(model: nn.Module, ranks: Ranks) -> nn.Module:
    """The network as one program; where several processes train, as two.

    A program gives all its gradients at its end. In two, those of what follows the audio network set out to the other
    processes while its own are worked out.

    Raises:
        InputError: there is no compiler, which PyTorch asks for as the first batch comes.
    """
    _check_compiler(ranks.device)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_PROGRAMS)
    if ranks.world_size > 1 and isinstance(model, MFT | MCN):
        model.audio_network_apart = True
    return cast(nn.Module, torch.compile(model))


def _check_compiler(device: torch.device) -> None:
    names = ("gcc", "clang", "cc") if device.type == "cuda" else ("g++", "clang++", "c++")
    chosen = os.environ.get("CC" if device.type == "cuda" else "CXX")
    if shutil.which(chosen) is None if chosen else not any(map(shutil.which, names)):
        raise InputError(
            f"train.compile needs a C compiler, and there is no {chosen or names[0]}: install one (Debian: apt-get "
            "install g++), or leave train.compile false"
        )
