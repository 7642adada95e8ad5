"""One training step of MFT against the published way of computing it.

    python benchmarks/step.py                       # a size that a CPU takes in seconds
    python benchmarks/step.py --size paper --device cuda --clips 2240 --compile --ways

The baseline computes what the published program computes, the way it does: every combination of modalities goes
through the transformer by itself, attention is written out, DAVEnet is a two-dimensional convolution, every embedding
is projected by itself, a gated unit concatenates and splits. On a GPU it runs in float16 with a gradient scaler, this
package in bfloat16. Both see the same weights and the same batch, and the table says how far their numbers are apart.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from measuring import Batch, count_operations, matrix_peak, peak_memory, time_step
from published_mft import published_loss, published_outputs
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from pipeline.config import LossSettings, ModelSettings
from pipeline.models import MFT
from pipeline.models.products import Linear
from pipeline.objectives import build_loss
from pipeline.training.memory import keep_freed_memory

SIZES = {
    "small": ModelSettings(embed_dim=256, projection_dim=384, heads=4, video_dim=512, davenet_width=16),
    "medium": ModelSettings(embed_dim=1024, projection_dim=1536, heads=16, video_dim=1024, davenet_width=32),
    "paper": ModelSettings(),
}


def make_batch(settings: ModelSettings, clips: int, device: str) -> dict[str, Tensor]:
    """Eight-second clips as the paper trains on: 20 words, 12 video tokens, 768 frames; some lack a modality."""
    generator = torch.Generator().manual_seed(0)

    def lengths(most: int) -> Tensor:
        return torch.randint(most // 2, most + 1, (clips,), generator=generator)

    def mask(length: Tensor, most: int) -> Tensor:
        return (torch.arange(most) < length.unsqueeze(1)).float()

    words, tokens, frames = lengths(20), lengths(12), lengths(768)
    words[1 % clips], frames[2 % clips] = 0, 0
    batch = {
        "text": torch.randn(clips, 20, settings.text_dim, generator=generator),
        "text_mask": mask(words, 20),
        "video": torch.randn(clips, 12, settings.video_dim, generator=generator),
        "video_mask": mask(tokens, 12),
        "audio": torch.randn(clips, 40, 768, generator=generator),
        "audio_mask": mask(frames, 768),
        "audio_nframes": frames.float(),
    }
    return {name: value.to(device) for name, value in batch.items()}


class Step:
    """Forward, loss and backward, ours or the published way, with what the device calls for."""

    def __init__(
        self,
        model: MFT,
        device: str,
        published: bool,
        compiled: bool = False,
        halves: bool = False,
        transform: bool = False,
        limits: dict[str, int] | None = None,
    ) -> None:
        self.model, self.device, self.published, self.halves = model, device, published, halves
        self.limits, self.transforms_on = limits, ("cpu", "cuda") if transform else ("cpu",)
        self.settings = LossSettings()
        self.loss = build_loss(self.settings)
        self.run = torch.compile(model) if compiled else model
        self.scaler = torch.amp.GradScaler(device, enabled=published and device == "cuda")

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """One step; gradients are in the parameters afterwards. Returns the loss and the outputs."""
        self.model.zero_grad(set_to_none=True)
        if self.published:
            with self._precision(torch.float16), torch_layers(self.model):
                outputs = published_outputs(self.model, batch)
                total = published_loss(outputs, self.settings.weights, self.settings.temperature)
        else:
            self.model.davenet.take_transforms_on(*self.transforms_on)
            self.model.most_tokens = self.limits
            with self._precision(torch.bfloat16):
                outputs = self.run(batch)
            total, _ = self.loss(outputs)
        self.scaler.scale(total).backward()
        return total.detach(), {name: value.detach() for name, value in outputs.items()}

    def _precision(self, dtype: torch.dtype) -> AbstractContextManager[object]:
        halves = self.device == "cuda" or (self.halves and not self.published)
        return torch.autocast(self.device, dtype=dtype) if halves else nullcontext()


def differences(ours: Step, published: Step, batch: Batch) -> dict[str, float]:
    """How far apart the two are: loss, worst output, all gradients as one vector, relative to the published size.

    In float32 single gradients of the audio network differ more than rounding alone would: a unit of a ReLU that comes
    out on the other side of zero changes them by a jump.
    """
    loss, outputs = ours(batch)
    gradients = {name: p.grad.clone() for name, p in ours.model.named_parameters() if p.grad is not None}
    published_total, published_out = published(batch)
    scale = published.scaler.get_scale() if published.scaler.is_enabled() else 1.0
    theirs = {name: p.grad.div_(scale) for name, p in published.model.named_parameters() if p.grad is not None}
    return {
        "loss": float((loss - published_total).abs() / published_total.abs()),
        "outputs": max(apart(outputs[name], value) for name, value in published_out.items() if name.endswith("_embed")),
        "gradients": length(gradients[name] - value for name, value in theirs.items()) / length(theirs.values()),
    }


def extra_steps(model: MFT, batch: Batch, compiled: bool, ways: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and options of the other steps of this package that are asked for."""
    # a reserve like that of training
    limits = {name: math.ceil(1.04 * count) for name, count in count_tokens(model, batch).items()}
    by_way = {"": {}, ", transform": {"transform": True}, ", no padding": {"transform": True, "limits": limits}}
    for suffix, options in by_way.items():
        if ways and options:
            yield f"this package{suffix}", options
        if compiled and (ways or not options):
            yield f"this package, compiled{suffix}", {**options, "compiled": True}


def count_tokens(model: MFT, batch: Batch) -> dict[str, int]:
    """How many tokens of each modality a batch has for the transformer."""
    lengths = {name: (batch[f"{name}_mask"] != 0).sum(dim=1) for name in model.modalities}
    counts = model.clip_tokens(lengths, batch["audio"].shape[2])
    return {name: int(count.sum()) for name, count in counts.items()}


def apart(first: Tensor, second: Tensor) -> float:
    return float((first.double() - second.double()).abs().max() / second.double().abs().max())


def length(vectors: Iterable[Tensor]) -> float:
    return float(torch.stack([vector.norm().double() for vector in vectors]).norm())


@contextmanager
def torch_layers(model: nn.Module) -> Iterator[None]:
    """Makes the model's linear maps torch's own, as they are in the published program."""
    own = [module for module in model.modules() if type(module) is Linear]
    for module in own:
        module.__class__ = nn.Linear
    try:
        yield
    finally:
        for module in own:
            module.__class__ = Linear


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument("--clips", type=int, default=32, help="clips in the batch")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5, help="measured steps of each, taken in turns")
    parser.add_argument("--compile", action="store_true", help="also this package under torch.compile")
    parser.add_argument("--halves", action="store_true", help="on a CPU: also this package in bfloat16")
    parser.add_argument("--ways", action="store_true", help="also what train.tune tries on a GPU, one after another")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    arguments = parser.parse_args()

    settings, device = SIZES[arguments.size], arguments.device
    if device == "cpu":
        keep_freed_memory()
    torch.manual_seed(0)
    with torch.device(device):
        model = MFT(settings).train()
    batch = make_batch(settings, arguments.clips, device)
    steps = {
        "published way": Step(model, device, published=True),
        "this package": Step(model, device, published=False),
    }
    if arguments.halves:
        steps["this package, bfloat16"] = Step(model, device, published=False, halves=True)
    distance = differences(steps["this package"], steps["published way"], batch)
    operations = {name: count_operations(step, batch) for name, step in steps.items()}
    for name, options in extra_steps(model, batch, arguments.compile, arguments.ways):
        steps[name] = Step(model, device, published=False, **options)
        uncompiled = Step(model, device, published=False, **options | {"compiled": False})
        operations[name] = count_operations(uncompiled, batch)
    for step in steps.values():
        time_step(step, batch, device)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.repeats):
        for name, step in steps.items():
            if device == "cuda":
                time_step(step, batch, device)  # the memory that torch keeps is then cut to this step's needs
            times[name].append(time_step(step, batch, device))
    baseline, peak = statistics.median(times["published way"]), matrix_peak(device)
    rows = [
        {
            "name": name,
            "seconds": statistics.median(times[name]),
            "fastest": min(times[name]),
            "clips_per_second": arguments.clips / statistics.median(times[name]),
            "speed_up": baseline / statistics.median(times[name]),
            "operations_per_clip": operations[name] / arguments.clips,
            "share_of_peak": operations[name] / statistics.median(times[name]) / peak,
            "memory": peak_memory(step, batch, device),
        }
        for name, step in steps.items()
    ]
    parameters = sum(p.numel() for p in model.parameters())
    threads = "" if device == "cuda" else f", {torch.get_num_threads()} threads"
    title = f"{arguments.size}: {parameters / 1e6:.0f} M parameters, {arguments.clips} clips, {device}{threads}"
    print_table(title, rows)
    print("relative differences: " + ", ".join(f"{name} {value:.1e}" for name, value in distance.items()))
    if device == "cuda":
        print(f"allocations that had to be tried again: {torch.cuda.memory_stats()['num_alloc_retries']}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"title": title, "steps": rows, "differences": distance}, indent=2))


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    columns = ("step, median", "fastest", "clips/s", "speed-up", "GFLOP a clip", "of matrix peak", "memory")
    table = Table("", *columns, title=title)
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['seconds'] * 1e3:.0f} ms",
            f"{row['fastest'] * 1e3:.0f} ms",
            f"{row['clips_per_second']:.1f}",
            f"{row['speed_up']:.2f}x",
            f"{row['operations_per_clip'] / 1e9:.1f}",
            f"{row['share_of_peak']:.0%}",
            "" if row["memory"] is None else f"{row['memory'] / 2**30:.1f} GiB",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
