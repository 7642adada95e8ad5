"""The settings of MFT's published program (the ``arch`` section of its YAML files) and this package's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.config import ModelSettings
from pipeline.errors import InputError
from pipeline.models.davenet import DavenetSize, stride_of

_CLASSES = {
    "EverythingAtOnceModel": {},
    "EverythingAtOnceModel_TV_Only": {"text_video_only": True},
    "TransformerPerModalityModel": {"per_modality": True},
}
_NAMES = {
    "video_embed_dim": "video_dim",
    "text_embed_dim": "text_dim",
    "projection_dim": "projection_dim",
    "token_projection": "token_projection",
    "projection": "projection",
    "strategy_audio_pooling": "audio_pooling",
    "use_positional_emb": "positions",
    "video_max_tokens": "max_video_tokens",
    "text_max_tokens": "max_text_tokens",
    "individual_projections": "individual_projections",
    "cross_modal": "cross_modal",
}
_FUSION_NAMES = {
    "embed_dim": "embed_dim",
    "use_cls_token": "class_token",
    "depth": "depth",
    "num_heads": "heads",
    "mlp_ratio": "mlp_ratio",
}
_PROJECTIONS = {"gated": "gated", "minimal": "linear", "": "none"}
_NOT_OF_PER_MODALITY = ("individual_projections", "cross_modal")

PROGRAM_NAMES = (*_NAMES, *_FUSION_NAMES, "davenet_v2", "audio_max_num_STFT_frames")
"""What :func:`from_program` understands."""


def settings_of_arch(arch: Mapping[str, Any], davenet: DavenetSize) -> dict[str, Any]:
    """:class:`ModelSettings` that an ``arch`` section tells.

    Args:
        arch: ``{"type": ..., "args": {...}}``; empty: nothing is told.
        davenet: the audio network's size, by which spectrogram frames are counted in tokens.

    Raises:
        InputError: the section is of a network that is not MFT.
    """
    if not arch:
        return {}
    if arch.get("type") not in _CLASSES:
        raise InputError(f"config.yaml: arch.type {arch.get('type')} is no MFT; known are {', '.join(_CLASSES)}")
    arguments = dict(arch.get("args", {}))
    arguments |= arguments.pop("fusion_params", {})
    return _CLASSES[arch["type"]] | from_program(arguments, davenet)


def from_program(values: Mapping[str, Any], davenet: DavenetSize) -> dict[str, Any]:
    """Settings by their names in the program → by their names here; what has no name there is left out."""
    names = _NAMES | _FUSION_NAMES
    here = {names[name]: value for name, value in values.items() if name in names}
    for name in ("token_projection", "projection"):
        if name in here:
            here[name] = _PROJECTIONS.get(here[name], here[name])
    if "davenet_v2" in values:
        here["davenet"] = "large" if values["davenet_v2"] else "small"
    if values.get("audio_max_num_STFT_frames") is not None:
        here["max_audio_tokens"] = int(values["audio_max_num_STFT_frames"]) // stride_of(davenet)
    return here


def arch_of_settings(settings: ModelSettings) -> dict[str, Any]:
    """The ``arch`` section that the program needs to build the same network."""
    there = {value: name for name, value in _PROJECTIONS.items()}
    arguments = {name: getattr(settings, here) for name, here in _NAMES.items()}
    arguments |= {name: there[arguments[name]] for name in ("token_projection", "projection")}
    if settings.per_modality:
        arguments = {name: value for name, value in arguments.items() if name not in _NOT_OF_PER_MODALITY}
    if settings.max_audio_tokens is not None:
        arguments["audio_max_num_STFT_frames"] = settings.max_audio_tokens * stride_of(settings.davenet)
    arguments["davenet_v2"] = settings.davenet == "large"
    arguments["fusion_params"] = {name: getattr(settings, here) for name, here in _FUSION_NAMES.items()}
    distinguishing = {name: True for name in ("text_video_only", "per_modality") if getattr(settings, name)}
    kind = next(kind for kind, marks in _CLASSES.items() if marks == distinguishing)
    return {"type": kind, "args": arguments}
