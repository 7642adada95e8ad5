"""Losses on their way from the device: read in groups, so that a GPU need not wait, and checked all the same."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from pipeline.errors import InputError

_NAMED = 8


class LossWatch:
    """Keeps the losses of the steps since the last look."""

    def __init__(self, video_ids: Sequence[str], unchecked: Collection[str] = ()) -> None:
        """``video_ids``: what the batches' ``video_index`` counts in; ``unchecked``: values that may be infinite."""
        self._video_ids = video_ids
        self._unchecked = unchecked
        self._names: list[str] = []
        self._steps: list[tuple[int, Tensor, Tensor]] = []

    def add(self, step: int, values: dict[str, Tensor], video_index: Tensor) -> None:
        """Notes a step's scalars, the total first, and the videos of its batch."""
        self._names = list(values)
        self._steps.append((step, torch.stack([value.float().reshape(()) for value in values.values()]), video_index))

    def look(self) -> dict[str, float]:
        """The last step's values by name; all steps since the last look are checked.

        Raises:
            InputError: a value is NaN or infinite; the message names the step and its videos.
        """
        table = torch.stack([values for _, values, _ in self._steps]).tolist()
        steps, self._steps = self._steps, []
        for (step, _, video_index), row in zip(steps, table, strict=True):
            for name, value in zip(self._names, row, strict=True):
                if not math.isfinite(value) and name not in self._unchecked:
                    raise InputError(self._explain(step, name, value, video_index))
        return dict(zip(self._names, table[-1], strict=True))

    def _explain(self, step: int, name: str, value: float, video_index: Tensor) -> str:
        videos = (
            [] if video_index is None else [self._video_ids[i] for i in dict.fromkeys(video_index.tolist()) if i >= 0]
        )
        named = ", ".join(videos[:_NAMED]) + (f" and {len(videos) - _NAMED} more" if len(videos) > _NAMED else "")
        return (
            f"{name} is {value} at step {step}, in the batch of videos {named}: look at their "
            "features, or lower train.learning_rate, or set train.clip_gradient; checkpoints are from before it. "
            "If it comes at once when the run goes on, go back further, with --resume and an earlier checkpoint"
        )


def check_scale(scaler: torch.amp.GradScaler, step: int) -> None:
    """Notices that float16 training stands still: the scaler skips each step whose gradients are not finite.

    It halves its scale then, and where that does not help, every time, no step is ever taken.

    Raises:
        InputError: the scale is below 1, where gradients that overflowed because of it would have long fitted.
    """
    if scaler.is_enabled() and scaler.get_scale() < 1:
        raise InputError(
            f"gradients are NaN or infinite in float16, whatever they are scaled by, up to step {step}: set "
            "train.precision bfloat16 or float32, or lower train.learning_rate; checkpoints are from before it"
        )
