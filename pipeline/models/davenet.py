"""DAVEnet: a residual network over time that turns a log-mel spectrogram into tokens.

Harwath, Hsu and Glass, *Learning Hierarchical Discrete Linguistic Units from Visually-Grounded Speech* (ICLR 2020).
Its first kernel spans all mel bands, so everything after it is a convolution over time alone and runs as one, though
the weights keep the two-dimensional shapes of the published checkpoints.

Tensors are ``[batch, channels, time]``. Where :mod:`~pipeline.models.fast_convolution` takes fewer operations on a CPU
they lie in memory as it makes them, time first and channels last, and stay so until a convolution as defined comes. On
a GPU they lie batch first and channels last, as its matrix units take them, and convolutions are those of images one
high, since torch's convolution over time would copy each tensor to another order.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.fast_convolution import ON_CPU, ON_CPU_IN_HALVES, ON_GPU, Costs, Plan, convolve, plan
from pipeline.models.products import linear

DavenetSize = Literal["small", "large"]

MEL_BANDS = 40
KERNEL = 9
CHANNELS_LAST_ON = ("cuda",)
"""Kinds of devices whose convolutions want channels last."""
BLOCKS: dict[DavenetSize, tuple[int, ...]] = {"small": (2, 2, 2, 2), "large": (2, 2, 1, 1, 1, 1)}
"""Residual blocks per stage; each stage halves the rate."""


def stride_of(size: DavenetSize) -> int:
    """Spectrogram frames per token of an audio network: each stage halves the rate."""
    return 1 << len(BLOCKS[size])


class TimeConvolution(nn.Module):
    """A convolution over time whose weight has the shape of a two-dimensional kernel of height or depth one."""

    def __init__(self, shape: tuple[int, int, int, int], stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.transforms_on: tuple[str, ...] = ("cpu",)
        """Kinds of devices where it may go through a transform."""
        out_channels, _, height, width = shape
        self.padding = width // 2
        self.weight = nn.Parameter(torch.randn(shape) * math.sqrt(2 / (height * width * out_channels)))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in channels, time]`` → ``[batch, out channels, time / stride]``."""
        out_channels, _, _, width = self.weight.shape
        kernel = self.weight.view(out_channels, -1, width)
        if width == 1 and _time_first(x):
            return linear(x.permute(2, 0, 1)[:: self.stride], kernel[:, :, 0]).permute(1, 2, 0)
        cut = self.plan(x, x.shape[2])
        if cut is not None:
            signal = x.permute(2, 0, 1)
            if torch.is_autocast_enabled(x.device.type):
                dtype = torch.get_autocast_dtype(x.device.type)
                signal, kernel = signal.to(dtype), kernel.to(dtype)
            if self.stride == 2:
                signal, kernel = _phases(signal, kernel)
            return convolve(signal.contiguous(), kernel, cut).permute(1, 2, 0)
        if x.device.type in CHANNELS_LAST_ON:
            image = x.unsqueeze(2).contiguous(memory_format=torch.channels_last)
            strides, padding = (1, self.stride), (0, self.padding)
            return F.conv2d(image, kernel.unsqueeze(2), stride=strides, padding=padding).squeeze(2)
        return F.conv1d(x, kernel, stride=self.stride, padding=self.padding)

    def plan(self, x: Tensor, time: int) -> Plan | None:
        """How the transform would take signals like ``x``, so many samples long; None where it does not pay."""
        costs = _costs(x) if x.device.type in self.transforms_on else None
        out_channels, in_channels, _, width = self.weight.shape
        if costs is None or width == 1:
            return None
        if self.stride == 1:
            return plan(time, len(x), in_channels, out_channels, width, costs)
        return plan(math.ceil(time / 2), len(x), 2 * in_channels, out_channels, width // 2 + 1, costs)


class TimeNorm(nn.BatchNorm2d):
    """Batch norm of ``[batch, channels, time]``, as a norm of images, which alone is fast with channels last."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, and the same order in memory."""
        if _time_first(x):
            return super().forward(x.permute(2, 1, 0).unsqueeze(3)).squeeze(3).permute(2, 1, 0)
        return super().forward(x.unsqueeze(2)).squeeze(2)


class ResidualBlock(nn.Module):
    """Two convolutions with batch norm beside a shortcut, which is a strided 1×1 convolution where the rate halves."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = TimeConvolution((channels, in_channels, 1, KERNEL), stride)
        self.bn1 = TimeNorm(channels)
        self.conv2 = TimeConvolution((channels, channels, 1, KERNEL))
        self.bn2 = TimeNorm(channels)
        self.downsample = (
            nn.Sequential(TimeConvolution((channels, in_channels, 1, 1), stride), TimeNorm(channels))
            if stride > 1
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in channels, time]`` → ``[batch, channels, time / stride]``."""
        if self.conv2.plan(x, math.ceil(x.shape[2] / self.conv1.stride)) is not None:
            # as its result will lie, so that the shortcut lies like it
            x = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
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
        self.bn1 = TimeNorm(width)
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
        self.stride = stride_of(size)
        """Spectrogram frames per token."""

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Log-mel ``[batch, 40, frames]`` → tokens ``[batch, ceil(frames / stride), dim]``."""
        x = F.relu(self.bn1(self.conv1(spectrogram)))
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return x.transpose(1, 2)

    def take_transforms_on(self, *devices: str) -> None:
        """Sets the kinds of devices where convolutions go through a transform if it takes less time by count; ``cpu``
        alone unless told otherwise, since no GPU's count was compared with its clock.
        """
        for module in self.modules():
            if isinstance(module, TimeConvolution):
                module.transforms_on = devices

    def frames_per_token(self, frames: int) -> int:
        """How many frames of a spectrogram count as one token's where tokens are told from padding.

        The stride; but where a length that it does not divide falls into equal parts, as many tokens as the network
        gives, MFT's program counts those parts.
        """
        tokens = -(-frames // self.stride)
        return self.stride if frames % tokens else frames // tokens

    def token_mask(self, frame_mask: Tensor) -> Tensor:
        """Which tokens hold a real frame: bool ``[batch, frames]`` → bool ``[batch, ceil(frames / stride)]``."""
        frames = frame_mask.float().unsqueeze(1)
        return F.max_pool1d(frames, self.frames_per_token(frames.shape[2]), ceil_mode=True).squeeze(1) > 0


def _costs(x: Tensor) -> Costs | None:
    """What the transform costs where ``x`` lies; None where convolutions are to be as defined."""
    device = x.device.type
    halves = torch.is_autocast_enabled(device)
    if halves and torch.get_autocast_dtype(device) != torch.bfloat16:
        return None  # sums over a signal may leave the range of float16
    if device == "cpu":
        return None if torch.compiler.is_compiling() else ON_CPU_IN_HALVES if halves else ON_CPU
    return ON_GPU if halves else None


def _time_first(x: Tensor) -> bool:
    """Whether ``[batch, channels, time]`` lies in memory with time first and channels last."""
    return x.stride(1) == 1 and x.shape[1] > 1 and x.stride(2) >= x.stride(0)


def _phases(signal: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """A convolution of stride 2 as one of stride 1: even and odd samples become channels, and so do the taps.

    Args:
        signal: ``[time, batch, channels]``.
        kernel: ``[out channels, channels, taps]``; ``taps`` is ``4 n + 1``, so that the middle one is even.

    Returns:
        ``[time / 2, batch, 2 * channels]`` and ``[out channels, 2 * channels, taps // 2 + 1]``.
    """
    time, batch, channels = signal.shape
    signal = F.pad(signal, (0, 0, 0, 0, 0, time % 2))
    pairs = signal.view(-1, 2, batch, channels).transpose(1, 2).reshape(-1, batch, 2 * channels)
    taps = F.pad(kernel, (0, 1)).unflatten(2, (-1, 2)).permute(0, 3, 1, 2)
    return pairs, taps.reshape(len(kernel), 2 * channels, -1)
