"""The clip features of HowTo100M, MCN and MFT: a 3D ResNeXt-101 trained on Kinetics.

Hara, Kataoka and Satoh, *Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?*, CVPR 2018,
section 3.2. Parameters have the names of the published checkpoint, ``resnext101.pth``.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from pipeline.backbones.base import Backbone, Normalize, Normalized
from pipeline.backbones.folding import fold_batch_norms
from pipeline.backbones.weights import fetch_weights, filled
from pipeline.media.decode import FrameFormat

URL = "https://www.rocq.inria.fr/cluster-willow/amiech/howto100m/models/resnext101.pth"
CARDINALITY = 32
EXPANSION = 2
"""Channels out of a block, over those inside it."""
BLOCKS = (3, 4, 23, 3)
KINETICS_MEAN = (110.6 / 255, 103.2 / 255, 96.3 / 255)


class Block(nn.Module):
    """Narrow, grouped 3 x 3 x 3 convolution, wide; added to its input."""

    def __init__(self, channels_in: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, stride=stride, padding=1, groups=CARDINALITY, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, EXPANSION * width, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(EXPANSION * width)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[batch, channels, time, height, width]``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(self.conv2(x)))
        return functional.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNeXt3D(nn.Module):
    """ResNeXt-101 over time and space; gives what enters the classifier, averaged over both."""

    def __init__(self, classes: int = 400) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, 7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        channels = 64
        for stage, blocks in enumerate(BLOCKS):
            width = 128 * 2**stage
            layer, channels = _stage(channels, width, blocks, stride=1 if stage == 0 else 2)
            self.add_module(f"layer{stage + 1}", layer)
        self.fc = nn.Linear(channels, classes)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Floats ``[batch, 3, time, height, width]`` to ``[batch, 2048]``."""
        x = functional.relu(self.bn1(self.conv1(clips)))
        x = functional.max_pool3d(x, 3, stride=2, padding=1)
        for stage in range(len(BLOCKS)):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return x.mean(dim=(2, 3, 4))


def _stage(channels: int, width: int, blocks: int, stride: int) -> tuple[nn.Sequential, int]:
    channels_out = EXPANSION * width
    downsample = nn.Sequential(
        nn.Conv3d(channels, channels_out, 1, stride=stride, bias=False), nn.BatchNorm3d(channels_out)
    )
    first = Block(channels, width, stride, downsample)
    rest = [Block(channels_out, width, 1, None) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest), channels_out


def resnext101_3d() -> Backbone:
    """2048-d clip features at 1.5 per second: 16 frames at 24 per second, the last clip filled up with black."""
    return Backbone(
        name="resnext101_3d",
        dim=2048,
        frame_format=FrameFormat(rate=24, size=112, crop=True),
        version="resnext101_3d/2: Kinetics-400, HowTo100M's resnext101.pth, 16 frames at 24/s, 112x112 crop",
        build=_build,
        clip_length=16,
        stride=16,
        padding="black",
        fusable=True,
    )


def _build() -> nn.Module:
    network = filled("resnext101_3d", ResNeXt3D, fetch_weights("resnext101_3d", URL))
    # the published network takes pixels from 0 to 255 with the mean removed
    return Normalized(fold_batch_norms(network.eval()), Normalize(KINETICS_MEAN, (1 / 255, 1 / 255, 1 / 255)))
