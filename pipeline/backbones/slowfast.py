"""SlowFast features, from PyTorchVideo's own hub entry.

Feichtenhofer, Fan, Malik and He, *SlowFast Networks for Video Recognition*, ICCV 2019. The hub entry needs the
packages of the extra ``slowfast``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from pipeline.backbones.base import Backbone, Normalize
from pipeline.backbones.weights import checkpoint_path, from_hub
from pipeline.errors import InputError
from pipeline.media.decode import FrameFormat

REPOSITORY = "facebookresearch/pytorchvideo"
REVISION = "28fe037d212663c6a24f373b94cc5d478c8c1a1d"
_CHECKPOINTS = {
    "slowfast_r50": "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/SLOWFAST_8x8_R50.pyth",
    "slowfast_r101": "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/SLOWFAST_8x8_R101.pyth",
}
FRAMES = 32
"""Frames of the fast path."""
SLOWNESS = 4
"""The slow path sees this many times fewer."""
_MEAN = (0.45, 0.45, 0.45)
_STD = (0.225, 0.225, 0.225)


class SlowFastFeatures(nn.Module):
    """SlowFast up to what enters its classifier, averaged over what is left of space and time."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.normalize = Normalize(_MEAN, _STD)
        # the last block is the classifier
        self.blocks = nn.ModuleList(list(cast(nn.ModuleList, network.blocks))[:-1])

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """uint8 ``[batch, 32, height, width, 3]`` to float32 ``[batch, 2304]``."""
        return self.features(self.normalize(clips))

    def features(self, fast: torch.Tensor) -> torch.Tensor:
        """Normalised float ``[batch, 3, 32, height, width]`` to ``[batch, 2304]``."""
        length = fast.shape[2]
        places = torch.linspace(0, length - 1, length // SLOWNESS, device=fast.device).long()
        x: Any = [fast.index_select(2, places), fast]
        for block in self.blocks:
            x = block(x)
        return cast(torch.Tensor, x).mean(dim=(2, 3, 4))


def slowfast(name: str) -> Backbone:
    """2304-d clip features at 1 per second: 32 frames at 15 per second (the published 64 at 30, every other one)."""
    return Backbone(
        name=name,
        dim=2304,
        frame_format=FrameFormat(rate=15, size=256, crop=True),
        version=f"{name}/2: PyTorchVideo, Kinetics-400 8x8, 32 frames at 15/s every second, 256x256 crop",
        build=partial(_build, name),
        clip_length=FRAMES,
        stride=15,
        padding="repeat",
    )


def _build(name: str) -> nn.Module:
    hub_name = REPOSITORY.replace("/", "_")
    folder = Path(torch.hub.get_dir()) / f"{hub_name}_{REVISION}"
    revision = REVISION
    if not folder.is_dir() and (folder.with_name(f"{hub_name}_main")).is_dir():
        revision = "main"  # a copy that torch.hub made for someone who did not pin
    files = {
        f"https://github.com/{REPOSITORY}/archive/{REVISION}.zip (unpacked)": folder,
        _CHECKPOINTS[name]: checkpoint_path(_CHECKPOINTS[name].rsplit("/", 1)[-1]),
    }
    if revision == "main":
        files.pop(next(iter(files)))
    try:
        network = from_hub(
            name,
            lambda: torch.hub.load(
                f"{REPOSITORY}:{revision}", name, pretrained=True, trust_repo=True, skip_validation=True, verbose=False
            ),
            files,
        )
    except InputError as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise InputError(
                f"{name}: PyTorchVideo needs {error.__cause__.name}; install the extra: "
                "pip install 'howto-pipeline[slowfast]'"
            ) from None
        raise
    return SlowFastFeatures(network)
