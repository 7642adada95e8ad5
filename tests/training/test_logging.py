import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.training.logging import RunLog, Stopwatch, describe, read_rows

ROW = {"epoch": 0, "loss/tv": 0.5, "gradient_norm": 1.0, "learning_rate": 1e-3, "clips_per_second": 10.0}
ROW |= {"data_wait": 0.25, "memory_bytes": 3_000_000_000}


def write(run: Path, steps: range, *, step: int = 0, silent: bool = False) -> str:
    console = Console(file=io.StringIO(), width=300)
    with RunLog(run, console, step=step, total_steps=10, seconds=None, silent=silent) as log:
        for number in steps:
            log.write({"step": number, "loss": 1.0 / number, **ROW}, elapsed=float(number))
    return console.file.getvalue()


def scalars(run: Path) -> dict[int, float]:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars("loss")}


def test_rows_curves_and_a_line(tmp_path: Path) -> None:
    shown = write(tmp_path, range(1, 4))
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert set(rows[0]) == {"step", "loss", "at", *ROW}
    assert scalars(tmp_path).keys() == {1, 2, 3}
    assert "step 1/10" in shown
    assert "25% waiting for data" in shown
    assert "tv 0.500" in shown
    assert shown.count("\n") == 1  # without a terminal a line now and then, not one for every row


def test_the_share_of_clustering_is_told_where_there_is_one() -> None:
    row = {"step": 1, "loss": 1.0, **ROW}
    assert "clustering" not in describe(row, 10)
    assert "1.2% clustering · 7 clusters" in describe({**row, "clustering": 0.012, "clusters_used": 7}, 10)


def test_a_resumed_run_writes_over_what_a_crash_left_behind(tmp_path: Path) -> None:
    write(tmp_path, range(1, 8))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    write(tmp_path, range(5, 7), step=4)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert scalars(tmp_path).keys() == {1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize("damage", [b"\xff\xfe\x80", bytes(40), b"[1]", b'{"step": null}', b'{"step": 3, "lo'])
def test_a_damaged_line_costs_its_row_alone(tmp_path: Path, damage: bytes) -> None:
    write(tmp_path, range(1, 7))
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines()
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*lines[:2], damage, *lines[3:]]))
    write(tmp_path, range(6, 8), step=5)
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 4, 5, 6, 7]


def test_a_row_is_json_even_where_a_float16_step_was_skipped(tmp_path: Path) -> None:
    with RunLog(tmp_path, Console(file=io.StringIO()), step=0, total_steps=10, seconds=None) as log:
        for step in (1, 2, 3):
            log.write({"step": step, "loss": 1.0, **ROW, "gradient_norm": math.inf}, float(step))
    write(tmp_path, range(3, 4), step=2)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [row["gradient_norm"] for row in rows] == [None, None, ROW["gradient_norm"]]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    assert write(tmp_path, range(1, 4), silent=True) == ""
    assert list(tmp_path.iterdir()) == []


def test_the_stopwatch_tells_waiting_from_working(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr("pipeline.training.logging.time.perf_counter", lambda: now[0])
    stopwatch = Stopwatch(elapsed=50.0)

    def slow():
        for item in "ab":
            now[0] += 3.0
            yield item

    for _ in stopwatch.waiting(slow()):
        now[0] += 1.0
    assert stopwatch.elapsed == 58.0
    assert stopwatch.lap(16) == {"clips_per_second": 2.0, "data_wait": 0.75}
    assert stopwatch.lap(16, clustering=2.0)["clustering"] == 0.25
    now[0] += 30.0  # saving and evaluating count for no lap
    stopwatch.next_lap()
    now[0] += 2.0
    assert stopwatch.lap(4) == {"clips_per_second": 2.0, "data_wait": 0.0}
