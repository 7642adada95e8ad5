"""Embeddings of any windows of videos and of any texts, and the scores of a video's seconds against steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.benchmarks.alignment import Floats
from pipeline.datasets.crosstask import Task
from pipeline.errors import InputError
from pipeline.shards.batches import ClipReader, Narration
from pipeline.shards.clips import Clip, time_to_frame
from pipeline.shards.layout import arrays_of
from pipeline.text.vocabulary import Vocabulary

_OF_VIDEO = ("va_embed", "v+a_embed", "video_embed")
"""What stands for a window of the video: the first that the model gives."""

_NO_NARRATION = Narration([], [], [], np.zeros(0, np.int32), [0])


def window(start: float, end: float) -> Clip:
    """Sight and sound of a video from ``start`` to ``end`` seconds, without its narration."""
    return Clip(start, end, (), time_to_frame(start), time_to_frame(end))


class Embedder:
    """A trained model that embeds texts, and windows of the videos in some shards."""

    def __init__(
        self,
        model: nn.Module,
        prepare: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        reader: ClipReader,
        words: Vocabulary,
        batch_clips: int = 64,
    ) -> None:
        """Takes a trained model.

        Args:
            model: batch → named embeddings; put into eval mode.
            prepare: a loader's batch → the model's.
            reader: of the shards that have the videos.
            words: the shards' words.
            batch_clips: windows embedded at once.
        """
        self.model = model.eval()
        self.prepare = prepare
        self.reader = reader
        self.words = words
        self.batch_clips = batch_clips

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts → float32 ``[texts, dim]``.

        Raises:
            InputError: the model has no embedding of text alone.
        """
        batch = self.reader.layout.allocate(len(texts))
        self.reader.layout.clear(batch, 0, len(texts))
        for row, text in enumerate(texts):
            ids = torch.from_numpy(self.words.ids(text)[: batch["word_ids"].shape[1]])
            batch["word_ids"][row, : len(ids)] = ids
        outputs = self.model(self.prepare(batch))
        if "text_embed" not in outputs:
            raise InputError("this model has no embedding of text alone, so nothing can be named or localised with it")
        return outputs["text_embed"].float()

    @torch.inference_mode()
    def windows(self, number: int, clips: Sequence[Clip]) -> Tensor:
        """Windows of a video, as the shards count, → float32 ``[windows, dim]`` of sight and sound together."""
        embedded = []
        for first in range(0, len(clips), self.batch_clips):
            chosen = clips[first : first + self.batch_clips]
            batch = self.reader.layout.allocate(len(chosen))
            self.reader.finish(self.reader.fill(arrays_of(batch), 0, number, chosen, _NO_NARRATION))
            outputs = self.model(self.prepare(batch))
            embedded.append(next(outputs[name].float() for name in _OF_VIDEO if name in outputs))
        return torch.cat(embedded)

    def similarity(self, videos: Tensor, texts: Tensor) -> Floats:
        """``[windows, texts]``, as the model's embeddings are compared."""
        if getattr(self.model, "similarity", "cosine") == "cosine":
            videos, texts = (nn.functional.normalize(values, dim=1, eps=1e-8) for values in (videos, texts))
        return (videos @ texts.T).cpu().numpy()


def second_scores(embedder: Embedder, number: int, task: Task, radius: int = 1) -> Floats:
    """Scores ``[T, K]`` of a video's whole seconds against the steps of a task.

    Narration and annotation are not looked at.

    Args:
        embedder: the model and the shards.
        number: the video, as the shards count.
        task: what it shows.
        radius: a window has the second and so many on both sides of it (MFT: 1).

    Raises:
        InputError: the model has no embedding of text alone.
    """
    seconds = embedder.reader.seconds(number)
    if seconds == 0:
        return np.zeros((0, len(task.steps)), np.float32)
    around = [window(max(0, second - radius), min(second + radius + 1, seconds)) for second in range(seconds)]
    return embedder.similarity(embedder.windows(number, around), embedder.texts(task.steps))
