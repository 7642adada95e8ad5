"""Layers that treat each token by itself need not see the padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LEAST_DIM = 512
"""Narrower tokens are computed padding and all: moving them about costs as much as it saves."""


class Rows:
    """The valid tokens of a batch as the rows of one matrix.

    On a CPU there are as many rows as valid tokens. On a GPU the host would have to wait for that number, and under
    ``torch.compile`` shapes would change from batch to batch; there a limit that the host knows takes its place, and
    padding fills the rows up to it. Without a limit padding stays in.

    Args:
        mask: bool ``[batch, tokens]``, which are valid.
        dim: width of the tokens.
        most: a number of valid tokens that the mask does not exceed; None: not known. What exceeds it would be lost.
    """

    def __init__(self, mask: Tensor, dim: int, most: int | None = None) -> None:
        self.shape = mask.shape
        self.places: Tensor | None = None
        self._row_of_token: Tensor | None = None
        if dim < LEAST_DIM:
            return
        if most is not None:
            if most < mask.numel():
                self.places, self._row_of_token = _valid_first(mask.flatten(), most)
        elif mask.device.type == "cpu" and not torch.compiler.is_compiling():
            places = mask.flatten().nonzero().squeeze(1)
            self.places = places if len(places) < mask.numel() else None

    def pick(self, tokens: Tensor) -> Tensor:
        """``[batch, tokens, dim]`` → ``[rows, dim]``."""
        flat = tokens.flatten(0, 1)
        if self.places is None:
            return flat
        if self._row_of_token is None:
            return flat.index_select(0, self.places)
        picked: Tensor = _Gather.apply(flat, self.places, self._row_of_token)
        return picked

    def put(self, rows: Tensor) -> Tensor:
        """``[rows, dim]`` → ``[batch, tokens, dim]``, zero in padding that has no row."""
        if self._row_of_token is not None:
            rows = _Gather.apply(rows, self._row_of_token, self.places)
        elif self.places is not None:
            rows = rows.new_zeros(self.shape.numel(), rows.shape[1]).index_copy(0, self.places, rows)
        return rows.view(*self.shape, -1)


def _valid_first(mask: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The valid tokens, then padding: tokens of the first ``most`` rows, and each token's row, whatever their number.

    Without sorting, and without the host learning how many are valid.
    """
    valid = mask.cumsum(0)
    padding = (~mask).cumsum(0)
    row_of_token = torch.where(mask, valid, valid[-1] + padding) - 1
    token_of_row = torch.empty_like(row_of_token)
    token_of_row.scatter_(0, row_of_token, torch.arange(len(mask), device=mask.device))
    return token_of_row[:most], row_of_token


class _Gather(torch.autograd.Function):
    """Rows of a matrix by their places, zeros for places behind its end.

    Its gradient gathers too, by each row's own place in the result, where torch's would add row by row.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return _gathered(x, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _gathered(gradient, *ctx.saved_tensors), None, None


def _gathered(x: Tensor, places: Tensor) -> Tensor:
    found = x.index_select(0, places.clamp(max=len(x) - 1))
    return torch.where((places < len(x)).unsqueeze(1), found, 0)
