"""Many processes, one batch: everything that ranks say to one another is here.

Each rank embeds its part of the global batch. The embeddings are gathered, so every rank computes the loss of the
whole batch, and keeps the gradient of its own part only; parameters' gradients are then summed over the ranks. Loss
and gradients are those of one process on the same global batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")

_CPU = torch.device("cpu")
_BUCKET_BYTES = 64 << 20


@dataclass(frozen=True)
class Ranks:
    """One process's place among those that train together; alone by default."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = _CPU

    @property
    def is_main(self) -> bool:
        """Whether this rank writes and shows things."""
        return self.rank == 0

    def gather(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """The model's outputs of all ranks in rank order, each tensor's first axis being the batch.

        Gradients flow back to this rank's own part.
        """
        if self.world_size == 1:
            return dict(outputs)
        return {name: _gather(value) if isinstance(value, Tensor) else value for name, value in outputs.items()}

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sums gradients over the ranks; a parameter without one on every rank keeps none, as in one process."""
        if self.world_size == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        used = torch.tensor([parameter.grad is not None for parameter in trained], dtype=torch.int32)
        used = used.to(self.device)
        dist.all_reduce(used, dist.ReduceOp.MAX)
        gradients: list[Tensor] = []
        for parameter, is_used in zip(trained, used.tolist(), strict=True):
            if is_used and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            for gradient, summed in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def broadcast(self, module: nn.Module) -> None:
        """Gives every rank the main rank's parameters and buffers."""
        if self.world_size > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, src=0)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; the same answer on all."""
        if self.world_size == 1:
            return flag
        value = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return bool(value.item())

    def all_of(self, value: T) -> list[T]:
        """Every rank's value, in rank order, on all ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def from_main(self, value: T) -> T:
        """The main rank's value, on all ranks."""
        if self.world_size == 1:
            return value
        holder: list[Any] = [value]
        dist.broadcast_object_list(holder, src=0)
        return holder[0]


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """The place of this process among those that ``torchrun`` started; alone without it."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if world_size == 1:
        yield Ranks(device=device)
        return
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(minutes=30))
    try:
        yield Ranks(dist.get_rank(), world_size, device)
    finally:
        dist.destroy_process_group()


class _GatherKeepingOwnGradient(torch.autograd.Function):
    """Concatenates all ranks' tensors; every rank computes the same loss, so its own slice's gradient is complete."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        ctx.size = own.shape[0]
        return _gather_values(own)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0].narrow(0, dist.get_rank() * ctx.size, ctx.size)


def _gather(own: Tensor) -> Tensor:
    if own.requires_grad:
        return _GatherKeepingOwnGradient.apply(own)
    return _gather_values(own)


def _gather_values(own: Tensor) -> Tensor:
    parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own.contiguous())
    return torch.cat(parts)


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and size + gradient.nbytes > _BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.nbytes
    if bucket:
        yield bucket
