"""Scores of every second of a video against the steps of its task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.benchmarks.alignment import Floats
from pipeline.datasets.crosstask import Task
from pipeline.errors import InputError
from pipeline.shards.batches import Batch, ClipReader, Narration
from pipeline.shards.clips import Clip, time_to_frame
from pipeline.text.words import WordVectors

_OF_VIDEO = ("va_embed", "v+a_embed", "video_embed")
"""What stands for a window of the video: the first that the model gives."""

_NO_NARRATION = Narration([], [], [], np.zeros(0, np.int32), [0])


class SecondScorer:
    """Compares windows around each second with steps.

    Windows are sight and sound alone: narration and annotation are not looked at.
    """

    def __init__(
        self,
        model: nn.Module,
        prepare: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        reader: ClipReader,
        words: WordVectors,
        radius: int = 1,
        batch_clips: int = 64,
    ) -> None:
        """Takes a trained model.

        Args:
            model: batch → named embeddings; put into eval mode.
            prepare: a loader's batch → the model's.
            reader: of the shards that have the videos.
            words: the shards' words.
            radius: a window has the second and so many on both sides of it (MFT: 1).
            batch_clips: windows embedded at once.
        """
        self.model = model.eval()
        self.prepare = prepare
        self.reader = reader
        self.words = words
        self.radius = radius
        self.batch_clips = batch_clips

    @torch.inference_mode()
    def scores(self, number: int, task: Task) -> Floats:
        """Scores ``[T, K]`` of a video's whole seconds against the steps of a task.

        Args:
            number: the video, as the shards count.
            task: what it shows.

        Raises:
            InputError: the model has no embedding of text alone.
        """
        steps = self._embed_steps(task)
        windows = [self._embed_windows(batch) for batch in self._windows(number)]
        if not windows:
            return np.zeros((0, len(task.steps)), np.float32)
        videos = torch.cat(windows)
        if getattr(self.model, "similarity", "cosine") == "cosine":
            steps, videos = (nn.functional.normalize(values, dim=1, eps=1e-8) for values in (steps, videos))
        return (videos @ steps.T).cpu().numpy()

    def _embed_steps(self, task: Task) -> Tensor:
        batch = self.reader.empty(len(task.steps))
        for row, step in enumerate(task.steps):
            ids = torch.from_numpy(self.words.ids(step)[: batch["word_ids"].shape[1]])
            batch["word_ids"][row, : len(ids)] = ids
            batch["text_mask"][row, : len(ids)] = 1.0
        outputs = self.model(self.prepare(batch))
        if "text_embed" not in outputs:
            raise InputError("steps cannot be localised with a model that has no embedding of text alone")
        return outputs["text_embed"].float()

    def _embed_windows(self, batch: Batch) -> Tensor:
        outputs = self.model(self.prepare(batch))
        return next(outputs[name].float() for name in _OF_VIDEO if name in outputs)

    def _windows(self, number: int) -> Iterator[Batch]:
        seconds = self.reader.seconds(number)
        clips = [self._window(second, seconds) for second in range(seconds)]
        for first in range(0, seconds, self.batch_clips):
            chosen = clips[first : first + self.batch_clips]
            batch = self.reader.empty(len(chosen))
            self.reader.fill(batch, 0, number, chosen, _NO_NARRATION)
            yield batch

    def _window(self, second: int, seconds: int) -> Clip:
        start, end = max(0, second - self.radius), min(second + self.radius + 1, seconds)
        return Clip(start, end, (), time_to_frame(start), time_to_frame(end))
