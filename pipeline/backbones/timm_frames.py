"""Any image network of timm as a frame backbone, ``timm:<name>``, such as ``timm:convnext_base.fb_in22k``."""

from __future__ import annotations

import difflib
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.backbones.base import Backbone, Normalize, Normalized
from pipeline.backbones.names import TIMM_PREFIX
from pipeline.backbones.weights import checkpoint_path, from_hub
from pipeline.errors import InputError
from pipeline.media.decode import FrameFormat


def timm_frames(name: str) -> Backbone:
    """The features of timm's ``name`` before its classifier, at 1 per second, from the square in the middle.

    Raises:
        InputError: timm has no such network.
    """
    import timm  # takes seconds to import, and few recipes need it

    model = name.removeprefix(TIMM_PREFIX)
    try:
        with torch.device("meta"):
            network: Any = timm.create_model(model, pretrained=False, num_classes=0)
    except RuntimeError:
        known = timm.list_models(pretrained=True)
        nearest = difflib.get_close_matches(model, known, n=1, cutoff=0.3)
        hint = f"; did you mean {TIMM_PREFIX}{nearest[0]}?" if nearest else ""
        raise InputError(f"timm has no network {model}{hint}") from None
    data = timm.data.resolve_model_data_config(network)
    size = int(data["input_size"][-1])
    return Backbone(
        name=name,
        dim=int(getattr(network, "head_hidden_size", network.num_features)),
        frame_format=FrameFormat(rate=1, size=size, crop=True),
        version=f"{name}/2: timm's pretrained weights, 1 frame/s, {size}x{size} crop",
        build=partial(_build, name, model, data["mean"], data["std"]),
    )


def _build(name: str, model: str, mean: tuple[float, float, float], std: tuple[float, float, float]) -> nn.Module:
    import timm

    configuration = timm.get_pretrained_cfg(model)
    if configuration is None or not (configuration.url or configuration.hf_hub_id):
        tags = ", ".join(timm.list_pretrained(f"{model.partition('.')[0]}*")[:5]) or "none"
        raise InputError(f"{name}: timm has no pretrained weights for it (for networks of this kind: {tags})")
    # all weights go through torch.hub's folder, those on Hugging Face's hub too
    url = configuration.url or f"https://huggingface.co/{configuration.hf_hub_id}/resolve/main/model.safetensors"
    place = checkpoint_path(url.rsplit("/", 1)[-1] if configuration.url else f"{model}.safetensors")
    network = from_hub(name, lambda: _load(model, url, place), {url: place})
    return Normalized(network, Normalize(mean, std))


def _load(model: str, url: str, place: Path) -> nn.Module:
    import timm

    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(place), progress=False)
    # with its classifier, which goes afterwards: without it timm would not check that the file fits strictly
    network: Any = timm.create_model(model, pretrained=True, pretrained_cfg_overlay={"file": str(place)})
    network.reset_classifier(0)
    return network
