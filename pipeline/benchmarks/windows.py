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
from pipeline.shards.batches import ClipReader
from pipeline.shards.clips import Clips, time_to_frame, windows
from pipeline.shards.layout import arrays_of
from pipeline.shards.narrations import no_narrations
from pipeline.text.vocabulary import Vocabulary

SIGHT_AND_SOUND = ("va_embed", "v+a_embed", "video_embed")
"""What stands for a window of a video: the first that the model gives."""
SIGHT = ("video_embed",)
_JUST = 1e-6
"""Seconds by which a window ends before the feature that begins at its end."""


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
            batch_clips: windows, or texts, embedded at once.
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
        embedded = []
        for first in range(0, len(texts), self.batch_clips):
            chosen = texts[first : first + self.batch_clips]
            batch = self.reader.layout.allocate(len(chosen))
            self.reader.layout.clear(batch, 0, len(chosen))
            for row, text in enumerate(chosen):
                ids = torch.from_numpy(self.words.ids(text)[: batch["word_ids"].shape[1]])
                batch["word_ids"][row, : len(ids)] = ids
            outputs = self.model(self.prepare(batch))
            if "text_embed" not in outputs:
                raise InputError("this model has no embedding of text alone: nothing can be named or localised with it")
            embedded.append(outputs["text_embed"].float())
        return torch.cat(embedded)

    @torch.inference_mode()
    def windows(self, number: int, clips: Clips, names: Sequence[str] = SIGHT_AND_SOUND) -> Tensor:
        """Windows of a video, as the shards count, → float32 ``[windows, dim]``: the first of ``names`` that exists."""
        embedded = []
        for first in range(0, len(clips.start), self.batch_clips):
            chosen = clips.part(first, first + self.batch_clips)
            batch = self.reader.layout.allocate(len(chosen.start))
            for video in self.reader.fill(arrays_of(batch), np.array([number]), chosen, no_narrations()):
                self.reader.finish(video)
            outputs = self.model(self.prepare(batch))
            embedded.append(next(outputs[name].float() for name in names if name in outputs))
        return torch.cat(embedded)

    def similarity(self, videos: Tensor, texts: Tensor) -> Floats:
        """``[windows, texts]``, as the model's embeddings are compared.

        Raises:
            InputError: a value is NaN or infinite: of such ones too figures can be had, and they mean nothing.
        """
        if getattr(self.model, "similarity", "cosine") == "cosine":
            videos, texts = (nn.functional.normalize(values, dim=1, eps=1e-8) for values in (videos, texts))
        similarity = (videos @ texts.T).cpu().numpy()
        if not np.isfinite(similarity).all():
            raise InputError(
                "the network's embeddings are not finite: its training diverged; take an earlier checkpoint"
            )
        return similarity


def windows_of_seconds(seconds: int, radius: int, sound: int | None = None) -> Clips:
    """A window for each second of a video: the second itself, and what is beside it.

    It has the features that lie in it, wholly or in part, and not, as training clips have, the one that begins where
    it ends (``accurate_borders`` in MFT's program; MCN's shares a video's features out among its seconds that way).

    Args:
        seconds: the video's.
        radius: so many seconds on both sides are seen.
        sound: seconds that are heard, with the second as their middle where the video's ends allow it (MCN's program:
            8); None: those that are seen.
    """
    if radius < 0 or (sound is not None and sound < 1):
        raise InputError(f"a window of {radius} seconds on both sides, {sound} of sound: it has to have a length")
    second, video = np.arange(seconds), np.zeros(seconds, np.int64)
    around = windows(video, np.maximum(0, second - radius), np.minimum(second + radius + 1, seconds))
    around = around._replace(end=around.end - _JUST)
    if sound is None:
        return around
    start = np.clip(second - sound // 2, 0, max(0, seconds - sound))
    return around._replace(audio_first=time_to_frame(start), audio_stop=time_to_frame(start + sound))


def second_scores(embedder: Embedder, number: int, task: Task, radius: int = 1, sound: int | None = None) -> Floats:
    """Scores ``[T, K]`` of a video's whole seconds against the steps of a task.

    Narration and annotation are not looked at.

    Args:
        embedder: the model and the shards.
        number: the video, as the shards count.
        task: what it shows.
        radius: see :func:`windows_of_seconds`; likewise ``sound``.
        sound: see there.

    Raises:
        InputError: the model has no embedding of text alone.
    """
    seconds = int(embedder.reader.seconds(np.array([number]))[0])
    if seconds == 0:
        return np.zeros((0, len(task.steps)), np.float32)
    around = windows_of_seconds(seconds, radius, sound)
    return embedder.similarity(embedder.windows(number, around), embedder.texts(task.steps))
