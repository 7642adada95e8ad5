"""Layers that treat each token by itself need not see the padding."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_DIM = 512
"""Narrower tokens are computed padding and all: moving them about costs as much as it saves."""


class Rows:
    """The valid tokens of a batch as the rows of one matrix.

    On a GPU and under ``torch.compile`` padding stays in: to leave it out, the host would have to wait for the number
    of valid tokens, and shapes would change from batch to batch.

    Args:
        mask: bool ``[batch, tokens]``, which are valid.
        dim: width of the tokens.
    """

    def __init__(self, mask: Tensor, dim: int) -> None:
        self.shape = mask.shape
        self.places: Tensor | None = None
        if dim >= LEAST_DIM and mask.device.type == "cpu" and not torch.compiler.is_compiling():
            places = mask.flatten().nonzero().squeeze(1)
            self.places = places if len(places) < mask.numel() else None

    def pick(self, tokens: Tensor) -> Tensor:
        """``[batch, tokens, dim]`` → ``[rows, dim]``."""
        flat = tokens.flatten(0, 1)
        return flat if self.places is None else flat.index_select(0, self.places)

    def put(self, rows: Tensor) -> Tensor:
        """``[rows, dim]`` → ``[batch, tokens, dim]``, zero in padding."""
        if self.places is not None:
            rows = rows.new_zeros(self.shape.numel(), rows.shape[1]).index_copy(0, self.places, rows)
        return rows.view(*self.shape, -1)
