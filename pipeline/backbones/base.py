"""What a backbone is: frames of one format in, one feature vector per frame or clip out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from pipeline.backbones.fusion import fuse_convolutions
from pipeline.media.decode import FrameFormat


@dataclass(frozen=True)
class Backbone:
    """A network for frames or clips, how its input is sampled, and where its weights come from."""

    name: str
    dim: int
    """Width of a feature."""
    frame_format: FrameFormat
    version: str
    """Architecture, weights and sampling in one line; stored with the features."""
    build: Callable[[], nn.Module]
    """Makes the network with its weights, on the CPU; may download them through torch.hub.

    It takes uint8 ``[batch, height, width, 3]``, or ``[batch, clip_length, height, width, 3]`` where clips are
    meant, as RGB, and gives float32 ``[batch, dim]``.
    """
    clip_length: int | None = None
    """Frames of a clip; None: each frame by itself."""
    stride: int = 1
    """Frames from the start of one clip to the next."""
    padding: Literal["black", "repeat"] = "black"
    """What a clip that runs past the end is filled with: black frames, or its last frame."""
    fusable: bool = False
    """Whether a CPU can run it by :func:`~pipeline.backbones.fusion.fuse_convolutions`."""
    seeded: bool = False
    """Whether the weights are random stand-ins for published ones."""

    @property
    def features_per_second(self) -> float:
        """Feature ``i`` starts at second ``i / features_per_second``."""
        return self.frame_format.rate / self.stride

    def load(self, device: torch.device | str = "cpu") -> nn.Module:
        """The network on ``device``, in evaluation mode, without gradients, laid out in memory as is fastest there.

        Raises:
            InputError: the weights are neither in ``TORCH_HOME`` nor to be had.
        """
        device = torch.device(device)
        network = self.build().eval().requires_grad_(False).to(device)
        if self.clip_length is None:
            network = network.to(memory_format=torch.channels_last)
        elif device.type == "cuda":
            network = network.to(memory_format=torch.channels_last_3d)
        if self.fusable and device.type == "cpu" and isinstance(network, Normalized):
            network.network = fuse_convolutions(network.network, self._typical_input())
        return network

    def _typical_input(self) -> list[int]:
        height = self.frame_format.size
        width = height if self.frame_format.crop else height * 16 // 9
        return [1, 3, *([self.clip_length] if self.clip_length else []), height, width]


class Normalize(nn.Module):
    """Turns uint8 frames with channels last into the floats that a network was trained on.

    ``(frames / scale - mean) / std`` per channel, channels moved before time and space.
    """

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float], scale: float = 255.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean) * scale, persistent=False)
        self.register_buffer("inverse_std", 1 / (torch.tensor(std) * scale), persistent=False)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """``[batch, ..., 3]`` uint8 to ``[batch, 3, ...]`` float32."""
        normal = (frames.float() - self.get_buffer("mean")) * self.get_buffer("inverse_std")
        return normal.movedim(-1, 1)


class Normalized(nn.Module):
    """A network behind the normalisation that it was trained with."""

    def __init__(self, network: nn.Module, normalize: Normalize) -> None:
        super().__init__()
        self.normalize = normalize
        self.network = network

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 ``[batch, ..., 3]``, frames or clips, to float ``[batch, dim]``."""
        return self.network(self.normalize(frames))
