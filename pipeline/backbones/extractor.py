"""A video file in, the features of all its modalities out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from pipeline.backbones.base import Backbone
from pipeline.backbones.engine import Engine, Session
from pipeline.backbones.registry import backbones_of
from pipeline.config import ExtractSettings
from pipeline.media.decode import decode
from pipeline.media.logmel import BANDS, FRAMES_PER_SECOND, LogMel

GPU_BATCH = 32
CPU_BATCH = 1
"""A CPU is no faster with more (docs/benchmarks.md), and nothing has to be filled up."""


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

    The features of a video depend on its file, the settings and the machine, and on nothing beside them. Several
    threads may extract at once: their frames share batches, and one decodes while another's are computed.
    """

    def __init__(self, settings: ExtractSettings, device: torch.device | str = "cpu") -> None:
        """Loads the networks; raises :class:`InputError` for an unknown backbone or missing weights."""
        self.settings = settings
        self.device = torch.device(device)
        self.backbones = backbones_of(settings)
        on_gpu = self.device.type == "cuda"
        networks = {key: backbone.load(self.device) for key, backbone in self.backbones.items()}
        batch_size = settings.batch_size or (GPU_BATCH if on_gpu else CPU_BATCH)
        self._engine = Engine(networks, self.device, batch_size, normalize=settings.normalize)

    def extract(self, path: str | Path) -> VideoFeatures:
        """Decodes one file and computes its features.

        Raises:
            MediaError: the file is damaged, holds nothing usable or takes longer than ``settings.timeout`` seconds.
        """
        formats = {key: backbone.frame_format for key, backbone in self.backbones.items()}
        cutters = {key: ClipCutter(backbone) for key, backbone in self.backbones.items()}
        decoding = decode(path, formats, self.settings.audio, self.settings.timeout)
        try:
            with self._engine.session() as session, LogMel() as sound:
                for name, chunk in decoding:
                    if name == "audio":
                        sound.push(chunk)
                    else:
                        _submit(session, name, cutters[name].push(chunk))
                for key, cutter in cutters.items():
                    _submit(session, key, cutter.finish())
                arrays = {} if "audio" in decoding.left_out else {"audio": sound.finish()}
                for key in self.backbones:
                    arrays[key] = session.finish(key)
        finally:
            decoding.close()
        wanted = [*self.backbones, *(["audio"] if self.settings.audio else [])]
        present = [key for key in wanted if len(arrays.get(key, ()))]
        return VideoFeatures(
            arrays={key: arrays[key] for key in present},
            rates={key: self._rate(key) for key in present},
            duration=decoding.info.duration or max(decoding.seconds.values()),
            backbones={key: self._version(key) for key in present},
            notes=[*decoding.notes, *(f"no {key}" for key in wanted if key not in present)],
        )

    def _rate(self, key: str) -> float:
        return float(FRAMES_PER_SECOND) if key == "audio" else self.backbones[key].features_per_second

    def _version(self, key: str) -> str:
        if key == "audio":
            return f"logmel/2: {BANDS} bands, 16 kHz, 25 ms every 10 ms, as AVLnet"
        version = self.backbones[key].version
        if self.device.type == "cuda":
            version += "; mixed precision"
        return version + ("; L2-normalised" if self.settings.normalize else "")


class ClipCutter:
    """Cuts one video's frames into what a backbone sees: single frames, or clips."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._held: np.ndarray | None = None
        """Frames that a later clip still needs, ``[n, height, width, 3]``."""

    def push(self, frames: np.ndarray) -> Iterator[np.ndarray]:
        """Takes the next frames, uint8 ``[n, height, width, 3]``; gives each frame, or each clip that is whole."""
        length = self._backbone.clip_length
        if length is None:
            yield from frames
            return
        held = frames if self._held is None else np.concatenate((self._held, frames))
        start = 0
        while start + length <= len(held):
            yield held[start : start + length]
            start += self._backbone.stride
        self._held = held[start:]

    def finish(self) -> Iterator[np.ndarray]:
        """The clips that run past the end, filled up."""
        length = self._backbone.clip_length
        if length is None or self._held is None:
            return
        for start in range(0, len(self._held), self._backbone.stride):
            clip = self._held[start : start + length]
            tail = np.zeros_like(clip[:1]) if self._backbone.padding == "black" else clip[-1:]
            yield np.concatenate((clip, np.repeat(tail, length - len(clip), axis=0)))


def _submit(session: Session, key: str, inputs: Iterator[np.ndarray]) -> None:
    for frames in inputs:
        session.submit(key, frames)
