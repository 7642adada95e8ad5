"""Networks: MFT, MCN, AVLnet, their blocks and their published checkpoints."""

from __future__ import annotations

from torch import nn

from pipeline.config import ModelSettings
from pipeline.errors import InputError
from pipeline.models.mft import MFT

__all__ = ["MFT", "build_model"]


def build_model(settings: ModelSettings) -> nn.Module:
    """A network with fresh weights; its ``forward`` takes a batch and returns named embeddings.

    Raises:
        InputError: settings that contradict each other.
    """
    if settings.name == "mft":
        return MFT(settings)
    raise InputError(f"there is no model {settings.name}: known are mft")
