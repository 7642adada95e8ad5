"""The learning rate of each step, from the step alone: a resumed run needs no scheduler's state."""

from __future__ import annotations

import math

from pipeline.config import TrainSettings


def total_steps(settings: TrainSettings, steps_per_epoch: int) -> int:
    """Steps of the whole run."""
    return settings.steps if settings.steps is not None else settings.epochs * steps_per_epoch


def learning_rate(settings: TrainSettings, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0.

    It grows linearly over the first ``warmup_steps``. Then: ``constant``; ``exponential``, ``decay`` to the power of
    the epochs done (MFT's schedule); ``cosine``, half a period from the end of the warm-up to zero at the last step
    (MCN's schedule).
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    if settings.schedule == "exponential":
        return float(settings.learning_rate * settings.decay ** (step // steps_per_epoch))
    decaying = max(total_steps(settings, steps_per_epoch) - settings.warmup_steps, 1)
    progress = min((step - settings.warmup_steps) / decaying, 1.0)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
