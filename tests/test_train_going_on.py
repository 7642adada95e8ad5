"""What a command may and may not do to a run that is there already."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pipeline import train
from pipeline.acquire.locks import only_one
from pipeline.errors import InputError
from pipeline.training.checkpoint import Checkpoints, read_checkpoint
from pipeline.training.logging import read_rows
from tests.processes import descendants, kill, named
from tests.tiny_run import write_recipe, write_tiny_shards


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("going-on")
    write_tiny_shards(folder / "shards")
    write_recipe(folder)
    train.main(command(folder, folder / "finished"))
    return folder


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Path:
    """A copy of a finished run of 12 steps with checkpoints of steps 6, 9 and 12."""
    return Path(shutil.copytree(folder / "finished", tmp_path / "run"))


def command(folder: Path, run: Path, *more: str) -> list[str]:
    return ["--recipe", str(folder / "tiny.yaml"), "--shards", str(folder / "shards"), "--run", str(run), *more]


def content(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--train.batch_videos", "2"], "batch_videos"),
        (["--train.seed", "6"], "seed"),
        (["--model.projection_dim", "4"], "projection_dim"),
        (["--resume", "{run}/checkpoints/step-00000006.pt", "--train.batch_videos", "2"], "batch_videos"),
    ],
)
def test_a_refused_command_leaves_the_run_as_it_was(folder: Path, run: Path, more: list[str], complaint: str) -> None:
    before = content(run)
    with pytest.raises(InputError, match=complaint):
        train.main(command(folder, run, "--train.steps", "14", *(word.format(run=run) for word in more)))
    assert content(run) == before


def test_a_checkpoint_of_another_run_is_not_mixed_in(folder: Path, run: Path) -> None:
    before = content(run)
    other = folder / "finished" / "checkpoints" / "step-00000006.pt"
    with pytest.raises(InputError, match=r"has checkpoints of its own.*--init"):
        train.main(command(folder, run, "--resume", str(other)))
    assert content(run) == before


def test_a_new_run_may_go_on_from_a_checkpoint_of_another(folder: Path, tmp_path: Path) -> None:
    other = folder / "finished" / "checkpoints" / "step-00000006.pt"
    train.main(command(folder, tmp_path / "fork", "--resume", str(other), "--train.steps", "8"))
    assert Checkpoints(tmp_path / "fork" / "checkpoints").steps() == [8]


def test_two_trainings_do_not_share_a_folder(folder: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.train._WAIT", 0.0)
    before = content(run)
    with only_one(run / ".lock", keep=False) as alone:
        assert alone
        with pytest.raises(InputError, match="another training is running"):
            train.main(command(folder, run, "--train.steps", "14"))
    assert content(run) == before
    train.main(command(folder, run, "--train.steps", "14"))
    assert Checkpoints(run / "checkpoints").steps()[-1] == 14


def test_settings_that_change_are_told_and_hold(folder: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train.main(command(folder, run, "--train.steps", "14", "--train.weight_decay", "0.5", "--train.optimizer", "adamw"))
    told = " ".join(capsys.readouterr().err.split())
    assert "settings changed: train.steps 12 → 14, " in told and "train.weight_decay 0.0 → 0.5" in told
    group = read_checkpoint(Checkpoints(run / "checkpoints").path(14))["optimizer"]["param_groups"][0]
    assert group["weight_decay"] == 0.5 and group["decoupled_weight_decay"]


@pytest.mark.parametrize("precisions", [("float32", "float16"), ("float16", "float32")])
def test_the_precision_may_change(folder: Path, tmp_path: Path, precisions: tuple[str, str]) -> None:
    for steps, precision in zip((3, 6), precisions, strict=True):
        train.main(command(folder, tmp_path, "--train.steps", str(steps), "--train.precision", precision))
    assert read_rows(tmp_path / "metrics.jsonl")[-1]["step"] == 6


def test_settings_with_which_nothing_is_trained_are_not_noted(
    folder: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(run)
    train.main(command(folder, run, "--train.steps", "5", "--train.learning_rate", "0.5"))
    assert "training: finished, nothing to do: 12 steps" in " ".join(capsys.readouterr().err.split())
    assert {name: value for name, value in content(run).items() if "tensorboard" not in name} == {
        name: value for name, value in before.items() if "tensorboard" not in name
    }


def test_a_checkpoint_that_is_not_there_is_said(folder: Path, run: Path) -> None:
    with pytest.raises(InputError, match="--resume latest: there is no such checkpoint; it takes last, none or a file"):
        train.main(command(folder, run, "--resume", "latest"))


def test_init_says_that_it_comes_too_late(folder: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = folder / "finished" / "checkpoints" / "step-00000006.pt"
    train.main(command(folder, run, "--init", str(other), "--train.steps", "13"))
    assert "has no effect on a run that goes on" in " ".join(capsys.readouterr().err.split())


def test_damaged_checkpoints_are_not_forgotten_by_the_next_command(folder: Path, run: Path) -> None:
    for path in (run / "checkpoints").glob("step-*.pt"):
        path.write_bytes(path.read_bytes()[:1000])
    rows = read_rows(run / "metrics.jsonl")
    for _ in range(2):
        with pytest.raises(InputError, match=r"all checkpoints in .* are damaged"):
            train.main(command(folder, run))
    assert read_rows(run / "metrics.jsonl") == rows


def test_a_full_disk_is_called_that(folder: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 5029376 vs 5029268")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError) as error:
        train.main(command(folder, run, "--train.steps", "14"))
    assert error.value.errno == errno.ENOSPC
    assert Checkpoints(run / "checkpoints").steps() == [6, 9, 12]


def test_a_run_is_a_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("")
    with pytest.raises(InputError, match="notes: this is a file; give a folder"):
        train.main(command(folder, tmp_path / "notes"))
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(InputError, match="link: this is a link to nothing; give a folder"):
        train.main(command(folder, tmp_path / "link"))


def test_without_a_step_there_is_no_checkpoint_to_speak_of(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(command(folder, tmp_path, "--train.steps", "0"))
    said = " ".join(capsys.readouterr().err.split())
    assert "finished, nothing to do: 0 steps" in said and "checkpoint in" not in said


@pytest.mark.slow
def test_a_second_process_waits_for_one_that_ends(folder: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "pipeline.train", *command(folder, tmp_path)]
    processes = [subprocess.Popen(arguments, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == list(range(1, 13))


def test_a_repeated_command_goes_back_once(folder: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    back = ["--resume", str(run / "checkpoints" / "step-00000006.pt"), "--train.keep", "1"]
    train.main(command(folder, run, *back, "--train.steps", "8"))
    checkpoints = Checkpoints(run / "checkpoints")
    assert checkpoints.steps() == [8]
    train.main(command(folder, run, *back, "--train.steps", "10"))
    told = " ".join(capsys.readouterr().err.split())
    assert "goes on from there" in told and "step-00000008.pt, step 8" in told
    assert read_rows(run / "metrics.jsonl") and checkpoints.steps() == [10]


def test_a_run_that_was_moved_does_not_go_back_once_more(folder: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    spelt = tmp_path / "other" / ".." / "run" / "checkpoints" / "step-00000006.pt"
    train.main(command(folder, run, "--resume", str(spelt), "--train.steps", "8"))
    moved = run.rename(tmp_path / "moved")
    back = ["--resume", str(moved / "checkpoints" / "step-00000006.pt")]
    train.main(command(folder, moved, *back, "--train.steps", "10", "--train.keep", "9"))
    assert Checkpoints(moved / "checkpoints").steps() == [6, 8, 9, 10]


def test_what_a_killed_process_left_half_written_goes(folder: Path, run: Path) -> None:
    part = run / "checkpoints" / "step-00000013.pt.part"
    part.write_bytes(b"half")
    train.main(command(folder, run, "--train.steps", "13"))
    assert not part.exists()


def test_bare_weights_are_no_position(folder: Path, tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"weights\.pt holds weights, but no position"):
        train.main(command(folder, tmp_path / "run", "--resume", str(tmp_path / "weights.pt")))


def two_processes(folder: Path, run: Path) -> subprocess.Popen[str]:
    """A long training under torchrun, which has begun."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = command(folder, run, "--train.steps", "100000", "--train.checkpoint_every", "100000")
    process = subprocess.Popen(
        [*torchrun, "-m", "pipeline.train", "--", *arguments, "--train.log_every", "50", "--train.workers", "1"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while not read_rows(run / "metrics.jsonl") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


@pytest.mark.slow
def test_a_process_of_torchrun_says_that_another_is_gone(folder: Path, tmp_path: Path) -> None:
    process = two_processes(folder, tmp_path)
    kill(named(descendants(process.pid), "pipeline.train")[1])
    said = process.communicate(timeout=60)[1]
    assert process.returncode != 0
    assert "error: another process of this run has ended" in said and "[rank" not in said


@pytest.mark.slow
def test_a_signal_to_all_processes_of_torchrun_saves(folder: Path, tmp_path: Path) -> None:
    process = two_processes(folder, tmp_path)
    os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    reached = Checkpoints(tmp_path / "checkpoints").steps()
    assert len(reached) == 1 and reached[0] > 50, said
    assert "the same command continues" in said
