"""Arrays as pictures inside a page."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

# dark blue to pale yellow over violet and orange: even in lightness, readable without colour vision
_COLOUR_STOPS = np.array([(11, 8, 40), (74, 22, 104), (158, 44, 96), (229, 92, 48), (251, 178, 56), (250, 250, 190)])


def colour_map(values: np.ndarray) -> np.ndarray:
    """Values in 0 to 1 of any shape ``[...]`` as colours, uint8 ``[..., 3]``."""
    positions = np.linspace(0, 1, len(_COLOUR_STOPS))
    channels = [np.interp(values, positions, _COLOUR_STOPS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def spectrogram_picture(spectrogram: np.ndarray, height: int = 120, width: int = 900) -> np.ndarray:
    """A log-mel spectrogram in decibels ``[frames, bands]`` as a picture, uint8 ``[height, width, 3]``.

    Time runs to the right, low bands are at the bottom; 80 dB below the loudest is dark.
    """
    values = np.clip((np.asarray(spectrogram, np.float32).T[::-1] + 80) / 80, 0, 1)
    picture = Image.fromarray(colour_map(values))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def data_uri(picture: np.ndarray, kind: str = "png") -> str:
    """A picture, uint8 ``[H, W, 3]``, as a ``data:`` address for an ``<img>``; ``kind`` is ``png`` or ``jpeg``."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, **({"quality": 84} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
