"""CLIP's text tower, of ViT-B/32: a feature of every piece of a text in the space that images and texts share.

Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*, 2021, section 2.4. Parameters
have the names of the published file, ``ViT-B-32.pt``.
"""

from __future__ import annotations

import torch
from torch import nn

from pipeline.backbones.clip import DIM, Block, published_weights
from pipeline.backbones.weights import filled

VOCABULARY, CONTEXT, WIDTH, LAYERS, HEADS = 49_408, 77, 512, 12, 8
START = VOCABULARY - 2
"""The id that a text begins with; the last one, ``START + 1``, ends it."""

_NAME = "CLIP's text tower"
_KEYS = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")


class TextTower(nn.Module):
    """A transformer in which a piece of a text sees those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positional_embedding = nn.Parameter(torch.empty(CONTEXT, WIDTH))
        blocks = nn.ModuleList(Block(WIDTH, HEADS) for _ in range(LAYERS))
        self.transformer = nn.ModuleDict({"resblocks": blocks})
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.empty(WIDTH, DIM))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Int ``[batch, length]``, at most 77 long and ``START`` first, to ``[batch, length, 512]``, not normalised.

        The features at the end of a text are what CLIP compares with images.
        """
        length = ids.shape[1]
        x = self.token_embedding(ids) + self.positional_embedding[:length]
        later = torch.ones(length, length, dtype=torch.bool, device=ids.device).triu(1)
        for block in self.get_submodule("transformer.resblocks").children():
            x = block(x, later)
        return self.ln_final(x) @ self.text_projection


def clip_text_tower(device: torch.device | str = "cpu") -> nn.Module:
    """The tower with its weights, in evaluation mode, without gradients.

    Raises:
        InputError: the weights are neither in ``TORCH_HOME`` nor to be had.
    """
    state = {key: value.float() for key, value in published_weights(_NAME).items() if key.startswith(_KEYS)}
    return filled(_NAME, TextTower, state).eval().requires_grad_(False).to(device)
