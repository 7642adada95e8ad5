"""Many processes, one batch: everything that ranks say to one another is here.

Each rank embeds its part of the global batch. The embeddings are gathered, and every rank computes what its own clips
contribute to the loss of the whole batch; the gradients that this has for others' embeddings go back to them, and
parameters' gradients are summed over the ranks. Loss and gradients are those of one process on the same global batch.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.objectives.contrastive import ALL

T = TypeVar("T")

_CPU = torch.device("cpu")
_BUCKET_BYTES = 64 << 20
_PEER_GONE = ("Connection closed by peer", "Connection reset by peer", "Timed out waiting", "remote process exited")
"""How gloo and NCCL say that another process is not there."""


@dataclass(frozen=True)
class Ranks:
    """One process's place among those that train together; alone by default."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = _CPU
    patient: Any = None
    """Those that wait for the main rank however long it works alone, as in an evaluation; None: as for all else."""

    @property
    def is_main(self) -> bool:
        """Whether this rank writes and shows things."""
        return self.rank == 0

    def gather(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """The model's outputs of all ranks in rank order, each tensor's first axis being the batch.

        Gradients of all ranks' losses flow back to this rank's own part.
        """
        if self.world_size == 1:
            return dict(outputs)
        return {name: _gather(value) if isinstance(value, Tensor) else value for name, value in outputs.items()}

    def own(self, clips: int) -> slice:
        """Which of all ranks' clips this rank has.

        Args:
            clips: of this rank; of every other one as many.
        """
        if self.world_size == 1:
            return ALL
        return slice(self.rank * clips, (self.rank + 1) * clips)

    def sum(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums over the ranks, of scalars of one type."""
        if self.world_size == 1 or not values:
            return dict(values)
        total = torch.stack(list(values.values()))
        dist.all_reduce(total)
        return dict(zip(values, total.unbind(), strict=True))

    @contextmanager
    def summing_gradients(self, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
        """Around a backward pass: gradients are then sums over the ranks.

        They set out while the pass still goes on. A parameter without a gradient on every rank keeps none, as in one
        process.
        """
        if self.world_size == 1:
            yield
            return
        sums = _GradientSums([parameter for parameter in parameters if parameter.requires_grad])
        try:
            yield
        finally:
            sums.stop_listening()
        sums.finish()

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
        """The main rank's value, on all ranks; they wait for as long as it takes to have it."""
        if self.world_size == 1:
            return value
        holder: list[Any] = [value]
        dist.broadcast_object_list(holder, src=0, group=self.patient)
        return holder[0]


class AnyRank:
    """Whether a flag is set on any rank, asked in each step and answered in the next one: so no GPU is waited for."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._answer: Tensor | None = None
        self._arrived: torch.cuda.Event | None = None

    def __call__(self, flag: bool) -> bool:
        """The answer to the call before, the same on all ranks; alone the flag itself."""
        if self._ranks.world_size == 1:
            return flag
        if self._arrived is not None:
            self._arrived.synchronize()
        before = self._answer is not None and bool(self._answer.item())
        # torch.tensor would wait for the device
        value = torch.full((), int(flag), dtype=torch.int32, device=self._ranks.device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        self._answer = value
        if value.is_cuda:
            self._answer = torch.empty((), dtype=torch.int32, pin_memory=True).copy_(value, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        return before


@contextmanager
def join_ranks(limit: timedelta = timedelta(minutes=30)) -> Iterator[Ranks]:
    """The place of this process among those that ``torchrun`` started; alone without it.

    Args:
        limit: how long a rank waits for another that is still there, but for the main one's work alone.

    Raises:
        InputError: there is no GPU for this process, or another process has gone.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        if local_rank >= torch.cuda.device_count():
            raise InputError(
                f"process {local_rank} of this machine has no GPU of its own, PyTorch sees "
                f"{torch.cuda.device_count()} here: start as many processes as there are (--nproc-per-node)"
            )
        torch.cuda.set_device(device)
        torch.backends.cudnn.allow_tf32 = False  # what train.precision calls float32 is; halves are asked for by name
    if world_size == 1:
        yield Ranks(device=device)
        return
    dist.init_process_group("nccl" if cuda else "gloo", timeout=limit)
    try:
        # a process that ends is noticed all the same: torchrun ends the others
        patient = dist.new_group(timeout=timedelta(days=30))
        ranks = Ranks(dist.get_rank(), world_size, device, patient)
        ranks.from_main(None)  # NCCL connects a group at its first use, and waits for that no longer than for others
        yield ranks
        # after an error it could wait for the others, who wait for this one; a verb that failed ends at once
        dist.destroy_process_group()
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _PEER_GONE):
            raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"another process of this run has ended, or is out of reach ({reason}): look at what it said; "
            "the same command continues"
        ) from None


class _Gather(torch.autograd.Function):
    """Concatenates all ranks' tensors; every rank computes a share of the loss, and their gradients are summed."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return _gather_values(own)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        parts = [part.contiguous() for part in gradients[0].chunk(dist.get_world_size())]
        own = torch.empty_like(parts[0])
        dist.reduce_scatter(own, parts)
        return own


def _gather(own: Tensor) -> Tensor:
    if own.requires_grad:
        return _Gather.apply(own)
    return _gather_values(own)


def _gather_values(own: Tensor) -> Tensor:
    parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own.contiguous())
    return torch.cat(parts)


class _GradientSums:
    """Sends gradients off in buckets, each once the backward pass has made all that is in it.

    The buckets go in the same order on all ranks, the last layers' first, since these have their gradients first.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.waiting = deque(_buckets(parameters[::-1]))
        self.ready: set[int] = set()
        self.used: set[int] = set()
        self.running: list[tuple[list[nn.Parameter], Tensor, dist.Work]] = []
        self.hooks = [parameter.register_post_accumulate_grad_hook(self._arrived) for parameter in parameters]

    def stop_listening(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def finish(self) -> None:
        """Sends what is left, waits, and puts the sums into their places."""
        while self.waiting:
            self._send(self.waiting.popleft())
        unused = self._unused_by_all()
        for bucket, flat, work in self.running:
            work.wait()
            for parameter, total in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                parameter.grad = None if id(parameter) in unused else total.view_as(parameter)

    def _unused_by_all(self) -> set[int]:
        used = torch.ones(len(self.parameters), dtype=torch.int32, device=self.parameters[0].device)
        missing = [place for place, parameter in enumerate(self.parameters) if id(parameter) not in self.used]
        for place in missing:
            used[place] = 0
        dist.all_reduce(used, dist.ReduceOp.MAX)
        if not missing:  # then it need not look, and a GPU's host not wait
            return set()
        return {id(parameter) for parameter, count in zip(self.parameters, used.tolist(), strict=True) if not count}

    def _arrived(self, parameter: Tensor) -> None:
        self.ready.add(id(parameter))
        while self.waiting and all(id(other) in self.ready for other in self.waiting[0]):
            self._send(self.waiting.popleft())

    def _send(self, bucket: list[nn.Parameter]) -> None:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        self.used.update(id(p) for p in bucket if p.grad is not None)
        for parameter in bucket:
            parameter.grad = None  # its memory is free while the sums are under way
        work = dist.all_reduce(flat, async_op=True)
        assert work is not None
        self.running.append((bucket, flat, work))


def _buckets(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and size + parameter.nbytes > _BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.nbytes
    if bucket:
        yield bucket
