"""The training loop, top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from torch import Tensor, nn

from pipeline.config import Recipe, TrainSettings
from pipeline.errors import InputError
from pipeline.objectives import Loss
from pipeline.training.batch_norm import synchronize_batch_norm
from pipeline.training.batches import Batch
from pipeline.training.checkpoint import Checkpoints, State
from pipeline.training.compiling import compiled
from pipeline.training.distributed import AnyRank, Ranks
from pipeline.training.logging import RunLog, Stopwatch, peak_memory
from pipeline.training.schedule import learning_rate, total_steps
from pipeline.training.state import Position, Stateful, capture, restore
from pipeline.training.step import loss_and_gradients
from pipeline.training.stopping import StopRequest
from pipeline.training.tuning import Tuning
from pipeline.training.watch import LossWatch, check_scale


class Loader(Protocol):
    """What the loop asks of a loader: a pass gives what is left of an epoch; the next pass is the next epoch."""

    def __iter__(self) -> Iterator[Batch]: ...
    def __len__(self) -> int: ...
    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch that was handed out."""

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Goes on from there."""


@dataclass
class Outcome:
    """How a call of :func:`train` ended."""

    position: Position
    finished: bool
    """Whether the run's steps, or its time, are done; else a signal stopped it."""
    signal: int | None = None


def train(
    recipe: Recipe,
    model: nn.Module,
    loss: Loss,
    loader: Loader,
    prepare: Callable[[Batch], Batch],
    run: Path,
    console: Console,
    *,
    ranks: Ranks | None = None,
    state: State | None = None,
    seconds: float | None = None,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    video_ids: Sequence[str] = (),
    begin: Callable[[], None] = lambda: None,
) -> Outcome:
    """Trains until the recipe's steps are done, the time is up or a signal comes; every way ends with a checkpoint.

    Args:
        recipe: the settings; ``recipe.train`` is the loop's.
        model: batch → named embeddings, on its device.
        loss: named embeddings → total and terms; its buffers are part of a checkpoint.
        loader: this rank's batches.
        prepare: a loader's batch → the model's.
        run: the folder that gets checkpoints, ``metrics.jsonl`` and TensorBoard events.
        console: where progress is shown.
        ranks: those that train together; None: this process alone.
        state: a checkpoint to go on from.
        seconds: limit of the run's training time, over all restarts.
        validate: gives numbers for the log, ``score`` among them, by which the best checkpoint is chosen.
        video_ids: what the batches' ``video_index`` counts in, for messages.
        begin: called once the checkpoint is known to fit, before anything of the run is changed.

    Raises:
        InputError: a loss or gradient is NaN or infinite, or the checkpoint does not fit.
    """
    settings, ranks = recipe.train, ranks or Ranks()
    torch.manual_seed(settings.seed + ranks.rank)
    ranks.broadcast(model)
    if settings.batch_norm == "synchronized":
        synchronize_batch_norm(model)  # alone too: torch's own layer rounds otherwise
    model.train(not settings.eval_mode)
    network = compiled(model, ranks) if settings.compile else model
    optimizer = build_optimizer(settings, model)
    scaler = torch.amp.GradScaler(ranks.device.type, enabled=settings.precision == "float16")
    parts: dict[str, Stateful] = {"model": model, "loss": loss, "optimizer": optimizer, "scaler": scaler}
    parts["loader"] = loader
    wanted = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    position = restore(state, parts, ranks) if state is not None else Position()
    for group, own in zip(optimizer.param_groups, wanted, strict=True):
        group.update(own)  # the checkpoint brings those of the settings that it was saved with
    begin()
    steps_per_epoch = len(loader)
    last_step = total_steps(settings, steps_per_epoch)
    checkpoints = Checkpoints(run / "checkpoints", settings.keep)
    log = RunLog(run, console, step=position.step, total_steps=last_step, seconds=seconds, silent=not ranks.is_main)
    # the scaler skips a float16 step whose gradients overflow: its norm may be infinite
    losses = LossWatch(video_ids, unchecked=("gradient_norm",) if scaler.is_enabled() else ())
    stopwatch = Stopwatch(position.elapsed)
    clustering_time = getattr(loss, "clustering_time", None)
    begin_epoch, clusters_used = (getattr(loss, name, None) for name in ("begin_epoch", "clusters_used"))
    asked_to_stop = AnyRank(ranks)
    tuning = Tuning(model, network, settings, ranks, console)
    clips, begun_at = 0, position.step
    over = position.step >= last_step or ranks.any(seconds is not None and position.elapsed >= seconds)

    def save(score: float | None) -> None:
        snapshot = capture(position, parts, recipe.to_dict(), ranks)
        if ranks.is_main:
            checkpoints.save(position.step, snapshot, score)

    with log, StopRequest() as stop:
        # an evaluation that failed, or was left off for who asked to stop, is made up for
        unscored = state is not None and state.get("score") is None
        if validate is not None and unscored and (over or _is_multiple(position.step, settings.evaluate_every)):
            found, failure = _validated(validate, model, ranks, stop)
            if failure is not None:
                raise failure
            if found:
                log.add(position.step, found)
                save(found["score"])
            stopwatch.next_lap()
        for batch in stopwatch.waiting(_endless(loader)) if not over else ():
            rate = learning_rate(settings, position.step, steps_per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            if begin_epoch is not None and position.step % steps_per_epoch == 0:
                begin_epoch()
            with tuning.applied(batch, prepare) as ready:
                total, terms = loss_and_gradients(
                    network, loss, ready, ranks, settings.precision, scaler, settings.accumulate
                )
            if position.step == begun_at and ranks.is_main:
                _note_lacking(loss, terms, console)
            scaler.unscale_(optimizer)
            norm = _clip_gradients(model, settings.clip_gradient)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

            position.step += 1
            position.elapsed = stopwatch.elapsed
            clips += len(batch["video_index"]) * ranks.world_size
            named = {"loss": total, **{f"loss/{name}": term for name, term in terms.items()}, "gradient_norm": norm}
            losses.add(position.step, named, batch["video_index"].clone())

            logging = position.step % settings.log_every == 0
            over = position.step >= last_step
            # asking the other ranks makes a GPU wait, so it is done when it waits anyway
            asking = logging or ranks.world_size == 1
            over |= seconds is not None and asking and ranks.any(position.elapsed >= seconds)
            stopping = asked_to_stop(stop.signal is not None)
            ending = over or stopping
            # who asks to stop may not wait for an evaluation
            due = over or (not stopping and _is_multiple(position.step, settings.evaluate_every))
            evaluating = validate is not None and due
            saving = ending or evaluating or position.step % settings.checkpoint_every == 0
            if logging or saving:
                epoch = (position.step - 1) // steps_per_epoch
                row = {"step": position.step, "epoch": epoch, **losses.look(), "learning_rate": rate}
                check_scale(scaler, position.step)
                spent = clustering_time.take() if clustering_time is not None and "loss/cluster" in row else None
                row |= {"clusters_used": clusters_used()} if spent is not None and clusters_used is not None else {}
                row |= {**stopwatch.lap(clips, spent), "memory_bytes": peak_memory(ranks.device)}
                failure = None
                if evaluating and validate is not None:
                    found, failure = _validated(validate, model, ranks, stop)
                    row |= found
                    ending |= ranks.any(stop.signal is not None)
                log.write(row, position.elapsed)
                if saving:
                    save(row.get("score"))
                if failure is not None:
                    raise failure
                clips = 0
                stopwatch.next_lap()
            if ending:
                break
    return Outcome(position, over, stop.signal)


def build_optimizer(settings: TrainSettings, model: nn.Module) -> torch.optim.Optimizer:
    """Adam, with L2 regularisation, or AdamW, with decoupled decay, over all parameters that are trained."""
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # one pass over all parameters: on a CPU too it saves a few percent of a small step
    return kind(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def _validated(
    validate: Callable[[nn.Module], dict[str, float]], model: nn.Module, ranks: Ranks, stop: StopRequest
) -> tuple[dict[str, float], Exception | None]:
    """The main rank's numbers, on all ranks, and what went wrong: the steps so far are to be saved all the same.

    Who asks to stop meanwhile does not wait for the rest: there are no numbers then.
    """
    found: dict[str, float] = {}
    failure: Exception | None = None
    if ranks.is_main:
        training = model.training
        hook = model.register_forward_pre_hook(partial(_leave_off, stop))
        try:
            found = validate(model)
        except _LeftOffError:
            pass
        except Exception as error:
            failure = error
        finally:
            hook.remove()
            model.train(training)
    found, failed = ranks.from_main((found, failure is not None))
    if failed and failure is None:
        failure = InputError("the evaluation failed in the first process")
    return found, failure


class _LeftOffError(Exception):
    """A wish to stop came during an evaluation."""


def _leave_off(stop: StopRequest, *_: object) -> None:
    if stop.signal is not None:
        raise _LeftOffError


def _note_lacking(loss: Loss, terms: Mapping[str, Tensor], console: Console) -> None:
    """Says which terms have a weight, but nothing that the model gives to compute them from."""
    lacking = [name for name in getattr(loss, "weights", ()) if name not in terms]
    if lacking:
        message = f"training: left out of the loss, since this model gives no embeddings for it: {', '.join(lacking)}"
        console.print(message, soft_wrap=True)


def _endless(loader: Loader) -> Iterator[Batch]:
    """Epoch after epoch."""
    while True:
        yield from loader


def _clip_gradients(model: nn.Module, most: float | None) -> Tensor:
    """The gradients' norm, before they are scaled down to ``most``."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if most is not None:
        nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return norm


def _is_multiple(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
