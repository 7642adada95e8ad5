"""What the benchmarks of training steps measure with."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models.products import product

Batch = Mapping[str, Tensor]


def now(device: str) -> float:
    """Seconds, once the device is done; with a single thread the processor's, which other programs don't lengthen."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.process_time() if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


def time_step(step: Callable[[Batch], object], batch: Batch, device: str) -> float:
    """Seconds of one step."""
    start = now(device)
    step(batch)
    return now(device) - start


def peak_memory(step: Callable[[Batch], object], batch: Batch, device: str) -> int | None:
    """Bytes that the device holds at most during a step; None on the CPU."""
    if device != "cuda":
        return None
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    step(batch)
    return torch.cuda.max_memory_allocated()


def count_operations(step: Callable[[Batch], object], batch: Batch) -> float:
    """Floating-point operations of a step's matrix products and convolutions, two for a multiplication and addition."""
    with FlopCounterMode(display=False, custom_mapping={torch.ops.mkldnn._linear_pointwise: _of_linear}) as counter:
        step(batch)
    return float(counter.get_total_flops())


def _of_linear(x_shape: Sequence[int], weight_shape: Sequence[int], *_: object, **__: object) -> int:
    return 2 * math.prod(x_shape) * weight_shape[0]


def matrix_peak(device: str) -> float:
    """Operations per second of a large matrix product, in the precision that the step has on this device."""
    size, dtype = (8192, torch.bfloat16) if device == "cuda" else (2048, torch.float32)
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    seconds = min(time_step(lambda _: product(matrix, matrix), {}, device) for _ in range(10))
    return 2 * size**3 / seconds
