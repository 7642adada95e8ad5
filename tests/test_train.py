import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline import train
from pipeline.config import load_recipe
from pipeline.errors import InputError
from pipeline.shards.provenance import claim_folder
from pipeline.training import loop
from pipeline.training.checkpoint import Checkpoints, read_checkpoint
from pipeline.training.logging import read_rows
from tests.tiny_run import MCN, write_recipe, write_tiny_shards


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    write_tiny_shards(folder / "shards")
    write_recipe(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> list[dict]:
    train.main(command(folder, folder / "undisturbed"))
    return losses(folder / "undisturbed")


def command(folder: Path, run: Path, *more: str) -> list[str]:
    return ["--recipe", str(folder / "tiny.yaml"), "--shards", str(folder / "shards"), "--run", str(run), *more]


def losses(run: Path) -> list[dict]:
    """What must not depend on interruptions."""
    rows = read_rows(run / "metrics.jsonl")
    kept = ("step", "epoch", "gradient_norm", "learning_rate")
    return [{key: row[key] for key in row if key in kept or key.startswith("loss")} for row in rows]


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.test_train"])  # a process that trains is there at once


def _train_until_killed(arguments: list[str], after: int, threads: int) -> None:
    torch.set_num_threads(threads)  # losses are equal to the bit for one number of them
    whole, steps = loop.loss_and_gradients, iter(range(after))

    def dying(*positional: Any, **keywords: Any) -> Any:
        if next(steps, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*positional, **keywords)

    loop.loss_and_gradients = dying  # type: ignore[assignment]
    train.main(arguments)


def run_killed(arguments: list[str], after: int) -> None:
    """Trains in a process of its own, which is killed (SIGKILL) once ``after`` steps of this start are done."""
    process = FORKS.Process(target=_train_until_killed, args=(arguments, after, torch.get_num_threads()))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def test_twenty_kills_at_random_steps_change_no_loss(folder: Path, undisturbed: list[dict], tmp_path: Path) -> None:
    assert [row["step"] for row in undisturbed] == list(range(1, 13))
    # with a checkpoint every 3 steps: three times the run gets to the next one, else its last steps are lost
    steps_until_killed = [4, 4, 4, *[0, 1, 2] * 5, 1, 2]
    random.Random(0).shuffle(steps_until_killed)
    assert len(steps_until_killed) == 20
    for after in steps_until_killed:
        run_killed(command(folder, tmp_path), after)
    train.main(command(folder, tmp_path))
    assert losses(tmp_path) == undisturbed


def test_clusters_and_queue_survive_kills(folder: Path, tmp_path: Path) -> None:
    write_recipe(tmp_path, **MCN)
    arguments = ["--recipe", str(tmp_path / "tiny.yaml"), "--shards", str(folder / "shards"), "--run"]
    train.main([*arguments, str(tmp_path / "undisturbed")])
    undisturbed = losses(tmp_path / "undisturbed")
    assert {"loss/cluster", "loss/reconstruction", "loss/tv"} <= set(undisturbed[0])
    used = [row["clusters_used"] for row in read_rows(tmp_path / "undisturbed" / "metrics.jsonl")]
    assert used[0] > 1 and all(1 <= count <= MCN["loss"]["clusters"] for count in used)
    clusters = clusters_of(tmp_path / "undisturbed")
    for attempt, after in enumerate((4, 7, 11)):
        run_killed([*arguments, str(tmp_path / str(attempt))], after)
        train.main([*arguments, str(tmp_path / str(attempt))])
        assert losses(tmp_path / str(attempt)) == undisturbed
        assert all(map(torch.equal, clusters_of(tmp_path / str(attempt)), clusters))


def clusters_of(run: Path) -> list[torch.Tensor]:
    """Centroids and queue at the end of a run."""
    state = read_checkpoint(Checkpoints(run / "checkpoints").path(12))["loss"]["clustering._extra_state"]
    assert len(state["queue"]) == MCN["loss"]["queue_size"]
    return [state["centroids"], *state["queue"]]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_in_parts_trains_and_resumes(
    folder: Path, undisturbed: list[dict], tmp_path: Path, precision: str
) -> None:
    settings = ["--train.precision", precision, "--train.accumulate", "2", "--train.clip_gradient", "50"]
    train.main(command(folder, tmp_path / "whole", *settings))
    rows = losses(tmp_path / "whole")
    assert rows[0]["loss"] == pytest.approx(undisturbed[0]["loss"], rel=0.3)
    assert rows[0]["loss"] != undisturbed[0]["loss"]
    run_killed(command(folder, tmp_path / "killed", *settings), 7)
    train.main(command(folder, tmp_path / "killed", *settings))
    assert losses(tmp_path / "killed") == rows


def test_a_gpu_that_pytorch_cannot_use_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("pipeline.train._GPU", folder)
    for hidden in (False, True):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "") if hidden else monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        train.main(command(folder, tmp_path / str(hidden), "--train.steps", "1"))
        assert ("cannot use the NVIDIA GPU" in capsys.readouterr().err) != hidden


@pytest.mark.slow
def test_torchrun_trains_clusters_and_all_as_one_process(folder: Path, tmp_path: Path) -> None:
    write_recipe(tmp_path, **MCN)
    arguments = ["--recipe", str(tmp_path / "tiny.yaml"), "--shards", str(folder / "shards"), "--run"]
    settings = ["--train.steps", "4", "--train.batch_norm", "synchronized", "--train.learning_rate", "1e-5"]
    settings += ["--train.evaluate_every", "2"]
    train.main([*arguments, str(tmp_path / "one"), *settings])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command_line = [*torchrun, "-m", "pipeline.train", "--", *arguments, str(tmp_path / "two"), *settings]
    subprocess.run(command_line, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [row["step"] for row in two] == [1, 2, 3, 4]
    for ours, expected in zip(two, one, strict=True):
        assert ours == pytest.approx(expected, rel=1e-4)
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], rel=1e-6)
    scores = [
        [row["score"] for row in read_rows(tmp_path / run / "metrics.jsonl") if "score" in row]
        for run in ("one", "two")
    ]
    assert len(scores[0]) == 2
    assert scores[1] == pytest.approx(scores[0])


def test_a_damaged_checkpoint_falls_back_loudly_to_the_one_before(
    folder: Path, undisturbed: list[dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_killed(command(folder, tmp_path), 8)
    newest = Checkpoints(tmp_path / "checkpoints").path(6)
    data = bytearray(newest.read_bytes())
    middle = len(data) // 2
    # longer than what the format pads its parts with, where a changed byte is no damage
    for place in range(middle, middle + 128):
        data[place] ^= 1
    newest.write_bytes(data)
    train.main(command(folder, tmp_path))
    assert losses(tmp_path) == undisturbed
    told = " ".join(capsys.readouterr().err.split())
    assert f"warning: checkpoint {newest} is damaged" in told
    assert "step-00000003.pt, step 3" in told


LONGER = ["--train.workers", "2", "--train.steps", "80", "--train.checkpoint_every", "20"]


@pytest.fixture(scope="module")
def undisturbed_for_longer(folder: Path) -> list[dict]:
    train.main(command(folder, folder / "longer", *LONGER))
    return losses(folder / "longer")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "send"), [(signal.SIGTERM, os.killpg), (signal.SIGINT, os.killpg), (signal.SIGKILL, os.kill)]
)
def test_signals_to_a_real_process(
    folder: Path, tmp_path: Path, undisturbed_for_longer: list[dict], number: int, send: Callable[[int, int], None]
) -> None:
    """Ctrl-C, and a scheduler's SIGTERM, reach the loader's processes too."""
    changed = command(folder, tmp_path, *LONGER)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.train", *changed],
        env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while len(read_rows(tmp_path / "metrics.jsonl")) < 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    send(process.pid, number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in said
    if number != signal.SIGKILL:
        assert "the same command continues" in said
        reached = read_rows(tmp_path / "metrics.jsonl")[-1]["step"]
        assert Checkpoints(tmp_path / "checkpoints").steps()[-1] == reached
    train.main(changed)
    assert losses(tmp_path) == undisturbed_for_longer


def test_the_run_folder_says_what_was_trained(folder: Path, undisturbed: list[dict]) -> None:
    run = folder / "undisturbed"
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert settings["name"] == "tiny"
    assert settings["model"]["embed_dim"] == 16
    assert Checkpoints(run / "checkpoints").steps() == [6, 9, 12]
    assert list((run / "tensorboard").iterdir())


def test_a_run_on_stand_ins_says_so_whatever_its_recipe(folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path, seeded=True)))
    shards = tmp_path / "shards"
    shutil.copytree(folder / "shards", shards)
    claim_folder(shards, recipe)
    write_recipe(tmp_path, seeded=False)
    arguments = ["--recipe", str(tmp_path / "tiny.yaml"), "--shards", str(shards), "--train.steps", "1"]
    train.main([*arguments, "--run", str(tmp_path / "run")])
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["seeded"] is True


def test_going_on_from_an_earlier_checkpoint_removes_the_later_ones(
    folder: Path, undisturbed: list[dict], tmp_path: Path
) -> None:
    train.main(command(folder, tmp_path))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    train.main(command(folder, tmp_path, "--resume", str(checkpoints.path(6)), "--train.steps", "8"))
    assert checkpoints.steps() == [6, 8]
    assert losses(tmp_path) == undisturbed[:8]


def test_fine_tuning_starts_from_another_runs_weights(folder: Path, undisturbed: list[dict], tmp_path: Path) -> None:
    last = Checkpoints(folder / "undisturbed" / "checkpoints").path(12)
    train.main(command(folder, tmp_path / "tuned", "--init", str(last), "--train.steps", "1"))
    train.main(command(folder, tmp_path / "fresh", "--train.steps", "1"))
    tuned, fresh = losses(tmp_path / "tuned")[0], losses(tmp_path / "fresh")[0]
    assert fresh == undisturbed[0]
    assert tuned["loss"] < fresh["loss"]


def test_evaluation_along_the_way_is_shown_and_chooses_the_best(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(command(folder, tmp_path, "--train.evaluate_every", "2", "--train.keep", "1"))
    assert capsys.readouterr().err.count(" · R@10 t2v ") == 6
    scored = {row["step"]: row["score"] for row in read_rows(tmp_path / "metrics.jsonl") if "score" in row}
    assert list(scored) == [2, 4, 6, 8, 10, 12]
    best = Checkpoints(tmp_path / "checkpoints").best()
    assert best is not None
    assert best[1] == max(scored.values()) == scored[best[0]]
    assert Checkpoints(tmp_path / "checkpoints").steps() == sorted({best[0], 12})


def test_an_evaluation_of_weights_that_blew_up_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"after this step: its embeddings of \S+ are not finite: go back with --resume"
    ):
        train.main(command(folder, tmp_path, "--train.learning_rate", "1e30", "--train.evaluate_every", "1"))


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--train.step", "3"], "did you mean train.steps?"),
        (["--shards", "nowhere"], "nowhere: there is no such folder of shards"),
        (["--model.video_dim", "12"], "set --model.video_dim 11"),
        (["--model.text_dim", "6"], "set --model.text_dim 5"),
        (["--train.batch_videos", "400"], "fewer than a batch"),
        (["--train.accumulate", "3"], "does not fall into equal parts"),
        (["--train.accumulate", "2", "--clips.last_batch", "keep"], "take drop"),
        (["--train.accumulate", "4", "--clips.per_video", "1", "--clips.max_audio_frames", "16"], "lower train.accum"),
        (["--init", "nothing.pt"], "nothing.pt: there is no such checkpoint file"),
        (["--resume", "nothing.pt"], "resume nothing.pt: there is no such checkpoint"),
        (["--recipe", "mtf"], "did you mean mft"),
    ],
)
def test_mistakes_are_told_in_one_line(folder: Path, tmp_path: Path, more: list[str], complaint: str) -> None:
    with pytest.raises(InputError) as error:
        train.main(command(folder, tmp_path / "run", *more))
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--init", "nothing.pt"], "there is no such checkpoint file"),
        (["--shards", "nowhere"], "no such folder of shards"),
        (["--loss.name", "mcn", "--loss.clusters", "9"], "a batch of 8 clips cannot start 9 clusters"),
    ],
)
def test_a_refused_command_leaves_nothing(folder: Path, tmp_path: Path, more: list[str], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        train.main(command(folder, tmp_path / "run", *more))
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match=complaint):
        train.main(command(folder, tmp_path / "run", *more))
    assert list((tmp_path / "run").iterdir()) == []


def test_weights_to_start_from_that_are_not_finite_are_refused(
    folder: Path, undisturbed: list[dict], tmp_path: Path
) -> None:
    weights = read_checkpoint(folder / "undisturbed" / "checkpoints" / "step-00000012.pt")["model"]
    weights["fusion.masking_token"][0] = torch.inf
    torch.save({"model": weights}, tmp_path / "lost.pt")
    with pytest.raises(InputError, match=r"lost\.pt: its fusion\.masking_token is not finite"):
        train.main(command(folder, tmp_path / "run", "--init", str(tmp_path / "lost.pt")))


def test_names_are_shown_as_they_are(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "mft[lr=1e-4] a:b:c [" / "red]"
    for steps in ("1", "2"):
        train.main(command(folder, run, "--train.steps", steps))
    said = capsys.readouterr().err
    assert f"goes on from {run}/checkpoints/step-00000001.pt" in said
    assert f"checkpoint in {run}" in said


def test_another_network_does_not_go_on_with_a_runs_checkpoint(
    folder: Path, undisturbed: list[dict], tmp_path: Path
) -> None:
    run = folder / "undisturbed"
    with pytest.raises(InputError, match=r"was trained with model\.projection_dim 8, not 4"):
        train.main(command(folder, run, "--model.projection_dim", "4"))
    with pytest.raises(InputError, match="already holds a run"):
        train.main(command(folder, run, "--resume", "none"))
