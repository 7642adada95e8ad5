"""Loading the published way: `npz` files read whole, the same windows one by one, float32 tensors, a DataLoader."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.config import ClipSettings
from pipeline.shards.reader import ShardSet

SETTINGS = ClipSettings()
BATCH_VIDEOS = 32


class Window(NamedTuple):
    """A clip as the published program draws it, one by one."""

    start: float
    end: float
    captions: list[int]
    audio_first: int
    audio_stop: int


def published_window(starts: list[float], ends: list[float], start: float) -> Window:
    """The clip that a random window finds: ours of :mod:`pipeline.shards.clips`, for one at a time."""
    end = start + SETTINGS.seconds
    for time_of in (start, end):
        first = max(0, bisect_left(starts, time_of) - 1)
        if not starts[first] <= time_of <= ends[first]:
            continue
        last, captions = first, [first]
        while ends[last] - starts[first] < SETTINGS.seconds and (first > 0 or last + 1 < len(ends)):
            later = last + 1 < len(ends)
            if first > 0 and not (later and ends[last] - starts[first - 1] > ends[last + 1] - starts[first]):
                first -= 1
                captions.append(first)
            else:
                last += 1
                captions.append(last)
        start, end = starts[first], ends[last]
        sound = (start + SETTINGS.seconds / 2, start + SETTINGS.seconds * 1.5)
        return Window(start, end, captions, *(max(0, (int(one * 16000) - 200) // 160) for one in sound))
    return Window(start, end, [], *(max(0, (int(one * 16000) - 200) // 160) for one in (start, end)))


class PublishedDataset(Dataset[dict[str, Tensor]]):
    """One video's files, loaded whole, as in the published ``HowTo_Dataset``; the same windows as the loader's."""

    def __init__(self, tree: Path, shards: ShardSet, vectors: Mapping[str, np.ndarray]):
        self.tree, self.vectors = tree, vectors
        self.ids = shards.ids
        self.captions = {}
        for video_id in self.ids:
            sample = shards.read(video_id)
            words = [
                [f"word{word}" for word in sample.arrays["text"][first:stop]]
                for first, stop in zip(sample.caption_words, sample.caption_words[1:], strict=False)
            ]
            starts, ends = [caption.start for caption in sample.captions], [caption.end for caption in sample.captions]
            self.captions[video_id] = (starts, ends, words)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        video_id = self.ids[place]
        here = self.tree / video_id
        features_2d = torch.from_numpy(np.load(here / f"{video_id}_2d.npz")["features"]).float()
        features_3d = torch.from_numpy(np.load(here / f"{video_id}_3d.npz")["features"]).float()
        spectrogram = np.load(here / f"{video_id}_spec.npz")["arr_0"]
        starts, ends, words = self.captions[video_id]
        room = int((spectrogram.shape[1] * 160 + 200) / 16000) - SETTINGS.seconds
        shares = np.random.default_rng([1, place]).random(SETTINGS.per_video)
        clips = [published_window(starts, ends, float(share) * room) for share in shares]
        parts = [self._clip(clip, features_2d, features_3d, spectrogram, words) for clip in clips]
        return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}

    def _clip(
        self, clip: Window, features_2d: Tensor, features_3d: Tensor, spectrogram: np.ndarray, words: list[list[str]]
    ) -> dict[str, Tensor]:
        track_2d = features_2d[int(clip.start) : int(clip.end) + 1]
        track_3d = features_3d[int(clip.start * 1.5) : int(clip.end * 1.5) + 1]
        tokens = SETTINGS.max_video_tokens
        video, video_mask = torch.zeros(tokens, 4096), torch.zeros(tokens)
        if len(track_2d) and len(track_3d):
            stretched = F.interpolate(track_2d.T[None], size=len(track_3d), mode="nearest")[0].T
            video[: len(track_3d), :2048] = F.normalize(stretched[:tokens], dim=1)
            video[: len(track_3d), 2048:] = F.normalize(track_3d[:tokens], dim=1)
            video_mask[: len(track_3d)] = 1
        frames = spectrogram[:, clip.audio_first : min(clip.audio_stop, clip.audio_first + SETTINGS.max_audio_frames)]
        audio = np.zeros((40, SETTINGS.max_audio_frames), np.float32)
        audio_mask = np.zeros(SETTINGS.max_audio_frames, np.float32)
        audio[:, : frames.shape[1]] = frames
        audio_mask[: frames.shape[1]] = 1
        spoken = [word for index in clip.captions for word in words[index] if word in self.vectors]
        text = np.zeros((SETTINGS.max_words, 300), np.float32)
        text_mask = np.zeros(SETTINGS.max_words, np.float32)
        for place, word in enumerate(spoken[: SETTINGS.max_words]):
            text[place] = self.vectors[word]
            text_mask[place] = 1
        return {
            "video": video,
            "video_mask": video_mask,
            "audio": torch.from_numpy(audio),
            "audio_mask": torch.from_numpy(audio_mask),
            "text": torch.from_numpy(text),
            "text_mask": torch.from_numpy(text_mask),
        }


class Published:
    """Batches of clips of epoch after epoch, as the published trainer flattens them."""

    ahead = 0
    """Batches that are made of an epoch before it is asked for."""

    def __init__(self, dataset: PublishedDataset, workers: int):
        self.loader = DataLoader(
            dataset, BATCH_VIDEOS, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0
        )

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self.loader:
            yield {name: values.flatten(0, 1) for name, values in batch.items()}

    def close(self) -> None:
        """Ends the workers."""
        del self.loader
