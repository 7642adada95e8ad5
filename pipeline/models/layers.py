"""Blocks that the networks share, under the names of the published checkpoints."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.models.products import Linear

ProjectionKind = Literal["gated", "linear", "none"]


class ContextGating(nn.Module):
    """``x ⊙ σ(Vx + c)`` (Miech, Laptev and Sivic, *Learnable pooling with Context Gating*, 2017)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., dim]`` → ``[..., dim]``."""
        return x * torch.sigmoid(self.fc(x))


class GatedUnit(nn.Module):
    """A linear map and its gate: ``y = Wx + b``, then ``y ⊙ σ(Vy + c)``."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.fc = Linear(in_dim, out_dim)
        self.cg = ContextGating(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in_dim]`` → ``[..., out_dim]``."""
        return self.cg(self.fc(x))


def projection(kind: ProjectionKind, in_dim: int, out_dim: int) -> nn.Module:
    """A projection ``[..., in_dim]`` → ``[..., out_dim]``; ``none`` needs both to be the same."""
    if kind == "gated":
        return GatedUnit(in_dim, out_dim)
    if kind == "linear":
        return Linear(in_dim, out_dim)
    if in_dim != out_dim:
        raise InputError(f"a projection of kind none cannot turn {in_dim} dimensions into {out_dim}: use linear")
    return nn.Identity()


class Attention(nn.Module):
    """Multi-head attention; its parts are called one by one, so that queries, keys and values can be shared."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise InputError(f"model.embed_dim {dim} cannot be split into {heads} heads: it must be a multiple")
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each ``[batch, heads, tokens, dim / heads]``, of ``[batch, tokens, 3 * dim]``."""
        batch, tokens, triple = qkv.shape
        parts = qkv.view(batch, tokens, 3, self.heads, triple // (3 * self.heads))
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        return queries, keys, values

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
        """Mixes values by attention; :attr:`proj` is to follow.

        Args:
            queries: ``[batch, heads, queries, dim / heads]``; ``keys`` and ``values`` likewise, over keys.
            keys: see ``queries``.
            values: see ``queries``.
            visible: bool ``[batch, queries, keys]``, which keys a query sees; at least one each.

        Returns:
            ``[batch, queries, dim]``.
        """
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=visible.unsqueeze(1))
        return mixed.transpose(1, 2).flatten(2)


class Mlp(nn.Module):
    """The transformer's two-layer perceptron, in halves: the second one is linear and commutes with a mean."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, dim)

    def hidden(self, x: Tensor) -> Tensor:
        """``[..., dim]`` → ``[..., hidden_dim]``; :attr:`fc2` leads back."""
        return F.gelu(self.fc1(x))


class Block(nn.Module):
    """A pre-norm transformer block (*An Image is Worth 16x16 Words*, 2021); :class:`FusionTransformer` runs it."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
