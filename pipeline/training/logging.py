"""What a run tells: metrics.jsonl and TensorBoard for later, one line on the terminal for now."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from pipeline.replacing import replace_file

T = TypeVar("T")
Row = dict[str, Any]
"""Numbers by name; ``step`` and ``epoch`` are whole."""

_SECONDS_BETWEEN_LINES = 10.0
"""Where there is no terminal to draw a bar on."""


class RunLog:
    """``metrics.jsonl``, TensorBoard events and the terminal's line of one run.

    A row per logged step: ``step``, ``epoch``, ``loss``, ``loss/<term>``, ``gradient_norm``, ``learning_rate``,
    ``clips_per_second``, ``data_wait`` and, of MCN, ``clustering`` (shares of the time since the last row),
    ``memory_bytes`` (peak), ``at``. Losses are those of the step itself, so that a resumed run writes what an
    undisturbed one would have written.
    """

    def __init__(
        self, run: Path, console: Console, *, step: int, total_steps: int, seconds: float | None, silent: bool = False
    ) -> None:
        """Opens the log of a run that has done ``step`` steps; rows of later steps, from before a crash, are dropped.

        Args:
            run: the run's folder.
            console: where the line is shown.
            step: steps done so far.
            total_steps: where the run ends.
            seconds: limit of its time, for the progress bar.
            silent: nothing is written or shown: another rank does it.
        """
        self._path = run / "metrics.jsonl"
        self._silent = silent
        self._console = console
        self._seconds = seconds
        self._total_steps = total_steps
        self._last_line = 0.0
        self._progress = _progress(console, disable=silent or not console.is_terminal)
        self._task = self._progress.add_task("training", total=total_steps if seconds is None else seconds, state="")
        if not silent:
            run.mkdir(parents=True, exist_ok=True)
            drop_rows_after(self._path, step)
            self._file = self._path.open("a")
            self._events = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        if not self._silent:
            self._file.close()
            self._events.close()

    def write(self, row: Row, elapsed: float) -> None:
        """Adds a row to every log; ``elapsed`` is the run's training time in seconds."""
        if self._silent:
            return
        row = {**row, "at": time.time()}
        self._file.write(_line(row))
        self._file.flush()
        step = int(row["step"])
        for name, value in row.items():
            if name not in ("step", "at"):
                self._events.add_scalar(name, value, step)
        state = f"loss {row['loss']:.3f}, {row['clips_per_second']:,.0f} clips/s, {row['data_wait']:.0%} waiting"
        self._progress.update(self._task, completed=step if self._seconds is None else elapsed, state=state)
        self._tell_evaluation(row)
        if not self._console.is_terminal and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._console.print(f"training: {describe(row, self._total_steps)}", soft_wrap=True)

    def add(self, step: int, found: Mapping[str, float]) -> None:
        """Adds the numbers of an evaluation to the row of its step, which was written without them."""
        if self._silent:
            return
        self._file.close()
        rows = read_rows(self._path)
        if not rows or rows[-1]["step"] != step:
            rows.append({"step": step})
        rows[-1] |= found
        _write_rows(self._path, rows)
        self._file = self._path.open("a")
        for name, value in found.items():
            self._events.add_scalar(name, value, step)
        self._tell_evaluation(rows[-1])

    def _tell_evaluation(self, row: Row) -> None:
        if "score" in row:
            self._console.print(f"training: {describe_evaluation(row)}", soft_wrap=True)


class Stopwatch:
    """Time in the loop, and how much of it was spent waiting for data."""

    def __init__(self, elapsed: float = 0.0) -> None:
        """``elapsed``: seconds that earlier parts of the run took."""
        self._start = time.perf_counter() - elapsed
        self._mark = time.perf_counter()
        self._waited = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds of the whole run."""
        return time.perf_counter() - self._start

    def waiting(self, items: Iterable[T]) -> Iterator[T]:
        """The same items; the time until each arrives counts as waiting."""
        iterator = iter(items)
        while True:
            before = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - before
            yield item

    def lap(self, clips: int, clustering: float | None = None) -> Row:
        """``clips_per_second``, ``data_wait`` and ``clustering`` of this lap.

        Args:
            clips: how many went through in it.
            clustering: seconds spent on clusters; None: there are none.
        """
        seconds = max(time.perf_counter() - self._mark, 1e-9)
        row = {"clips_per_second": clips / seconds, "data_wait": min(self._waited / seconds, 1.0)}
        return row if clustering is None else {**row, "clustering": min(clustering / seconds, 1.0)}

    def next_lap(self) -> None:
        """Begins a lap; what happened since the last one ended counts for none."""
        self._mark, self._waited = time.perf_counter(), 0.0


def describe(row: Mapping[str, Any], total_steps: int) -> str:
    """A row as one line."""
    terms = " ".join(f"{name[5:]} {value:.3f}" for name, value in row.items() if name.startswith("loss/"))
    clustering = f"{row['clustering']:.1%} clustering · " if "clustering" in row else ""
    clustering += f"{row['clusters_used']} clusters · " if "clusters_used" in row else ""
    return (
        f"step {row['step']:,}/{total_steps:,} · epoch {row['epoch']} · loss {row['loss']:.4f} ({terms}) · "
        f"lr {row['learning_rate']:.2e} · {row['clips_per_second']:,.0f} clips/s · "
        f"{row['data_wait']:.0%} waiting for data · {clustering}{row['memory_bytes'] / 1e9:.1f} GB"
    )


def describe_evaluation(row: Mapping[str, Any]) -> str:
    """An evaluation's numbers as one line."""
    recalls = {name.split("/")[1]: value for name, value in row.items() if name.startswith("retrieval/")}
    said = ", ".join(f"{direction} {value:.1f}" for direction, value in recalls.items())
    return f"step {row['step']:,} · score {row['score']:.2f}" + (f" · R@10 {said}" if said else "")


def peak_memory(device: torch.device) -> int:
    """Peak bytes: allocated on the GPU, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a ``metrics.jsonl``; lines that a crash cut short or a disk damaged are left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def drop_rows_after(path: Path, step: int) -> None:
    """Removes rows of later steps than ``step``."""
    rows = read_rows(path)
    kept = [row for row in rows if row["step"] <= step]
    if path.exists():
        _write_rows(path, kept)


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    replace_file(path, lambda part: part.write_text("".join(map(_line, rows))))


def _line(row: Mapping[str, Any]) -> str:
    """A row of ``metrics.jsonl``; null for what is not finite, as the norm of a float16 step that was skipped.

    JSON has no word for it, and a reader that is strict would refuse the file.
    """
    known = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }
    return json.dumps(known, allow_nan=False) + "\n"


def _progress(console: Console, disable: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
        console=console,
        transient=True,
        disable=disable,
        refresh_per_second=4,
    )
