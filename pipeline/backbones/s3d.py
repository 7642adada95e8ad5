"""The clip features of MIL-NCE: S3D-G, trained on HowTo100M from scratch.

Xie et al., *Rethinking Spatiotemporal Feature Learning*, ECCV 2018 (the network, section 4.4 the gates); Miech et al.,
*End-to-End Learning of Visual Representations from Uncurated Instructional Videos*, CVPR 2020 (the weights, and the
first layer over blocks of 2 x 2 x 2 pixels). Parameters have the names of the published checkpoint,
``s3d_howto100m.pth``.
"""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.nn import functional

from pipeline.backbones.base import Backbone, Normalize, Normalized
from pipeline.backbones.folding import fold_batch_norms
from pipeline.backbones.weights import fetch_weights, filled
from pipeline.media.decode import FrameFormat

URL = "https://www.rocq.inria.fr/cluster-willow/amiech/howto100m/s3d_howto100m.pth"
_WORDS, _WORD_DIM, _TEXT_WIDTH, _EMBEDDING = 66_250, 300, 2048, 512

_Size = tuple[int, int, int]

INCEPTIONS = {
    "mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
"""Channels in, and of each branch: plain; narrow and wide of the two with 3 x 3 x 3; pooled."""


class Convolution(nn.Module):
    """Convolution, batch norm, ReLU; separable: in space first, then the same in time."""

    def __init__(
        self, channels_in: int, channels: int, size: _Size, padding: _Size = (0, 0, 0), separable: bool = False
    ) -> None:
        super().__init__()
        time, height, width = size
        if separable:
            self.conv1 = nn.Conv3d(channels_in, channels, (1, height, width), padding=(0, *padding[1:]), bias=False)
            self.conv2 = nn.Conv3d(channels, channels, (time, 1, 1), padding=(padding[0], 0, 0), bias=False)
            self.bn2 = nn.BatchNorm3d(channels)
        else:
            self.conv1 = nn.Conv3d(channels_in, channels, size, padding=padding, bias=False)
        self.bn1 = nn.BatchNorm3d(channels)
        self.separable = separable

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[batch, channels, time, height, width]``."""
        x = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(x))) if self.separable else x


class Gate(nn.Module):
    """Weighs channels by a sigmoid of a linear map of their own means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[batch, channels, time, height, width]``."""
        return torch.sigmoid(self.fc(x.mean(dim=(2, 3, 4))))[:, :, None, None, None] * x


class Inception(nn.Module):
    """Four branches side by side, each gated."""

    def __init__(self, channels_in: int, channels: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        plain, narrow_1, wide_1, narrow_2, wide_2, pooled = channels
        point, cube, padding = (1, 1, 1), (3, 3, 3), (1, 1, 1)
        self.conv_b0 = Convolution(channels_in, plain, point)
        self.conv_b1_a = Convolution(channels_in, narrow_1, point)
        self.conv_b1_b = Convolution(narrow_1, wide_1, cube, padding, separable=True)
        self.conv_b2_a = Convolution(channels_in, narrow_2, point)
        self.conv_b2_b = Convolution(narrow_2, wide_2, cube, padding, separable=True)
        self.conv_b3_b = Convolution(channels_in, pooled, point)
        for branch, width in enumerate((plain, wide_1, wide_2, pooled)):
            self.add_module(f"gating_b{branch}", Gate(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[batch, channels, time, height, width]``."""
        branches = (
            self.conv_b0(x),
            self.conv_b1_b(self.conv_b1_a(x)),
            self.conv_b2_b(self.conv_b2_a(x)),
            self.conv_b3_b(functional.max_pool3d(x, 3, stride=1, padding=1)),
        )
        gated = [self.get_submodule(f"gating_b{place}")(branch) for place, branch in enumerate(branches)]
        return torch.cat(gated, dim=1)


class S3D(nn.Module):
    """S3D-G up to its last inception block, averaged over time and space."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = Convolution(24, 64, (2, 4, 4), padding=(1, 2, 2))
        self.conv_2b = Convolution(64, 64, (1, 1, 1))
        self.conv_2c = Convolution(64, 192, (3, 3, 3), padding=(1, 1, 1), separable=True)
        self.gating = Gate(192)
        for name, (channels_in, channels) in INCEPTIONS.items():
            self.add_module(name, Inception(channels_in, channels))
        # the joint space with text, which comes with the checkpoint and is no part of the features
        self.fc = nn.Linear(1024, _EMBEDDING)
        self.text_module = nn.ModuleDict(
            {
                "word_embd": nn.Embedding(_WORDS, _WORD_DIM),
                "fc1": nn.Linear(_WORD_DIM, _TEXT_WIDTH),
                "fc2": nn.Linear(_TEXT_WIDTH, _EMBEDDING),
            }
        )

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Floats in [0, 1] ``[batch, 3, time, height, width]``, all even, to ``[batch, 1024]``."""
        # an even kernel with equal padding gives one place too many at the front
        x = self.conv1(_blocks(clips))[:, :, 1:, 1:, 1:]
        x = _pool(x, (1, 3, 3), (1, 2, 2))
        x = self.gating(self.conv_2c(self.conv_2b(x)))
        x = _pool(x, (1, 3, 3), (1, 2, 2))
        for name in INCEPTIONS:
            if name == "mixed_4b":
                x = _pool(x, (3, 3, 3), (2, 2, 2))
            elif name == "mixed_5b":
                x = _pool(x, (2, 2, 2), (2, 2, 2))
            x = self.get_submodule(name)(x)
        return x.mean(dim=(2, 3, 4))


def _blocks(x: torch.Tensor) -> torch.Tensor:
    """Moves blocks of 2 x 2 x 2 pixels into channels, ``[batch, 8 * channels, time / 2, height / 2, width / 2]``."""
    batch, channels, time, height, width = x.shape
    x = x.reshape(batch, channels, time // 2, 2, height // 2, 2, width // 2, 2)
    return x.permute(0, 3, 5, 7, 1, 2, 4, 6).reshape(batch, 8 * channels, time // 2, height // 2, width // 2)


# shapes are for these to look at, not for whoever traces the network
fx.wrap("_blocks")


def _pool(x: torch.Tensor, size: _Size, stride: _Size) -> torch.Tensor:
    """Maximum with TensorFlow's ``SAME`` padding: zeros, where odd the larger part at the end."""
    missing = [max(kernel - step, 0) for kernel, step in zip(size, stride, strict=True)]
    padding = [side for total in reversed(missing) for side in (total // 2, total - total // 2)]
    return functional.max_pool3d(functional.pad(x, padding), size, stride, ceil_mode=True)


def s3d_howto100m() -> Backbone:
    """1024-d clip features at 1 per second: 32 frames at 10 per second, as the network was trained."""
    return Backbone(
        name="s3d_howto100m",
        dim=1024,
        frame_format=FrameFormat(rate=10, size=224, crop=True),
        version="s3d_howto100m/2: MIL-NCE, mixed_5c, 32 frames at 10/s every second, 224x224 crop",
        build=_build,
        clip_length=32,
        stride=10,
        padding="repeat",
        fusable=True,
    )


def _build() -> nn.Module:
    network = filled("s3d_howto100m", S3D, fetch_weights("s3d_howto100m", URL))
    del network.text_module, network.fc
    return Normalized(fold_batch_norms(network.eval()), Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
