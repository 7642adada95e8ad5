"""One training step of MFT on several processes: the same global batch on one, on two, ...

    python benchmarks/step_on_ranks.py --size medium --clips 64 --ranks 1 2
    python benchmarks/step_on_ranks.py --size paper --device cuda --clips 2240 --ranks 1 2 4 8 --compile

The baseline is this package on one process. On a CPU a process has one thread.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import statistics
from pathlib import Path
from typing import Any

import torch
from measuring import now
from rich.console import Console
from rich.table import Table
from step import SIZES, make_batch

from pipeline.config import LossSettings, ModelSettings
from pipeline.models import MFT
from pipeline.objectives import build_loss
from pipeline.training.compiling import compiled
from pipeline.training.distributed import join_ranks
from pipeline.training.memory import keep_freed_memory
from pipeline.training.step import loss_and_gradients


def time_ranks(
    settings: ModelSettings, clips: int, device: str, world_size: int, repeats: int, compile: bool
) -> dict[str, Any]:
    """A step of this package with the batch spread over processes and gradients summed: the slowest one's median.

    On a CPU a process has one thread, and its seconds are the processor's: waiting for the others does not count.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = multiprocessing.get_context("spawn").SimpleQueue()
    arguments = (world_size, port, settings, clips, device, repeats, compile, results)
    torch.multiprocessing.spawn(_time_rank, arguments, nprocs=world_size)
    return {"ranks": world_size, **results.get()}


def _time_rank(
    rank: int,
    world_size: int,
    port: int,
    settings: ModelSettings,
    clips: int,
    device: str,
    repeats: int,
    compile: bool,
    results: Any,
) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(1)
        keep_freed_memory()
    with join_ranks() as ranks:
        torch.manual_seed(0)
        with ranks.device:
            model = MFT(settings).train()
        network = compiled(model, ranks) if compile else model
        size = clips // world_size
        batch = {name: value[rank * size :][:size] for name, value in make_batch(settings, clips, device).items()}
        loss, seconds = build_loss(LossSettings()), []
        for _ in range(repeats + 1):
            model.zero_grad(set_to_none=True)
            ranks.any(False)  # all begin together
            start = now(device)
            total, _ = loss_and_gradients(network, loss, batch, ranks, "bfloat16" if device == "cuda" else "float32")
            seconds.append(ranks.all_of(now(device) - start))
        if ranks.is_main:
            results.put({"seconds": statistics.median(max(step) for step in seconds[1:]), "loss": total.item()})


def print_ranks(title: str, rows: list[dict[str, Any]], clips: int) -> None:
    table = Table("processes", "step, median", "clips/s", "speed-up", "efficiency", title=title)
    for row in rows:
        speed_up = rows[0]["seconds"] * rows[0]["ranks"] / row["seconds"]
        table.add_row(
            str(row["ranks"]), f"{row['seconds'] * 1e3:.0f} ms", f"{clips / row['seconds']:.1f}", f"{speed_up:.2f}x",
            f"{speed_up / row['ranks']:.0%}",
        )  # fmt: skip
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument("--clips", type=int, default=64, help="clips in the batch")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="numbers of processes, one after another")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5, help="measured steps of each")
    parser.add_argument("--compile", action="store_true", help="under torch.compile")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    arguments = parser.parse_args()
    if any(arguments.clips % count for count in arguments.ranks):
        parser.error(f"{arguments.clips} clips do not fall into equal parts for {arguments.ranks} processes")
    chosen = SIZES[arguments.size], arguments.clips, arguments.device
    rows = [time_ranks(*chosen, count, arguments.repeats, arguments.compile) for count in arguments.ranks]
    title = f"{arguments.size}: {arguments.clips} clips in all, {arguments.device}"
    print_ranks(title + (", compiled" if arguments.compile else ""), rows, arguments.clips)
    if arguments.json:
        arguments.json.write_text(json.dumps({"title": title, "ranks": rows}, indent=2))


if __name__ == "__main__":
    main()
