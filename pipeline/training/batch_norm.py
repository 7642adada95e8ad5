"""Batch norm over the global batch: as if the ranks' parts were one batch in one process, on any device."""

from __future__ import annotations

from typing import Any, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm


class SynchronizedBatchNorm(_BatchNorm):
    """Batch norm whose statistics are those of all ranks' batches.

    Unlike ``torch.nn.SyncBatchNorm`` it also runs on CPUs (gloo). It takes the variance about the global mean and adds
    up in float64, so that any number of processes, one among them, gives the same to the order of a sum.
    """

    @classmethod
    def of(cls, norm: _BatchNorm) -> Self:
        """The same layer, sharing parameters and statistics, but synchronised."""
        new = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        new.weight, new.bias = norm.weight, norm.bias
        new.running_mean, new.running_var = norm.running_mean, norm.running_var
        new.num_batches_tracked = norm.num_batches_tracked
        return new.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, ...]`` → the same shape."""
        if not self.training:
            return super().forward(x)
        normal, mean, variance, count = _NormOverRanks.apply(x, self.weight, self.bias, self.eps)
        self._track(mean, variance, count)
        return normal

    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        unbiased = variance * count / (count - 1).clamp(min=1)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes after the channels will do."""


def synchronize_batch_norm(module: nn.Module) -> None:
    """Replaces every batch norm in a module by one over the global batch; parameters and their names stay."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, SynchronizedBatchNorm.of(child))
        else:
            synchronize_batch_norm(child)


class _NormOverRanks(torch.autograd.Function):
    """Every rank's loss depends on the statistics through every rank's part: their gradients are sums over ranks too.

    Gradients of weight and bias are those of this rank's part, as other parameters' are.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = _wide(x)
        sums, count = _sum_and_count(wide)
        mean = (sums / count).to(wide.dtype)
        # about the rounded mean, whose distance from the mean itself is then taken out
        squares = _sum_over_ranks(_channel_sums((wide - _spread(mean, x)).square()))
        variance = squares / count - (sums / count - mean).square()
        normal = F.batch_norm(x, mean, variance.to(wide.dtype), weight, bias, training=False, eps=eps)
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, count)
        return normal, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, variance, count = ctx.saved_tensors
        wide, slope = _wide(x), _wide(gradient)
        scale = (variance + ctx.eps).rsqrt()
        centred = wide - _spread(mean, x)
        own_sum, own_product = _channel_sums(slope), _channel_sums(centred * slope)
        total_sum, total_product = _sum_over_ranks(torch.stack([own_sum, own_product]))
        of_mean = (total_sum / count).to(wide.dtype)
        of_variance = (total_product * scale.square() / count).to(wide.dtype)
        factor = scale.to(wide.dtype) if weight is None else scale.to(wide.dtype) * weight
        of_x = (slope - _spread(of_mean, x) - centred * _spread(of_variance, x)) * _spread(factor, x)
        if weight is None:
            return of_x.to(x.dtype), None, None, None
        return of_x.to(x.dtype), (own_product * scale).to(weight.dtype), own_sum.to(weight.dtype), None


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _spread(values: Tensor, x: Tensor) -> Tensor:
    """``[channels]`` for arithmetic with ``x [batch, channels, ...]``."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


def _channel_sums(x: Tensor) -> Tensor:
    return x.sum([axis for axis in range(x.dim()) if axis != 1], dtype=torch.float64)


def _sum_and_count(x: Tensor) -> tuple[Tensor, Tensor]:
    """Over all ranks: ``[channels]``, and how many values a channel has."""
    sums = _channel_sums(x)
    both = _sum_over_ranks(torch.cat([sums, sums.new_full((1,), x.numel() / x.shape[1])]))
    return both[:-1], both[-1]


def _sum_over_ranks(own: Tensor) -> Tensor:
    if dist.is_initialized():
        dist.all_reduce(own)
    return own
