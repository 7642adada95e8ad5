"""Networks: MFT, MCN, AVLnet, their blocks and their published checkpoints."""

from pipeline.models.build import Network, build_model
from pipeline.models.mcn import MCN
from pipeline.models.mft import MFT
from pipeline.models.published import load_published, save_published

__all__ = ["MCN", "MFT", "Network", "build_model", "load_published", "save_published"]
