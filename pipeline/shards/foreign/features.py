"""What is common to features of other programs: arrays in many guises, and the sample that holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.shards.sample import Sample, encode_captions
from pipeline.types import Caption, Modality

MEL_BANDS = 40
_HOP, _WINDOW, _SAMPLE_RATE = 160, 400, 16_000


@dataclass
class FeatureRates:
    """Features per second: those of the published ResNet-152 and 3D ResNeXt-101 features."""

    video_2d: float = 1.0
    video_3d: float = 1.5

    def of(self, modality: Modality) -> float:
        """The rate of a modality; that of spectrograms is fixed."""
        return {"2d": self.video_2d, "3d": self.video_3d}.get(modality, 100.0)


@dataclass
class Foreign:
    """One video or clip as another program has it."""

    video_id: str
    arrays: dict[Modality, NDArray[Any]]
    captions: list[Caption] | None
    """None: those of the whole clip are in ``texts``."""
    texts: Sequence[str] = ()
    """Captions that span the whole clip."""
    split: str = "train"
    origin: str = ""
    """The file that it comes from."""


def as_array(value: Any) -> NDArray[Any]:
    """An array or tensor as an array.

    Raises:
        ValueError: it is neither.
    """
    found = value.numpy() if hasattr(value, "numpy") else value
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
        raise ValueError(f"not an array of numbers but {type(value).__name__}")
    return found


def time_first(modality: Modality, value: Any) -> NDArray[Any]:
    """An array as a sample holds it: spectrograms are ``[40, frames]`` elsewhere, pooled features ``[width]``.

    Raises:
        ValueError: it has another shape.
    """
    array = as_array(value)
    if modality == "audio":
        if array.ndim != 2 or array.shape[0] != MEL_BANDS:
            raise ValueError(f"a spectrogram is [{MEL_BANDS}, frames], not {list(array.shape)}")
        return array.T
    if array.ndim == 1:
        return array[None]
    if array.ndim != 2:
        raise ValueError(f"features are [time, width], not {list(array.shape)}")
    return array


def to_sample(found: Foreign, ids: Callable[[str], NDArray[np.int32]], rates: FeatureRates) -> Sample:
    """The sample of a video or clip.

    Its duration is the least that holds all its arrays, so that a caption of the whole clip has every frame of them.
    """
    duration = _duration(found.arrays, rates)
    captions = found.captions
    if captions is None:
        captions = [Caption(0.0, duration, text) for text in found.texts]
    arrays, caption_words = dict(found.arrays), [0]
    if captions:
        arrays["text"], caption_words = encode_captions(captions, ids)
    return Sample(
        video_id=found.video_id,
        duration=max([duration, *(caption.end for caption in captions)]),
        captions=list(captions),
        arrays=arrays,
        rates={modality: rates.of(modality) for modality in found.arrays},
        caption_words=caption_words,
        recipe="converted",
        notes=[f"converted from {found.origin}"],
        split=found.split,
    )


def _duration(arrays: Mapping[Modality, NDArray[Any]], rates: FeatureRates) -> float:
    lengths = [0.0]
    for modality, array in arrays.items():
        if modality == "audio":
            # a frame more than the centre of the last, which rounding may take away
            lengths.append((len(array) * _HOP + _WINDOW // 2 + _HOP) / _SAMPLE_RATE)
        else:
            lengths.append(len(array) / rates.of(modality))
    return max(lengths)
