"""What one of many processes computes of the loss of a global batch, against the loss of the whole batch.

    OMP_NUM_THREADS=1 python benchmarks/loss.py                    # half of MFT's batch, in MFT's dimensions
    python benchmarks/loss.py --clips 2240 --device cuda           # all of it

MFT's combinatorial loss, forward and backward, six terms in float32. The baseline is a process that computes the loss
of the whole batch, which it does alone, and did on every rank where each takes the gradient of its own part. What ranks
say to one another is not in it: that is in ``benchmarks/step.py --ranks``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pipeline.config import LossSettings
from pipeline.objectives import build_loss
from pipeline.objectives.contrastive import ALL
from pipeline.training.memory import keep_freed_memory


def make_outputs(clips: int, dim: int, device: str) -> dict[str, Tensor]:
    """Embeddings of six kinds, of clips that have everything."""
    generator = torch.Generator(device).manual_seed(0)
    outputs = {
        f"{name}_embed": torch.randn(clips, dim, generator=generator, device=device).requires_grad_()
        for name in ("text", "video", "audio", "tv", "ta", "va")
    }
    present = torch.ones(clips, dtype=torch.bool, device=device)
    return outputs | {f"{name}_nonempty_input_mask": present for name in ("text", "video", "audio")}


def time_share(outputs: dict[str, Tensor], own: slice, repeats: int) -> float:
    """Seconds of the loss of some clips and its gradients; the median."""
    loss, seconds = build_loss(LossSettings()), []
    others = {
        name: value.detach().requires_grad_() if value.is_floating_point() else value
        for name, value in loss.prepare(outputs).items()
    }
    for _ in range(repeats + 1):
        for value in outputs.values():
            value.grad = None
        _wait(outputs)
        started = time.perf_counter()
        # a rank prepares its own embeddings, and is given those of others
        mine = loss.prepare({name: value[own] for name, value in outputs.items()})
        prepared = {name: _with(others[name], own, value) for name, value in mine.items()}
        total, _ = loss.share(prepared, own)
        total.backward()
        _wait(outputs)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def _with(others: Tensor, own: slice, mine: Tensor) -> Tensor:
    """What a rank has gathered: others' values, and its own."""
    if own == ALL:
        return mine
    return torch.cat([others[: own.start], mine, others[own.stop :]])


def _wait(outputs: dict[str, Tensor]) -> None:
    if outputs["text_embed"].is_cuda:
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1120, help="of all processes")
    parser.add_argument("--dim", type=int, default=6144)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        keep_freed_memory()
    outputs = make_outputs(arguments.clips, arguments.dim, arguments.device)
    shares = {1: ALL} | {ranks: slice(0, arguments.clips // ranks) for ranks in arguments.ranks}
    rows: list[dict[str, Any]] = []
    for ranks, own in shares.items():
        seconds = time_share(outputs, own, arguments.repeats)
        rows.append(
            {"ranks": ranks, "seconds": seconds, "share": seconds / (rows or [{"seconds": seconds}])[0]["seconds"]}
        )
    table = Table("processes", "each computes", "of the whole", title=f"The loss of {arguments.clips:,} clips, float32")
    for row in rows:
        table.add_row(str(row["ranks"]), f"{row['seconds'] * 1e3:,.0f} ms", f"{row['share']:.0%}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
