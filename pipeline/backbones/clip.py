"""CLIP's image tower, ViT-B/32: frame features in the space that images and texts share.

Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*, 2021, section 2.4. Parameters
have the names of the published file, ``ViT-B-32.pt``, below ``visual.``; what else is in it belongs to the text tower
(:mod:`pipeline.backbones.clip_text`).
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import nn

from pipeline.backbones.base import Backbone, Normalize, Normalized
from pipeline.backbones.weights import checkpoint_path, filled, from_hub
from pipeline.media.decode import FrameFormat

URL = (
    "https://openaipublic.azureedge.net/clip/models/"
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt"
)
SIZE, PATCH, WIDTH, LAYERS, HEADS, DIM = 224, 32, 768, 12, 12, 512
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


class QuickGELU(nn.Module):
    """The approximation of GELU that CLIP was trained with, ``x * sigmoid(1.702 x)``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """Attention, then a perceptron, each on its normalised input and added to it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, 4 * width),
                gelu=QuickGELU(),
                c_proj=nn.Linear(4 * width, width),
            )
        )
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """``[batch, tokens, width]``; bool ``mask [tokens, tokens]`` is true where a token (row) may not look."""
        normal = self.ln_1(x)
        x = x + self.attn(normal, normal, normal, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class ImageTower(nn.Module):
    """A vision transformer over patches of 32 pixels; gives the class token in the shared space."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(WIDTH))
        self.positional_embedding = nn.Parameter(torch.empty((SIZE // PATCH) ** 2 + 1, WIDTH))
        self.ln_pre = nn.LayerNorm(WIDTH)
        blocks = nn.Sequential(*(Block(WIDTH, HEADS) for _ in range(LAYERS)))
        self.transformer = nn.ModuleDict({"resblocks": blocks})
        self.ln_post = nn.LayerNorm(WIDTH)
        self.proj = nn.Parameter(torch.empty(WIDTH, DIM))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised float ``[batch, 3, 224, 224]`` to ``[batch, 512]``."""
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        start = self.class_embedding.expand(len(patches), 1, -1)
        x = self.ln_pre(torch.cat((start, patches), dim=1) + self.positional_embedding)
        x = self.transformer["resblocks"](x)
        return self.ln_post(x[:, 0]) @ self.proj


def clip_vit_b32() -> Backbone:
    """512-d frame features at 1 per second, from the square in the middle."""
    return Backbone(
        name="clip_vit_b32",
        dim=DIM,
        frame_format=FrameFormat(rate=1, size=SIZE, crop=True),
        version="clip_vit_b32/2: OpenAI's ViT-B-32.pt (40d36571), image tower, 1 frame/s, 224x224 crop",
        build=_build,
    )


def _build() -> nn.Module:
    state = published_weights("clip_vit_b32")
    tower = {key.removeprefix("visual."): value.float() for key, value in state.items() if key.startswith("visual.")}
    return Normalized(filled("clip_vit_b32", ImageTower, tower), Normalize(_MEAN, _STD))


def published_weights(name: str) -> Mapping[str, torch.Tensor]:
    """The weights of both towers, in float16, from torch.hub's folder or fetched into it.

    Args:
        name: what they are for, for messages.

    Raises:
        InputError: the file is not there and cannot be fetched, or cannot be read.
    """
    place = checkpoint_path(URL.rsplit("/", 1)[-1])
    return from_hub(name, partial(_fetch, place), {URL: place})


def _fetch(place: Path) -> Mapping[str, torch.Tensor]:
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL, str(place), hash_prefix=URL.rsplit("/", 2)[1], progress=False)
    try:
        # the published file is a whole TorchScript program, of which only the weights are used
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            state: Mapping[str, torch.Tensor] = torch.jit.load(str(place), map_location="cpu").state_dict()
    except RuntimeError:
        state = torch.load(place, map_location="cpu", weights_only=True)
    return state
