"""What a decode gave, for tests to look at."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from pipeline.media.decode import FrameFormat, decode

FORMATS = {"2d": FrameFormat(rate=1, size=64), "3d": FrameFormat(rate=24, size=32, crop=True)}


class Outcome:
    """What a decode gave: arrays and notes."""

    def __init__(self, path: Path) -> None:
        chunks = defaultdict(list)
        decoding = decode(path, FORMATS, True, timeout=60)
        for name, chunk in decoding:
            chunks[name].append(chunk)
        self.arrays = {name: np.concatenate(parts) for name, parts in chunks.items()}
        self.notes = decoding.notes

    def shape(self) -> tuple[int, int, float]:
        """Frames of each format, seconds of sound."""
        frames = [len(self.arrays.get(name, ())) for name in FORMATS]
        return frames[0], frames[1], len(self.arrays.get("audio", ())) / 16_000
