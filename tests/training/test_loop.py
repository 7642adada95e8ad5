import json
import os
import random
import signal
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from pipeline.config import LossSettings
from pipeline.errors import InputError
from pipeline.objectives import build_loss
from pipeline.objectives.contrastive import ALL
from pipeline.training.checkpoint import Checkpoints, State
from pipeline.training.distributed import AnyRank, Ranks
from pipeline.training.logging import read_rows
from pipeline.training.loop import train
from tests.training.fakes import QUIET, VIDEOS, FakeLoader, FakeLoss, FakeModel, recipe, run_training
from tests.training.processes import run_ranks


def losses(run: Path) -> dict[int, tuple[float, float]]:
    return {row["step"]: (row["loss"], row["gradient_norm"]) for row in read_rows(run / "metrics.jsonl")}


def newest(run: Path) -> State:
    found = Checkpoints(run / "checkpoints").last(pytest.fail)
    assert found is not None
    return found[1]


class KilledError(Exception):
    """The process is gone."""


class DyingLoader(FakeLoader):
    """Dies when asked for the batch after so many."""

    def __init__(self, lives: int) -> None:
        super().__init__()
        self.lives = lives

    def __iter__(self):
        for batch in super().__iter__():
            if self.lives == 0:
                raise KilledError
            self.lives -= 1
            yield batch


def test_resumed_after_kills_at_random_steps_the_losses_are_bit_equal(tmp_path: Path) -> None:
    run_training(tmp_path / "undisturbed", steps=40)
    undisturbed = losses(tmp_path / "undisturbed")
    assert len(undisturbed) == 40
    for attempt in range(20):
        run, state, chance = tmp_path / str(attempt), None, random.Random(attempt)
        for _ in range(2):
            with pytest.raises(KilledError):
                run_training(run, state, DyingLoader(chance.randint(3, 18)), steps=40, checkpoint_every=3)
            state = newest(run)
        run_training(run, state, steps=40, checkpoint_every=3)
        assert losses(run) == undisturbed


def test_a_compiled_network_trains_and_is_saved_as_the_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_training(tmp_path / "plain", steps=4)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    run_training(tmp_path / "compiled", steps=2, compile=True)
    run_training(tmp_path / "compiled", newest(tmp_path / "compiled"), steps=4, compile=True)
    assert losses(tmp_path / "compiled") == losses(tmp_path / "plain")
    assert list(newest(tmp_path / "compiled")["model"]) == list(newest(tmp_path / "plain")["model"])


def test_the_model_learns(tmp_path: Path) -> None:
    run_training(tmp_path, steps=60)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert rows[-1]["loss"] - 1e-3 * 4 * 60 < rows[0]["loss"] * 0.8
    assert {"epoch", "loss/tv", "learning_rate", "clips_per_second", "data_wait", "memory_bytes", "at"} <= set(rows[0])
    assert [row["epoch"] for row in rows[:7]] == [0, 0, 0, 1, 1, 1, 2]
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_weighted_terms_that_the_model_does_not_give_are_told_once(tmp_path: Path) -> None:
    told = Console(file=StringIO(), width=500)
    loss = build_loss(LossSettings(weights={"tv": 1.0, "ta": 0.5, "t_va": 0.1, "va": 0.0}))
    train(recipe(steps=3), GivingModel(), loss, FakeLoader(), dict, tmp_path / "lacking", told)
    assert told.file.getvalue().count("gives no embeddings for it: ta, t_va\n") == 1
    told = Console(file=StringIO(), width=500)
    train(
        recipe(steps=3),
        GivingModel(),
        build_loss(LossSettings(weights={"tv": 1.0})),
        FakeLoader(),
        dict,
        tmp_path / "all",
        told,
    )
    assert "no embeddings" not in told.file.getvalue()


class GivingModel(FakeModel):
    """Tells of text too whether clips have it, as MFT does."""

    def forward(self, batch):
        outputs = super().forward(batch)
        return {**outputs, "text_nonempty_input_mask": outputs["video_nonempty_input_mask"]}


def test_a_signal_saves_and_stops_between_two_steps(tmp_path: Path) -> None:
    class Signalling(FakeLoader):
        def _part(self, videos):
            if self.epoch == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return super()._part(videos)

    before = signal.getsignal(signal.SIGTERM)
    outcome = run_training(tmp_path, loader=Signalling(), steps=40)
    assert (outcome.finished, outcome.signal, outcome.position.step) == (False, signal.SIGTERM, 4)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [4]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("log_every", [1, 5])
def test_a_value_that_is_no_number_stops_the_run_and_names_the_batch(tmp_path: Path, log_every: int) -> None:
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0)).tolist()
    poisoned = order[5]
    with pytest.raises(InputError, match="loss is nan at step 2") as error:
        run_training(tmp_path, loader=FakeLoader(poisoned=poisoned), steps=40, log_every=log_every)
    assert all(VIDEOS[number] in str(error.value) for number in order[4:8])
    assert VIDEOS[order[0]] not in str(error.value)
    assert not Checkpoints(tmp_path / "checkpoints").steps()


class SteepLoss(FakeLoss):
    """Finite, but its slope is not: the square root of nothing."""

    def share(self, outputs, own):
        total, terms = super().share(outputs, own)
        if self.seen == 12:  # the third batch
            total = total + (outputs["video_embed"] * 0).pow(2).sum().sqrt()
        return total, terms


def test_a_gradient_that_is_no_number_stops_the_run_too(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gradient_norm is nan at step 3"):
        train(recipe(steps=9), FakeModel(), SteepLoss(), FakeLoader(), dict, tmp_path, QUIET, video_ids=VIDEOS)


def test_time_is_counted_over_restarts(tmp_path: Path) -> None:
    outcome = run_training(tmp_path, steps=3)
    state = newest(tmp_path)
    state["elapsed"] = 100.0
    again = run_training(tmp_path, state, seconds=99.0, steps=9)
    assert outcome.finished and again.finished
    assert again.position.step == 3


def test_a_finished_run_does_nothing_when_asked_again(tmp_path: Path) -> None:
    run_training(tmp_path, steps=5)
    before = (tmp_path / "metrics.jsonl").read_text()
    state = newest(tmp_path)
    assert run_training(tmp_path, state, steps=5).position.step == 5
    rows = [json.loads(line) for line in before.splitlines()]
    assert read_rows(tmp_path / "metrics.jsonl") == rows


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    run_training(tmp_path, steps=2)
    state = newest(tmp_path)
    del state["model"]["first.weight"]
    with pytest.raises(InputError, match="does not fit this run's model"):
        run_training(tmp_path, state, steps=2)


class BottomlessLoss(FakeLoss):
    """A finite loss whose gradient never is."""

    def share(self, outputs, own=ALL):
        total, terms = super().share(outputs, own)
        return total + (outputs["video_embed"] * 0).sqrt().sum(), terms


def test_float16_training_that_can_take_no_step_ends(tmp_path: Path) -> None:
    loop = partial(train, recipe(precision="float16", steps=40), FakeModel(), BottomlessLoss(), FakeLoader(), dict)
    with pytest.raises(
        InputError, match=r"gradients are NaN or infinite in float16.* up to step 17: set train\.precision"
    ):
        loop(tmp_path, QUIET)
    assert len(losses(tmp_path)) == 16


def test_an_evaluation_that_fails_loses_no_step(tmp_path: Path) -> None:
    def failing(model: torch.nn.Module) -> dict[str, float]:
        raise InputError("a test video is damaged")

    with pytest.raises(InputError, match="a test video is damaged"):
        run_training(tmp_path, validate=failing, steps=40, evaluate_every=5)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [5]
    assert len(losses(tmp_path)) == 5


def test_who_asks_to_stop_waits_for_no_evaluation(tmp_path: Path) -> None:
    evaluated = []

    class Signalling(FakeLoader):
        def _part(self, videos):
            if self.epoch == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return super()._part(videos)

    run_training(
        tmp_path, loader=Signalling(), validate=lambda _: evaluated.append(1) or {}, steps=40, evaluate_every=4
    )
    assert Checkpoints(tmp_path / "checkpoints").steps() == [4] and not evaluated


def test_a_signal_while_evaluating_stops_there(tmp_path: Path) -> None:
    def signalled(model: torch.nn.Module) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return {"score": 1.0}

    outcome = run_training(tmp_path, validate=signalled, steps=40, evaluate_every=5)
    assert outcome.position.step == 5
    assert Checkpoints(tmp_path / "checkpoints").best() == (5, 1.0)


def test_an_evaluation_is_left_off_for_who_asks_to_stop(tmp_path: Path) -> None:
    batches: list[int] = []

    def long(model: torch.nn.Module) -> dict[str, float]:
        for number in range(10):
            batches.append(number)
            if number == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            model(FakeLoader()._part(torch.tensor([0, 1])))
        return {"score": 1.0}

    outcome = run_training(tmp_path, validate=long, steps=40, evaluate_every=5)
    assert (outcome.finished, outcome.position.step, batches) == (False, 5, [0, 1, 2, 3])
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.steps() == [5] and checkpoints.best() is None
    assert run_training(tmp_path, newest(tmp_path), validate=lambda _: {"score": 1.0}, steps=8).finished


@pytest.mark.parametrize("steps", [5, 12])
def test_an_evaluation_that_was_left_off_or_failed_is_made_up_for(tmp_path: Path, steps: int) -> None:
    def sum_of_weights(model: torch.nn.Module) -> dict[str, float]:
        return {"retrieval/t2v/R10": 50.0, "score": sum(weight.abs().sum().item() for weight in model.parameters())}

    def stopped(model: torch.nn.Module) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        model(FakeLoader()._part(torch.tensor([0, 1])))
        raise AssertionError

    def failing(model: torch.nn.Module) -> dict[str, float]:
        raise InputError("a test video is damaged")

    run_training(tmp_path / "undisturbed", validate=sum_of_weights, steps=steps, evaluate_every=5)
    run = tmp_path / "run"
    run_training(run, validate=stopped, steps=steps, evaluate_every=5)
    for _ in range(2):
        with pytest.raises(InputError, match="a test video is damaged"):
            run_training(run, newest(run), validate=failing, steps=steps, evaluate_every=5)
    outcome = run_training(run, newest(run), validate=sum_of_weights, steps=steps, evaluate_every=5)
    assert outcome.finished and outcome.position.step == steps
    scores = [
        {row["step"]: (row["loss"], row.get("score"), row.get("retrieval/t2v/R10")) for row in read_rows(path)}
        for path in (run / "metrics.jsonl", tmp_path / "undisturbed" / "metrics.jsonl")
    ]
    assert scores[0] == scores[1] and len(scores[0]) == steps
    best = [Checkpoints(folder / "checkpoints").best() for folder in (run, tmp_path / "undisturbed")]
    assert best[0] == best[1] is not None


def test_a_step_at_which_no_evaluation_is_due_is_not_evaluated_when_a_run_goes_on(tmp_path: Path) -> None:
    run_training(tmp_path, steps=4)
    evaluated: list[int] = []
    validate = lambda _: evaluated.append(1) or {"score": 1.0}  # noqa: E731
    run_training(tmp_path, newest(tmp_path), validate=validate, steps=9, evaluate_every=5)
    assert len(evaluated) == 2
    run_training(tmp_path, newest(tmp_path), validate=validate, steps=9, evaluate_every=5)
    assert len(evaluated) == 2


def test_what_a_checkpoint_held_does_not_stay_in_memory(tmp_path: Path) -> None:
    run_training(tmp_path, steps=2)
    state = newest(tmp_path)
    run_training(tmp_path, state, steps=3)
    assert not {"model", "loss", "optimizer", "loader"} & set(state)


def _stop_one(ranks: Ranks) -> list[bool]:
    asked = AnyRank(ranks)
    return [asked(ranks.rank == 1 and step == 1) for step in range(4)]


def test_ranks_stop_together_a_step_after_one_was_asked_to() -> None:
    assert run_ranks(2, _stop_one) == [[False, False, True, False]] * 2
