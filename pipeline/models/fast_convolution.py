"""Convolution over time with fewer multiplications: transform, one matrix product per frequency, transform back.

A convolution of a signal with a kernel is circular once the signal is cut into blocks long enough, and a circular
convolution of length ``N`` is a product at each frequency of the discrete Fourier transform (overlap-save; Oppenheim
and Schafer, *Discrete-Time Signal Processing*, section 8.7). A complex product takes three real ones (Knuth, *The Art
of Computer Programming*, volume 2, section 4.6.4), so that ``N`` samples need about ``1.5 N`` products of channels
where the definition needs ``taps · N``: for the 9 taps of the audio network about a fifth, at an error of the size of
float32's own rounding (relative 5e-7 against 3e-7).

Everything here is a product of real matrices: with ``A``, ``B``, ``C`` the transforms of the signal, of the kernel and
back, the result is ``C ((A x) ∘ (B w))``, where ``∘`` multiplies matrices of channels, frequency by frequency. Tensors
are time-major, ``[time, batch, channels]``, which all of these products take as they are.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.models.products import product, products


class Costs(NamedTuple):
    """What the transform costs on a device: times as the number of multiplications that take as long."""

    write: float
    """A number of a transformed kernel, forward and backward."""
    copy: float
    """A number of the blocks that a signal is cut into, or of those that its result is put together from."""
    move: float
    """A number of a transformed signal or result, written and read."""
    narrowest: int
    """Channels below which the products are too small to run well."""
    fewest: int = 32
    """Signals below which the kernel's transform is not worth its time, nor the last bit that it costs."""
    worth: float = 1.2
    """By how much the count has to be smaller for the transform to be taken."""


ON_CPU = Costs(write=40, copy=80, move=0, narrowest=64)
"""One core, float32."""
ON_CPU_IN_HALVES = ON_CPU._replace(narrowest=256)
"""One core that has matrix units, bfloat16."""
ON_GPU = Costs(write=320, copy=320, move=320, narrowest=256)
"""bfloat16: 300 TFLOP/s for each TB/s of memory, two ways."""


KEPT_BYTES = 32 << 20
"""Larger transforms of a kernel are made once more in the backward pass: they are many times the kernel."""


class Plan(NamedTuple):
    """How a signal is cut into blocks."""

    blocks: int
    step: int
    """Outputs of a block."""
    length: int
    """Samples that a block's transform takes."""


def plan(time: int, batch: int, in_channels: int, out_channels: int, taps: int, costs: Costs) -> Plan | None:
    """The blocks that take the fewest operations; None where the convolution as defined takes fewer.

    Args:
        time: samples of the signal, and of the result.
        batch: signals.
        in_channels: of the signal.
        out_channels: of the result.
        taps: of the kernel, which is centred.
        costs: of the device.
    """
    if batch < costs.fewest or min(in_channels, out_channels) < costs.narrowest:
        return None
    pairs = in_channels * out_channels
    best, least = None, taps * time * batch * pairs / costs.worth
    for blocks in range(1, max(2, time // taps) + 1):
        step = math.ceil(time / blocks)
        # of a single block only the zeros beside it wrap around, and those on the left serve the right as well
        length = step + (taps // 2 if blocks == 1 else taps - 1)
        count = _products(length)
        core = count * blocks * batch * pairs
        ends = count * blocks * batch * (length * in_channels + step * out_channels)
        copies = blocks * batch * (length * in_channels + step * out_channels) if blocks > 1 else 0
        moved = count * blocks * batch * (in_channels + out_channels)
        cost = core + ends + costs.copy * copies + costs.move * moved + count * pairs * (costs.write + taps)
        if cost < least:
            best, least = Plan(blocks, step, length), cost
    return best


def convolve(signal: Tensor, kernel: Tensor, cut: Plan) -> Tensor:
    """The convolution with a centred kernel, the signal being zero outside, as neural networks define it.

    Args:
        signal: ``[time, batch, in channels]``.
        kernel: ``[out channels, in channels, taps]``, ``taps`` odd.
        cut: from :func:`plan`.

    Returns:
        ``[time, batch, out channels]``: at ``t`` the sum over ``k`` of ``kernel[k] · signal[t + k - taps // 2]``.
    """
    time, half = len(signal), kernel.shape[2] // 2
    if cut.blocks == 1:
        blocks = signal.unsqueeze(1)
    else:
        padded = F.pad(signal, (0, 0, 0, 0, half, cut.blocks * cut.step + half - time))
        # [blocks, batch, channels, length] → [length, blocks, batch, channels]
        blocks = padded.unfold(0, cut.length, cut.step).permute(3, 0, 1, 2)
    matrices = _matrices(*cut, kernel.shape[2], len(blocks), blocks.dtype, blocks.device)
    out: Tensor = _Circular.apply(blocks.flatten(1, 2), kernel, *matrices)
    if cut.blocks == 1:
        return out
    return out.unflatten(1, (cut.blocks, -1)).transpose(0, 1).flatten(0, 1)[:time]


class _Circular(torch.autograd.Function):
    """Circular convolution of blocks ``[length or less, batch, in]`` → the first outputs ``[step, batch, out]``."""

    @staticmethod
    def forward(ctx: Any, blocks: Tensor, kernel: Tensor, signal_in: Tensor, kernel_in: Tensor, back: Tensor) -> Tensor:
        spectrum, transformed = _along_time(signal_in, blocks), _of_kernel(kernel_in, kernel)
        out = products(spectrum, transformed.transpose(1, 2))
        kept = transformed if transformed.nbytes <= KEPT_BYTES else None
        ctx.save_for_backward(spectrum, kernel, signal_in, kernel_in, back, kept)
        return _along_time(back.t(), out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        spectrum, kernel, signal_in, kernel_in, back, kept = ctx.saved_tensors
        gradients = _along_time(back, gradient)
        of_blocks = of_kernel = None
        if ctx.needs_input_grad[0]:
            transformed = _of_kernel(kernel_in, kernel) if kept is None else kept
            of_blocks = _along_time(signal_in.t(), products(gradients, transformed))
        if ctx.needs_input_grad[1]:
            of_spectrum = products(gradients.transpose(1, 2), spectrum)
            of_kernel = product(kernel_in.t(), of_spectrum.flatten(1)).t().reshape(kernel.shape)
        return of_blocks, of_kernel, None, None, None


def _along_time(matrix: Tensor, x: Tensor) -> Tensor:
    """``[rows, time]`` times ``[time, batch, channels]`` → ``[rows, batch, channels]``."""
    return product(matrix, x.flatten(1)).unflatten(1, x.shape[1:])


def _of_kernel(matrix: Tensor, kernel: Tensor) -> Tensor:
    """``[products, taps]``, ``[out, in, taps]`` → ``[products, out, in]``."""
    return product(matrix, kernel.flatten(0, 1).t()).unflatten(1, kernel.shape[:2])


@torch.compiler.assume_constant_result
def _matrices(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """What a compiled network keeps, where it would make it anew in each step."""
    return _made_matrices(*arguments)


@lru_cache(maxsize=256)
def _made_matrices(
    blocks: int, step: int, length: int, taps: int, samples: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """``[products, samples]``, ``[products, taps]``, and the way back, transposed: ``[products, step]``."""
    with torch.inference_mode(False):
        signal_in, kernel_in, back = (matrix.to(device, dtype) for matrix in _transforms(length, taps))
        # In a block of many, output t is at the sample t + taps // 2; in a single one, nothing is padded on the left.
        first = 0 if blocks == 1 else taps // 2
        return _aligned(signal_in[:, :samples]), _aligned(kernel_in), _aligned(back[first : first + step].t())


def _aligned(matrix: Tensor) -> Tensor:
    """The same matrix with rows that begin 16 bytes apart or a multiple, as the matrix units of a GPU want them."""
    rows, columns = matrix.shape
    if matrix.device.type == "cpu":
        return matrix.contiguous()
    return matrix.new_zeros(rows, math.ceil(columns / 8) * 8)[:, :columns].copy_(matrix)


def _products(length: int) -> int:
    """How many products a block's transform has: one for each real frequency, three for each complex one."""
    return 2 - length % 2 + 3 * ((length - 1) // 2)


@lru_cache(maxsize=256)
def _transforms(length: int, taps: int) -> tuple[Tensor, Tensor, Tensor]:
    """``A [products, length]``, ``B [products, taps]``, ``C [length, products]`` in float64.

    Frequencies 0 and ``length / 2`` are real and give one product each, the others three: with the signal's spectrum
    ``x + iy`` and the kernel's ``u + iv``, ``(x + y) u``, ``x (v - u)`` and ``y (u + v)`` make both parts.
    """
    time = torch.arange(length, dtype=torch.float64)
    place = torch.arange(taps, dtype=torch.float64) - taps // 2
    signal_in, kernel_in, back = [], [], []
    for frequency in range(length // 2 + 1):
        angle = 2 * math.pi * frequency / length
        cosine, sine = torch.cos(angle * time), torch.sin(angle * time)
        u, v = torch.cos(angle * place), torch.sin(angle * place)
        if frequency == 0 or 2 * frequency == length:
            signal_in += [cosine]
            kernel_in += [u]
            back += [cosine / length]
        else:
            signal_in += [cosine - sine, cosine, -sine]
            kernel_in += [u, v - u, u + v]
            # the result's spectrum is (first - third) + i (first + second)
            back += [2 * (cosine - sine) / length, -2 * sine / length, -2 * cosine / length]
    return torch.stack(signal_in), torch.stack(kernel_in), torch.stack(back, dim=1)
