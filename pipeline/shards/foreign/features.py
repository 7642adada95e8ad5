"""What is common to features of other programs: arrays in many guises, and the sample that holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.shards.sample import Sample, encode_captions
from pipeline.types import Caption, Modality

MEL_BANDS = 40
_HOP, _WINDOW, _SAMPLE_RATE = 160, 400, 16_000
_NUMPY_FLOATS = (torch.float16, torch.float32, torch.float64)


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
    """An array or tensor as an array; a tensor of a type that NumPy lacks, such as bfloat16, becomes float32.

    Raises:
        ValueError: it is neither.
    """
    found = _from_tensor(value) if isinstance(value, Tensor) else value
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
        raise ValueError(f"not an array of numbers but {type(value).__name__}")
    return found


def _from_tensor(value: Tensor) -> NDArray[Any]:
    # NumPy takes no tensor that still asks for gradients, as one saved in the middle of a training does
    value = value.detach()
    if value.is_floating_point() and value.dtype not in _NUMPY_FLOATS:
        value = value.float()
    try:
        return np.asarray(value.numpy())
    except (TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"a tensor of {value.dtype} that cannot be made an array ({reason})") from None


def time_first(modality: Modality, value: Any) -> NDArray[Any]:
    """An array as a sample holds it: spectrograms are ``[40, frames]`` elsewhere, pooled features ``[width]``.

    Raises:
        ValueError: it has another shape, or is empty.
    """
    array = as_array(value)
    if not array.size:
        raise ValueError(f"empty, of shape {list(array.shape)}")
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


def differs(found: Foreign, there: Sample) -> bool:
    """Whether a sample that was made before is of something else: of another split, or with other texts or features."""
    if (found.split, list(found.texts)) != (there.split, [caption.text for caption in there.captions]):
        return True
    if found.arrays.keys() != there.arrays.keys() - {"text"}:
        return True
    stored = ((array, there.arrays[name]) for name, array in found.arrays.items())
    return not all(np.array_equal(array.astype(before.dtype), before) for array, before in stored)


def _duration(arrays: Mapping[Modality, NDArray[Any]], rates: FeatureRates) -> float:
    lengths = [0.0]
    for modality, array in arrays.items():
        if modality == "audio":
            # a frame more than the centre of the last, which rounding may take away
            lengths.append((len(array) * _HOP + _WINDOW // 2 + _HOP) / _SAMPLE_RATE)
        else:
            lengths.append(len(array) / rates.of(modality))
    return max(lengths)
