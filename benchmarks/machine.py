"""What a benchmark asks of the machine: its page cache, and the time and memory of processes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def drop(folder: Path) -> None:
    """Takes a folder's files out of the page cache."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(folder: Path) -> None:
    """Gets a folder's files into the page cache: clips of one epoch are a quarter of them only."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(1 << 24):
                    pass


def children() -> list[int]:
    """The processes that this one has started and that still run."""
    return [int(child) for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def cpu_seconds() -> float:
    """CPU time of this process and its children so far."""
    ticks = 0
    for process in (os.getpid(), *children()):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_of(process: int) -> dict[str, int]:
    """A process's memory by kind, in kB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) for line in lines}


def consume(batches: Iterable[object]) -> None:
    """Takes all."""
    for _ in batches:
        pass
