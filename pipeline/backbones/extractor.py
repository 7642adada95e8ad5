"""A video file in, the features of all its modalities out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pipeline.backbones.base import Backbone
from pipeline.backbones.registry import get_backbone
from pipeline.config import ExtractSettings
from pipeline.media.decode import decode
from pipeline.media.logmel import BANDS, FRAMES_PER_SECOND, LogMel


@dataclass
class VideoFeatures:
    """What one video gave."""

    arrays: dict[str, np.ndarray]
    """``2d``, ``3d``: float16 ``[features, dim]``; ``audio``: float16 ``[frames, 40]``. What is missing has no key."""
    rates: dict[str, float]
    """Features per second of each array."""
    duration: float
    """Seconds: what the file announces, else what was decoded."""
    backbones: dict[str, str]
    """Versions of what computed each array."""
    notes: list[str] = field(default_factory=list)
    """What is unusual: damage, a missing modality."""


class FeatureExtractor:
    """Holds the networks of a recipe and runs videos through them.

    The features of a video depend on its file, the settings and the machine, and on nothing beside them: networks
    always see batches of the same size, the last one filled up.
    """

    def __init__(self, settings: ExtractSettings, device: torch.device | str = "cpu") -> None:
        """Loads the networks; raises :class:`InputError` for an unknown backbone or missing weights."""
        self.settings = settings
        self.device = torch.device(device)
        names = {"2d": settings.video_2d, "3d": settings.video_3d}
        self.backbones: dict[str, Backbone] = {key: get_backbone(name) for key, name in names.items() if name}
        self._networks = {key: backbone.load(self.device) for key, backbone in self.backbones.items()}

    def extract(self, path: str | Path) -> VideoFeatures:
        """Decodes one file and computes its features.

        Raises:
            MediaError: the file is damaged, holds nothing usable or takes longer than ``settings.timeout`` seconds.
        """
        formats = {key: backbone.frame_format for key, backbone in self.backbones.items()}
        collectors = {
            key: _Collector(backbone, self._networks[key], self.device, self.settings.batch_size)
            for key, backbone in self.backbones.items()
        }
        decoding = decode(path, formats, self.settings.audio, self.settings.timeout)
        try:
            with LogMel() as sound:
                for name, chunk in decoding:
                    if name == "audio":
                        sound.push(chunk)
                    else:
                        collectors[name].push(chunk)
                arrays = {key: self._stored(collector.finish()) for key, collector in collectors.items()}
                arrays["audio"] = sound.finish()
        finally:
            decoding.close()
        wanted = [*self.backbones, *(["audio"] if self.settings.audio else [])]
        present = [key for key in wanted if len(arrays[key])]
        duration = decoding.info.duration or max(decoding.seconds.values())
        return VideoFeatures(
            arrays={key: arrays[key] for key in present},
            rates={key: self._rate(key) for key in present},
            duration=duration,
            backbones={key: self._version(key) for key in present},
            notes=[*decoding.notes, *(f"no {key}" for key in wanted if key not in present)],
        )

    def _stored(self, features: torch.Tensor) -> np.ndarray:
        if self.settings.normalize:
            features = functional.normalize(features, dim=1)
        return features.half().numpy()

    def _rate(self, key: str) -> float:
        return float(FRAMES_PER_SECOND) if key == "audio" else self.backbones[key].features_per_second

    def _version(self, key: str) -> str:
        if key == "audio":
            return f"logmel/1: {BANDS} bands, 16 kHz, 25 ms every 10 ms, as AVLnet"
        return self.backbones[key].version + ("; L2-normalised" if self.settings.normalize else "")


class _Collector:
    """Turns one video's frames into clips, clips into full batches, batches into features."""

    def __init__(self, backbone: Backbone, network: nn.Module, device: torch.device, batch_size: int) -> None:
        self._backbone = backbone
        self._network = network
        self._device = device
        self._batch_size = batch_size
        self._frames: np.ndarray | None = None
        """Frames that a later clip still needs, ``[n, height, width, 3]``."""
        self._items: list[np.ndarray] = []
        self._features: list[torch.Tensor] = []

    def push(self, frames: np.ndarray) -> None:
        """Takes the next frames, uint8 ``[n, height, width, 3]``."""
        length = self._backbone.clip_length
        if length is None:
            self._items.extend(frames)
        else:
            held = frames if self._frames is None else np.concatenate((self._frames, frames))
            start = 0
            while start + length <= len(held):
                self._items.append(held[start : start + length])
                start += self._backbone.stride
            self._frames = held[start:]
        while len(self._items) >= self._batch_size:
            self._compute()

    def finish(self) -> torch.Tensor:
        """All features, float32 ``[n, dim]`` on the CPU."""
        length = self._backbone.clip_length
        if length is not None and self._frames is not None:
            rest = self._frames
            for start in range(0, len(rest), self._backbone.stride):
                self._items.append(_filled(rest[start : start + length], length, self._backbone.padding))
        while self._items:
            self._compute()
        return torch.cat(self._features) if self._features else torch.empty(0, self._backbone.dim)

    def _compute(self) -> None:
        items, self._items = self._items[: self._batch_size], self._items[self._batch_size :]
        batch = np.zeros((self._batch_size, *items[0].shape), np.uint8)
        for place, item in enumerate(items):
            batch[place] = item
        with torch.inference_mode():
            features = self._network(torch.from_numpy(batch).to(self._device))
        self._features.append(features[: len(items)].float().cpu())


def _filled(frames: np.ndarray, length: int, padding: str) -> np.ndarray:
    missing = length - len(frames)
    tail = np.zeros_like(frames[:1]) if padding == "black" else frames[-1:]
    return np.concatenate((frames, np.repeat(tail, missing, axis=0)))
