"""Small networks with seeded random weights: stand-ins where published ones are out of reach, for demo and tests.

Random convolutions followed by pooling on a coarse grid keep colours, layout, edges and motion apart (random features:
Rahimi and Recht, 2007), so that a model on top has something to learn; nothing in them was trained.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from pipeline.backbones.base import Backbone
from pipeline.media.decode import FrameFormat

DIM = 128
_GRID = 4
_CHANNELS = 24


def _weight(generator: torch.Generator, *shape: int) -> nn.Parameter:
    fan_in = torch.Size(shape[1:]).numel()
    return nn.Parameter(torch.randn(*shape, generator=generator) / fan_in**0.5)


class SeededFrames(nn.Module):
    """Colours and edges of a frame on a 4 x 4 grid, projected at random to 128 numbers."""

    def __init__(self, seed: int = 2) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.edges = _weight(generator, _CHANNELS, 3, 5, 5)
        self.project = _weight(generator, DIM, (3 + _CHANNELS) * _GRID**2)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 ``[batch, height, width, 3]`` to float32 ``[batch, 128]``."""
        pixels = frames.movedim(-1, 1).float() / 127.5 - 1
        return functional.linear(self._grid(pixels).flatten(1), self.project)

    def _grid(self, pixels: torch.Tensor) -> torch.Tensor:
        colours = functional.adaptive_avg_pool2d(pixels, _GRID)
        contrast = pixels - functional.avg_pool2d(pixels, 9, stride=1, padding=4, count_include_pad=False)
        edges = functional.relu(functional.conv2d(contrast, self.edges, stride=2, padding=2))
        return torch.cat((colours, 3 * functional.adaptive_avg_pool2d(edges, _GRID)), dim=1)


class SeededClips(nn.Module):
    """What moves where in a clip, and what is there, projected at random to 128 numbers."""

    def __init__(self, seed: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.motion = _weight(generator, _CHANNELS, 3, 3, 5, 5)
        self.project = _weight(generator, DIM, (3 + _CHANNELS) * _GRID**2)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """uint8 ``[batch, frames, height, width, 3]`` to float32 ``[batch, 128]``."""
        pixels = clips.movedim(-1, 1).float() / 127.5 - 1
        still = pixels.mean(dim=2)
        colours = functional.adaptive_avg_pool2d(still, _GRID)
        moving = functional.conv3d(pixels - still[:, :, None], self.motion, stride=(1, 4, 4), padding=(0, 2, 2))
        motion = functional.adaptive_avg_pool2d(functional.relu(moving).mean(dim=2), _GRID)
        return functional.linear(torch.cat((colours, 5 * motion), dim=1).flatten(1), self.project)


def seeded_2d() -> Backbone:
    """Frame features at 1 per second."""
    return Backbone(
        name="seeded_2d",
        dim=DIM,
        frame_format=FrameFormat(rate=1, size=72),
        version="seeded_2d/1: random convolution and 4x4 grid, seed 2, 1 frame/s, shorter side 72",
        build=SeededFrames,
        seeded=True,
    )


def seeded_3d() -> Backbone:
    """Clip features at 1.5 per second: 8 frames each."""
    return Backbone(
        name="seeded_3d",
        dim=DIM,
        frame_format=FrameFormat(rate=12, size=64, crop=True),
        version="seeded_3d/2: random 3D convolution and 4x4 grid, seed 3, 8 frames at 12/s, 64x64 crop",
        build=SeededClips,
        clip_length=8,
        stride=8,
        padding="repeat",
        seeded=True,
    )
