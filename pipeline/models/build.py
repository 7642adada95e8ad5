"""Networks from settings."""

from __future__ import annotations

from pipeline.config import ModelSettings
from pipeline.models.mcn import MCN
from pipeline.models.mft import MFT

Network = MFT | MCN


def build_model(settings: ModelSettings) -> Network:
    """A network with fresh weights; its ``forward`` takes a batch and returns named embeddings.

    Raises:
        InputError: settings that contradict each other.
    """
    return MFT(settings) if settings.name == "mft" else MCN(settings)
