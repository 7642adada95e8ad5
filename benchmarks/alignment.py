"""Ordered alignment of a long video with many steps.

OMP_NUM_THREADS=1 python benchmarks/alignment.py                  # three hours, 100 steps
python benchmarks/alignment.py --hours 1 --steps 10 --json alignment.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.benchmarks.alignment import align_steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    seconds = int(arguments.hours * 3600)
    scores = np.random.default_rng(0).standard_normal((seconds, arguments.steps)).astype(np.float32)
    least: dict[str, float] = {}
    for name, exactly_one in (("one second per step", True), ("one or more in a row", False)):
        spent = []
        for _ in range(arguments.rounds):
            before = time.process_time()
            align_steps(scores, exactly_one)
            spent.append(time.process_time() - before)
        least[name] = min(spent)
    table = Table("", "CPU seconds, least", title=f"{seconds:,} seconds, {arguments.steps} steps")
    for name, value in least.items():
        table.add_row(name, f"{value:.3f}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"seconds": seconds, "steps": arguments.steps, **least}, indent=2))


if __name__ == "__main__":
    main()
