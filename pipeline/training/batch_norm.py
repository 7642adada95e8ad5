"""Batch norm over the global batch: as if the ranks' parts were one batch in one process, on any device."""

from __future__ import annotations

from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class SynchronizedBatchNorm(_BatchNorm):
    """Batch norm whose statistics are those of all ranks' batches.

    Unlike ``torch.nn.SyncBatchNorm`` it also runs on CPUs (gloo), and it takes the variance about the global mean, not
    from sums of squares, so that it equals one process's to rounding.
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
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        own_count = wide.new_tensor([wide.numel() / wide.shape[1]])
        sums = _SumOverRanks.apply(torch.cat([wide.sum(axes), own_count]))
        count = sums[-1]
        mean = sums[:-1] / count
        centred = wide - mean.view(shape)
        variance = _SumOverRanks.apply((centred * centred).sum(axes)) / count
        self._track(mean.detach(), variance.detach(), count.detach())
        normal = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(x.dtype)

    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), momentum)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes after the channels will do."""


def synchronize_batch_norm(module: nn.Module) -> None:
    """Replaces every batch norm in a module by one over the global batch; parameters and their names stay."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, SynchronizedBatchNorm.of(child))
        else:
            synchronize_batch_norm(child)


class _SumOverRanks(torch.autograd.Function):
    """Every rank's loss depends on the sum through every rank's part: so the gradient is a sum over ranks too."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return _sum(own)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _sum(gradients[0])


def _sum(own: Tensor) -> Tensor:
    total = own.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total
