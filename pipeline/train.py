"""Trains a model on shards.

    python -m pipeline.train --recipe mft --shards shards/howto100m --run runs/mft
    torchrun --nproc-per-node 4 -m pipeline.train -- --recipe mft --shards shards/howto100m --run runs/mft

Stop it whenever you like (Ctrl-C, SIGTERM, a crash): the same command continues from the run's last checkpoint.
The ``--`` keeps torchrun from taking ``--run`` for an option of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from pipeline.cli import console, parse_with_recipe, positive_float, run_verb, verb_parser, warn
from pipeline.config import Recipe
from pipeline.errors import InputError
from pipeline.replacing import replace_file
from pipeline.wording import of_no_use

if TYPE_CHECKING:
    from torch import nn

    from pipeline.shards.reader import ShardSet
    from pipeline.text.vocabulary import Vocabulary
    from pipeline.training.batches import Prepare
    from pipeline.training.checkpoint import State
    from pipeline.training.distributed import Ranks

_WAIT = 10.0
"""Seconds in which another training of the same run may end."""
_GPU = Path("/dev/nvidia0")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the verb."""
    parser = verb_parser(__doc__, recipe="mft")
    parser.add_argument("--shards", type=Path, required=True, help="folder of shards, shards/<name>")
    parser.add_argument("--run", type=Path, help="folder of the run; default: runs/<recipe's name>")
    parser.add_argument(
        "--resume", default="last", metavar="last|none|CHECKPOINT",
        help="what to go on from: the run's last checkpoint (default), nothing, or a file",
    )  # fmt: skip
    parser.add_argument("--init", type=Path, help="checkpoint whose weights a fresh run starts from (fine-tuning)")
    parser.add_argument("--seconds", type=positive_float, help="most time to train for, in seconds over all restarts")
    arguments, recipe = parse_with_recipe(parser, argv)

    from pipeline.training.distributed import join_ranks  # torch takes seconds to import: not for --help

    run = arguments.run or Path("runs") / recipe.name
    if not run.is_dir() and (run.exists() or run.is_symlink()):
        raise InputError(f"--run {run}: this is {'a file' if run.exists() else 'a link to nothing'}; give a folder")
    with join_ranks() as ranks, _alone(run) if ranks.is_main else nullcontext():
        status = _train(arguments, recipe, run, ranks)
    if status:
        sys.exit(status)


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Keeps a second training out of the folder; one that is just about to end is waited for."""
    from pipeline.acquire.locks import only_one

    there = run.exists()
    try:
        with only_one(run / ".lock", keep=False, wait=_WAIT) as alone:
            if not alone:
                raise InputError(f"another training is running in {run}: wait until it ends, or choose another --run")
            yield
    finally:
        if not there:
            with suppress(OSError):  # what is not empty stays, and of a command that was refused nothing does
                run.rmdir()


def _train(arguments: argparse.Namespace, recipe: Recipe, run: Path, ranks: Ranks) -> int:
    """Trains; gives the process's exit status."""
    import torch

    from pipeline.models import build_model
    from pipeline.objectives import build_loss
    from pipeline.shards.loader import TrainingLoader
    from pipeline.shards.reader import ShardSet
    from pipeline.text.vocabulary import load_vocabulary
    from pipeline.training.batches import preparation
    from pipeline.training.checkpoint import Checkpoints
    from pipeline.training.loop import train
    from pipeline.training.memory import keep_freed_memory
    from pipeline.training.runs import note_stand_ins
    from pipeline.training.schedule import total_steps
    from pipeline.training.words import keep_words

    if ranks.device.type == "cpu":
        keep_freed_memory()
        if _GPU.exists() and ranks.is_main and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
            warn(f"{of_no_use(torch.__version__, torch.version.cuda)}: training on the CPU")
    shards = ShardSet(arguments.shards, warn=ranks.is_main)
    note_stand_ins(recipe, arguments.shards)
    settings = recipe.train
    words = load_vocabulary(arguments.shards / "words.parquet")
    precision = getattr(torch, settings.precision)
    prepare = preparation(arguments.shards, words, recipe.model, ranks.device, precision)
    if settings.batch_videos % (ranks.world_size * settings.accumulate):
        raise InputError(
            f"train.batch_videos {settings.batch_videos} does not fall into equal parts for {ranks.world_size} "
            f"processes with train.accumulate {settings.accumulate}"
        )
    if recipe.clips.last_batch == "keep" and ranks.world_size * settings.accumulate > 1:
        raise InputError("clips.last_batch keep makes a batch that does not fall into equal parts: take drop")
    loader = TrainingLoader(
        shards, recipe.clips, settings.batch_videos, settings.seed, ranks.rank, ranks.world_size, settings.workers
    )
    loss = build_loss(recipe.loss)
    loss.check_batch(settings.batch_videos * recipe.clips.per_video)  # a network takes long to build, and a step longer
    torch.manual_seed(settings.seed)
    model = build_model(recipe.model).to(ranks.device)
    start = _starting_point(arguments, recipe, run, model, words, ranks)
    before = start[1]["step"] if start is not None else 0

    def begin() -> None:
        # not before it is certain that the checkpoint fits: a refused command must leave the run as it was
        if ranks.is_main:
            Checkpoints(run / "checkpoints").remove_parts()
            if start is not None:
                _go_on_from(*start, recipe, run, arguments)
            if before < total_steps(settings, len(loader)):
                _write_settings(run, recipe)  # else nothing is trained with them
                keep_words(run, words)

    outcome = train(
        recipe, model, loss.to(ranks.device), loader, prepare, run, console,
        ranks=ranks, state=start[1] if start else None, seconds=arguments.seconds, video_ids=shards.ids, begin=begin,
        validate=_validation(shards, recipe, prepare) if settings.evaluate_every else None,
    )  # fmt: skip
    if ranks.is_main:
        position = outcome.position
        how = "finished" if outcome.finished else "stopped; the same command continues"
        where = f"; checkpoint in {run}" if position.step else ""
        if position.step == before:
            how += ", nothing to do" if outcome.finished else ""
        console.print(f"training: {how}: {position.step:,} steps, {position.elapsed:,.0f} s{where}", soft_wrap=True)
    return 0 if outcome.signal is None else 128 + outcome.signal


def _starting_point(
    arguments: argparse.Namespace, recipe: Recipe, run: Path, model: nn.Module, words: Vocabulary, ranks: Ranks
) -> tuple[Path, State] | None:
    """The checkpoint to go on from; with ``--init`` a fresh run's model gets that file's weights instead."""
    from pipeline.training.checkpoint import Checkpoints, read_checkpoint
    from pipeline.training.state import load_weights
    from pipeline.training.words import check_words

    checkpoints = Checkpoints(run / "checkpoints")
    found: tuple[Path, State] | None = None
    path: Path | None = None
    resume = arguments.resume
    if resume not in ("none", "last") and ranks.from_main(checkpoints.went_back_to(Path(resume))):
        once_more = checkpoints.folder / "went-back.json"
        warn(f"{run} went back to {resume} before, and goes on from there; to go back once more, remove {once_more}")
        resume = "last"
    if resume == "none":
        if checkpoints.steps():
            raise InputError(f"{run} already holds a run: choose another --run, or remove it to begin again")
    elif resume == "last":
        found = checkpoints.last(warn) if ranks.is_main else None
        path = ranks.from_main(found[0] if found else None)
    else:
        path = Path(resume)
        if not path.is_file():
            raise InputError(f"--resume {path}: there is no such checkpoint; it takes last, none or a file")
        if checkpoints.steps() and path.resolve().parent != checkpoints.folder.resolve():
            raise InputError(
                f"--resume {path}: {run} has checkpoints of its own; to begin with the weights of another run, give "
                "--init and a new --run"
            )
    if path is not None:
        state = found[1] if found else read_checkpoint(path)
        if "recipe" not in state:
            raise InputError(f"{path} holds weights, but no position to go on from: it is only good for --init")
        _check_same_network(state["recipe"], recipe, path)
        check_words(path, words, arguments.shards)
        return path, state
    if arguments.init is not None:
        check_words(arguments.init, words, arguments.shards)
        load_weights(model, arguments.init)
    return None


def _go_on_from(path: Path, state: State, recipe: Recipe, run: Path, arguments: argparse.Namespace) -> None:
    """Removes checkpoints of later steps, and tells what the run goes on from and with."""
    from pipeline.training.checkpoint import Checkpoints

    back = path == Path(arguments.resume)
    removed = Checkpoints(run / "checkpoints").go_back(path, state["step"]) if back else []
    if removed:
        warn(f"removed the run's later checkpoints of steps {', '.join(map(str, removed))}")
    console.print(f"training: goes on from {path}, step {state['step']:,}", soft_wrap=True)
    if arguments.init is not None:
        console.print(f"training: --init {arguments.init} has no effect on a run that goes on", soft_wrap=True)
    changed = [
        f"{section}.{key} {before.get(key)} → {value}"
        for section, values in recipe.to_dict().items()
        if isinstance(values, dict) and isinstance(before := state["recipe"].get(section), dict)
        for key, value in values.items()
        if before.get(key) != value
    ]
    if changed:
        console.print(f"training: settings changed: {', '.join(changed)}", soft_wrap=True)


def _check_same_network(saved: dict[str, object], recipe: Recipe, path: Path) -> None:
    """Refuses to go on with another network or loss than the checkpoint's."""
    now = recipe.to_dict()
    for section in ("model", "loss"):
        before = saved[section]
        assert isinstance(before, dict)
        for key, value in now[section].items():
            if key in before and before[key] != value:
                raise InputError(
                    f"{path} was trained with {section}.{key} {before[key]}, not {value}: choose another --run, or "
                    "give the setting that it has"
                )


def _validation(shards: ShardSet, recipe: Recipe, prepare: Prepare) -> Callable[[nn.Module], dict[str, float]]:
    """Retrieval on the held-out split; ``score`` is the geometric mean of one direction's recalls.

    Raises:
        InputError: there is no such split.
    """
    from pipeline.benchmarks.embeddings import directions_of, embed_clips, similarity_of
    from pipeline.benchmarks.retrieval import main_direction, retrieval_metrics
    from pipeline.benchmarks.strategies import evaluation_sizes
    from pipeline.shards.evaluation import evaluation_clips

    # the other two strategies need another network than the one in training
    held_out = recipe.evaluate
    if held_out.strategy != "cut":
        held_out = dataclasses.replace(held_out, strategy="at_once")
    _, sizes = evaluation_sizes(dataclasses.replace(recipe, evaluate=held_out))
    clips_of_split = partial(evaluation_clips, shards, held_out.split, sizes, held_out.batch_clips, held_out.max_words)
    clips_of_split()

    def validate(model: nn.Module) -> dict[str, float]:
        batches = clips_of_split()
        clips = embed_clips(model, batches, prepare)
        for message in batches.damaged:
            warn(f"left out of the evaluation: {message}")
        clips.check_finite(
            "the network after this step",
            "go back with --resume to an earlier checkpoint, and lower train.learning_rate",
        )
        metrics = {name: retrieval_metrics(similarity_of(clips, name)) for name in directions_of(clips)}
        recalls = {f"retrieval/{name}/R10": metric.R10 for name, metric in metrics.items()}
        return {**recalls, "score": metrics[main_direction(metrics)].geometric_mean}

    return validate


def _write_settings(run: Path, recipe: Recipe) -> None:

    run.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(recipe.to_dict(), sort_keys=False)
    replace_file(run / "config.yaml", lambda part: part.write_text(text))


if __name__ == "__main__":
    run_verb(main)
