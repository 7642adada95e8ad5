"""DAVEnet: a residual network over time that turns a log-mel spectrogram into tokens.

Harwath, Hsu and Glass, *Learning Hierarchical Discrete Linguistic Units from Visually-Grounded Speech* (ICLR 2020).
Its first kernel spans all mel bands, so everything after it is a convolution over time alone and runs as one, though
the weights keep the two-dimensional shapes of the published checkpoints.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DavenetSize = Literal["small", "large"]

MEL_BANDS = 40
KERNEL = 9
BLOCKS: dict[DavenetSize, tuple[int, ...]] = {"small": (2, 2, 2, 2), "large": (2, 2, 1, 1, 1, 1)}
"""Residual blocks per stage; each stage halves the rate."""


class TimeConvolution(nn.Module):
    """A convolution over time whose weight has the shape of a two-dimensional kernel of height or depth one."""

    def __init__(self, shape: tuple[int, int, int, int], stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        out_channels, _, height, width = shape
        self.padding = width // 2
        self.weight = nn.Parameter(torch.randn(shape) * math.sqrt(2 / (height * width * out_channels)))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in channels, time]`` → ``[batch, out channels, time / stride]``."""
        out_channels, _, _, width = self.weight.shape
        return F.conv1d(x, self.weight.view(out_channels, -1, width), stride=self.stride, padding=self.padding)


class ResidualBlock(nn.Module):
    """Two convolutions with batch norm beside a shortcut, which is a strided 1×1 convolution where the rate halves."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = TimeConvolution((channels, in_channels, 1, KERNEL), stride)
        self.bn1 = nn.BatchNorm1d(channels)
        self.conv2 = TimeConvolution((channels, channels, 1, KERNEL))
        self.bn2 = nn.BatchNorm1d(channels)
        self.downsample = (
            nn.Sequential(TimeConvolution((channels, in_channels, 1, 1), stride), nn.BatchNorm1d(channels))
            if stride > 1
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in channels, time]`` → ``[batch, channels, time / stride]``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class Davenet(nn.Module):
    """Spectrogram → audio tokens.

    Args:
        size: ``small`` (AVLnet's: four stages, one token per 16 frames) or ``large`` (MFT's: six, one per 64).
        width: channels of the first stage; each stage after it doubles them. 128 in all publications.
    """

    def __init__(self, size: DavenetSize = "large", width: int = 128) -> None:
        super().__init__()
        # The published programs hold this norm but never call it; it stays so that checkpoints keep their layout.
        self.batchnorm1 = nn.BatchNorm1d(1).requires_grad_(False)
        self.conv1 = TimeConvolution((width, 1, MEL_BANDS, 1))
        self.bn1 = nn.BatchNorm1d(width)
        self.stages = len(BLOCKS[size])
        in_channels = width
        for stage, blocks in enumerate(BLOCKS[size]):
            channels = width << stage
            first = ResidualBlock(in_channels, channels, stride=2)
            rest = (ResidualBlock(channels, channels, stride=1) for _ in range(blocks - 1))
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, *rest))
            in_channels = channels
        self.dim = in_channels
        """Width of a token."""
        self.stride = 2**self.stages
        """Spectrogram frames per token."""

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Log-mel ``[batch, 40, frames]`` → tokens ``[batch, ceil(frames / stride), dim]``."""
        x = F.relu(self.bn1(self.conv1(spectrogram)))
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return x.transpose(1, 2)

    def token_mask(self, frame_mask: Tensor) -> Tensor:
        """Which tokens hold a real frame: bool ``[batch, frames]`` → bool ``[batch, ceil(frames / stride)]``."""
        frames = frame_mask.float().unsqueeze(1)
        return F.max_pool1d(frames, self.stride, ceil_mode=True).squeeze(1) > 0
