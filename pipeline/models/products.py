"""Matrix products in float32 on a CPU, by oneDNN instead of MKL where that is the faster one.

torch hands convolutions to oneDNN and matrix products to MKL, which leaves AVX-512 unused on processors that are not
Intel's and so runs at half speed there; elsewhere its kernels are the faster ones, small products by far. The operator
called here is the one that ``torch.compile`` puts into its CPU programs. Where it does not apply (another device,
another precision, autocast, a build without oneDNN) torch's own product does the same.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SMALLEST = 1 << 18
"""Multiplications below which starting oneDNN costs more than it saves."""


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b``, outside of autograd.

    Args:
        a: ``[..., rows, inner]``.
        b: ``[inner, columns]``; transposed views cost nothing.

    Returns:
        ``[..., rows, columns]``.
    """
    if _one_dnn_takes(a, b) and a.numel() * b.shape[1] >= SMALLEST:
        return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")
    return a @ b


def products(a: Tensor, b: Tensor) -> Tensor:
    """``a[i] @ b[i]`` for all ``i``, outside of autograd: ``[n, rows, inner]``, ``[n, inner, columns]``."""
    if not _one_dnn_takes(a, b) or a[0].numel() * b.shape[2] < SMALLEST:
        return torch.bmm(a, b)
    out = a.new_empty(a.shape[0], a.shape[1], b.shape[2])
    for one, first, second in zip(out, a, b, strict=True):
        one.copy_(product(first, second))
    return out


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``: ``[..., in features]``, ``[out features, in features]`` → ``[..., out features]``."""
    if not _one_dnn_takes(x, weight) or x.numel() * len(weight) < SMALLEST:
        return F.linear(x, weight, bias)
    mapped: Tensor = _LinearMap.apply(x, weight, bias)
    return mapped


class Linear(nn.Linear):
    """``torch.nn.Linear``, by :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in features]`` → ``[..., out features]``."""
        return linear(x, self.weight, self.bias)


class _LinearMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        wanted = ctx.needs_input_grad
        return (
            product(gradient, weight) if wanted[0] else None,
            product(rows.t(), x.reshape(len(rows), -1)) if wanted[1] else None,
            rows.sum(0) if wanted[2] else None,
        )


@lru_cache(maxsize=1)
def one_dnn_is_faster() -> bool:
    """Whether the processor has AVX-512 and is not Intel's, as far as Linux tells."""
    try:
        intel = "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return not intel and torch.backends.cpu.get_cpu_capability() == "AVX512"


def _one_dnn_takes(a: Tensor, b: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and one_dnn_is_faster()
        and a.dtype == b.dtype == torch.float32
        and a.device.type == b.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
        and a.numel() > 0
    )
