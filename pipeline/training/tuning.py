"""On a GPU the same numbers can be had in several ways; which one is the fastest, the first batch tells."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor, nn

from pipeline.config import TrainSettings
from pipeline.models import MFT, rows
from pipeline.models.davenet import Davenet
from pipeline.shards.decoding import lengths_of
from pipeline.training.batches import Batch
from pipeline.training.distributed import Ranks
from pipeline.training.step import embed

Timer = Callable[[Callable[[], None]], float]
"""Something to do → seconds that it takes."""

_WORTH = 0.98
"""A way is taken if it takes less than this share of the time."""
_MULTIPLE = 64
"""Limits of tokens are multiples of it: matrix units like that."""
_SHARES = 32
"""And of this share of all tokens, padding among them: few programs are made then, and the same on all ranks."""
_DEVIATIONS = 3.0
"""Limits are so many standard deviations above what batches have."""


class TokenLimits:
    """How many tokens a network may expect of a batch that leaves its padding out.

    ``torch.compile`` makes a program for each limit, and all ranks wait for the one that makes it. So limits have room
    for what batches differ by, which is judged by the videos of the first, and begin as the same on all ranks.
    """

    def __init__(self, model: MFT, ranks: Ranks) -> None:
        self._model, self._ranks = model, ranks
        self._limits: dict[str, int] = {}

    def of(self, batch: Batch) -> dict[str, int]:
        """Limits that hold for a batch, which is as the loader gives it; all ranks ask for their first at once."""
        counts = self._model.clip_tokens(lengths_of(batch), batch["audio"].shape[1])
        if not self._limits:
            wanted = self._ranks.all_of({name: self._limit(name, count, batch) for name, count in counts.items()})
            self._limits = {name: max(limits[name] for limits in wanted) for name in counts}
        for name, count in counts.items():
            if int(count.sum()) > self._limits[name]:
                self._limits[name] = self._limit(name, count, batch)
        return self._limits

    def _limit(self, name: str, counts: Tensor, batch: Batch) -> int:
        """Of batches like one whose clips have ``counts [batch]`` tokens."""
        videos = batch["video_index"].unique(return_inverse=True)[1]
        by_video = torch.zeros(int(videos.max()) + 1).index_add_(0, videos, counts.float())
        deviation = math.sqrt(len(by_video)) * float(by_video.std(correction=0))
        share = _MULTIPLE * math.ceil(len(counts) * self._most_of_a_clip(name, batch) / (_SHARES * _MULTIPLE))
        return share * math.ceil((int(counts.sum()) + _DEVIATIONS * deviation) / share)

    def _most_of_a_clip(self, name: str, batch: Batch) -> int:
        places = {"text": batch["word_ids"], "video": batch["places_2d"], "audio": batch["audio"]}
        lengths = {modality: torch.tensor([values.shape[1]]) for modality, values in places.items()}
        return int(self._model.clip_tokens(lengths, batch["audio"].shape[1])[name])


class _Padding:
    """Has a network leave a batch's padding out, or not."""

    def __init__(self, model: MFT, ranks: Ranks) -> None:
        self._model, self._limits = model, TokenLimits(model, ranks)
        self._now: dict[str, int] = {}
        self.left_out = False

    def expect(self, batch: Batch) -> None:
        """Takes the limits that hold for a batch, which is as the loader gives it."""
        self._now = self._limits.of(batch)
        self.leave_out(self.left_out)

    def leave_out(self, on: bool) -> None:
        """Of the batch that is expected, and of those that come."""
        self.left_out = on
        self._model.most_tokens = self._now if on else None

    def forget(self) -> None:
        """The batch is done: others, those of an evaluation among them, may have more tokens."""
        self._model.most_tokens = None


class _Way(NamedTuple):
    name: str
    take: Callable[[bool], None]


class Tuning:
    """Times the ways of computing a network on the first batch, and gives each batch what the fastest one needs.

    Args:
        model: on its device.
        network: the model as it runs, compiled or not.
        settings: ``tune`` and ``precision`` count.
        ranks: those that train together, which all take the same ways.
        console: where the main rank says what was found.
        seconds: times something; only tests give another.
    """

    def __init__(
        self,
        model: nn.Module,
        network: nn.Module,
        settings: TrainSettings,
        ranks: Ranks,
        console: Console,
        seconds: Timer | None = None,
    ) -> None:
        self._model, self._network, self._settings = model, network, settings
        self._ranks, self._console = ranks, console
        self._seconds = seconds or _seconds_on(ranks.device)
        # A way that fails on one rank would leave the others waiting for its statistics.
        waiting = settings.batch_norm == "synchronized" and ranks.world_size > 1
        self._to_be_tuned = settings.tune and ranks.device.type == "cuda" and not waiting
        self._padding: _Padding | None = None
        if self._to_be_tuned and settings.accumulate == 1 and isinstance(model, MFT) and _is_wide(model):
            self._padding = _Padding(model, ranks)

    @contextmanager
    def applied(self, batch: Batch, prepare: Callable[[Batch], Batch]) -> Iterator[Batch]:
        """The batch as the network takes it; the network is set to it as long as this lasts."""
        if self._padding is not None:
            self._padding.expect(batch)
        ready = prepare(batch)
        if self._to_be_tuned:
            self._to_be_tuned = False
            self._tune(ready)
        try:
            yield ready
        finally:
            if self._padding is not None:
                self._padding.forget()

    def _tune(self, batch: Batch) -> None:
        start = time.monotonic()
        ways, found = list(self._ways()), []
        best = self._slowest_rank(batch) if ways else 0.0
        for way in ways:
            way.take(True)
            spent = self._slowest_rank(batch)
            taken = spent < _WORTH * best
            found.append(f"{way.name} {_compared(spent, best)}, {'' if taken else 'not '}taken")
            if taken:
                best = spent
            else:
                way.take(False)
        if self._padding is not None and not self._padding.left_out:
            self._padding = None  # no further batch need be counted
        if found and self._ranks.is_main:
            message = f"training: tuned in {time.monotonic() - start:,.0f} s: {'; '.join(found)}"
            self._console.print(message, soft_wrap=True)

    def _ways(self) -> Iterator[_Way]:
        audio = [module for module in self._model.modules() if isinstance(module, Davenet)]
        if audio and self._settings.precision == "bfloat16":
            devices = "cpu", self._ranks.device.type

            def transform(on: bool) -> None:
                for network in audio:
                    network.take_transforms_on(*(devices if on else devices[:1]))

            yield _Way("convolutions by transform", transform)
        if self._padding is not None:
            yield _Way("padding left out", self._padding.leave_out)

    def _slowest_rank(self, batch: Batch) -> float:
        """Seconds of a forward and backward pass; infinite where a rank cannot do it."""
        buffers = [buffer.clone() for buffer in self._model.buffers()]
        try:
            seconds = self._seconds(lambda: self._pass(batch))
        except RuntimeError as error:  # too little memory, or a compiler that can't
            self._console.print(f"training: {' '.join(str(error).split())[:300]}", soft_wrap=True)
            seconds = math.inf
        self._model.zero_grad()
        for buffer, before in zip(self._model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        return max(self._ranks.all_of(seconds))

    def _pass(self, batch: Mapping[str, Any]) -> None:
        outputs = embed(self._network, batch, self._settings.precision)
        reached = [value for value in outputs.values() if isinstance(value, Tensor) and value.requires_grad]
        torch.autograd.backward(reached, [torch.full_like(value, 1 / value.numel()) for value in reached])


def _is_wide(model: MFT) -> bool:
    return model.settings.embed_dim >= rows.LEAST_DIM


def _compared(spent: float, before: float) -> str:
    return "failed" if math.isinf(spent) else f"{before * 1e3:,.1f} → {spent * 1e3:,.1f} ms"


def _seconds_on(device: torch.device) -> Timer:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def seconds(do: Callable[[], None]) -> float:
        times = []
        for _ in range(5):
            wait()
            start = time.perf_counter()
            do()
            wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times[2:])  # the first ones compile, and ask the device for memory

    return seconds
