"""Networks from the checkpoints that the papers' authors released, and back to their layout."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from pipeline.config import ModelSettings
from pipeline.errors import InputError
from pipeline.models.build import Network, build_model
from pipeline.models.checkpoints import find_state_dict, published_config, read_checkpoint
from pipeline.models.davenet import BLOCKS, DavenetSize
from pipeline.models.mft_program import PROGRAM_NAMES, arch_of_settings, from_program, settings_of_arch
from pipeline.replacing import replace_file

_SETTINGS = tuple(setting.name for setting in dataclasses.fields(ModelSettings))
_CHOICES = {
    name: typing.get_args(kind)
    for name, kind in typing.get_type_hints(ModelSettings).items()
    if typing.get_origin(kind) is typing.Literal
}


def load_published(source: str | Path | Mapping[str, Tensor], **hyperparameters: Any) -> Network:
    """A ready network, in eval mode and float32, from a released checkpoint, of whatever precision its weights are.

    Sizes and kinds are read from the weights' names and shapes. What these don't tell (attention heads, how audio is
    pooled) comes from the keywords, else from the recipe that a checkpoint of this package's training holds, else from
    the program's settings in the file, else from the ``config.yaml`` beside it.

    Args:
        source: a checkpoint file (MFT's ``latest_model.pth``, MCN's ``eN.pth``, AVLnet's ``amp_checkpoint.pt``, a
            run's ``step-00001000.pt``), or its state dict; names may start with ``module.``.
        hyperparameters: :class:`ModelSettings` by their names here or in MFT's program (``heads=64``).

    Raises:
        InputError: the file is damaged, the weights are of no known network or contradict the hyperparameters, or
            something that the shapes don't tell is told by nothing else.
    """
    path = None if isinstance(source, Mapping) else Path(source)
    where = str(path or "state dict")
    checkpoint = source if isinstance(source, Mapping) else read_checkpoint(source)
    weights = find_state_dict(checkpoint, where)
    own = _own_settings(checkpoint)
    # a file beside a checkpoint of our own can only be of another network: its recipe is in it
    arch = {} if own else published_config(checkpoint, path)
    try:
        settings = _settings(weights, arch, own, hyperparameters, where)
        with torch.device("meta"):
            model = build_model(settings)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ZeroDivisionError, RuntimeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise InputError(
            f"{where}: neither weights nor settings of a released network ({reason}): is the file a whole checkpoint, "
            "and config.yaml beside it its own?"
        ) from None
    _check_layout(model, weights, where)
    # weights that were saved in halves, to take less of a disk, would not go together with a batch in float32
    own_types = {name: value.dtype for name, value in model.state_dict().items()}
    copies = {name: value.detach().to(own_types[name], copy=True) for name, value in weights.items()}
    model.load_state_dict(copies, strict=True, assign=True)
    return model.eval()


def settings_told(checkpoint: Any, path: Path, davenet: DavenetSize) -> dict[str, Any]:
    """The settings that come with a checkpoint, by their names here; nothing where none do.

    Args:
        checkpoint: what :func:`read_checkpoint` gave.
        path: of its file, beside which the program's ``config.yaml`` may be.
        davenet: the audio network's size.

    Raises:
        InputError: they are of a network that is not MFT.
    """
    return _own_settings(checkpoint) or settings_of_arch(published_config(checkpoint, path), davenet)


def save_published(model: Network, path: str | Path) -> None:
    """Writes a checkpoint that the published programs read, names and values unchanged.

    MFT: a file with ``state_dict``, and ``config.yaml`` beside it. The others: the plain state dict. Whoever reads
    sees a whole file or none.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content: Mapping[str, Any] = model.state_dict()
    if model.settings.name == "mft":
        arch = arch_of_settings(model.settings)
        config = yaml.safe_dump({"arch": arch}, sort_keys=False)
        replace_file(path.parent / "config.yaml", lambda part: part.write_text(config))
        content = {"arch": arch["type"], "epoch": 0, "state_dict": content, "config": {"arch": arch}}
    replace_file(path, lambda part: torch.save(content, part))


def _own_settings(checkpoint: Any) -> dict[str, Any]:
    """The network's settings in the recipe that this package's training saves with the weights; else nothing."""
    recipe = checkpoint.get("recipe") if isinstance(checkpoint, Mapping) else None
    model = recipe.get("model") if isinstance(recipe, Mapping) else None
    known = model if isinstance(model, Mapping) else {}
    return {name: value for name, value in known.items() if name in _SETTINGS}


def _settings(
    weights: Mapping[str, Tensor],
    arch: Mapping[str, Any],
    own: Mapping[str, Any],
    keywords: Mapping[str, Any],
    where: str,
) -> ModelSettings:
    """Settings from shapes, from the program's or our own settings and from keywords.

    Keywords and the program's settings may not contradict the shapes. Of our own settings only what shapes don't tell
    is taken: a width without weights has another value there, which changes nothing.
    """
    _refuse_unknown(keywords)
    if "fusion.masking_token" in weights:
        read = _mft_settings(weights)
        told = {name: value for name, value in own.items() if name not in read}
        told |= settings_of_arch(arch, read["davenet"]) | from_program(keywords, read["davenet"])
        if read["per_modality"]:
            told.setdefault("cross_modal", False)  # a network without pairs, whose program has no such setting
        if read["class_token"] and read["projection"] == "none" and not read["per_modality"]:
            # a projection without weights is anyone's, and class tokens of pairs ask for a shared one
            told.setdefault("individual_projections", False)
    elif "DAVEnet.conv1.weight" in weights:
        read = _mcn_settings(weights, keywords.get("name", own.get("name")))
        told = {name: value for name, value in own.items() if name not in read}
    else:
        raise InputError(f"{where}: weights of no known network (neither fusion.masking_token nor DAVEnet.conv1)")
    told |= {name: value for name, value in keywords.items() if name in _SETTINGS}
    for name, value in told.items():
        choices = _CHOICES.get(name)
        if choices is not None and value not in choices:
            raise InputError(f"{where}: {name} cannot be {value!r}; it is one of {', '.join(choices)}")
        if name in read and read[name] != value:
            raise InputError(f"{where}: {name} is said to be {value}, but the weights have {read[name]}")
    if read.get("depth") and "heads" not in told:
        raise InputError(f"{where}: the weights don't tell the number of attention heads: give heads=...")
    settings = ModelSettings(**(told | read))
    asked = not keywords.keys().isdisjoint(("audio_pooling", "strategy_audio_pooling"))
    if asked and settings.audio_pooling != "none" and settings.max_audio_tokens is None:
        raise InputError(f"{where}: audio_pooling {settings.audio_pooling} needs max_audio_tokens, which nothing tells")
    return settings


def _mft_settings(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    dim = weights["fusion.masking_token"].shape[0]
    depth = _count(weights, r"fusion\.blocks\.(\d+)\.norm1\.weight")
    read: dict[str, Any] = {
        "name": "mft",
        "embed_dim": dim,
        "depth": depth,
        "class_token": "fusion.cls_token" in weights,
        "positions": "video_pos_embed" in weights,
        "per_modality": "fusion_text.masking_token" in weights,
        **_davenet_settings(weights, "davenet"),
    }
    if depth:
        read["mlp_ratio"] = _ratio(weights["fusion.blocks.0.mlp.fc1.weight"].shape[0], dim)
    if read["positions"]:
        for name in ("video", "text", "audio"):
            read[f"max_{name}_tokens"] = weights[f"{name}_pos_embed"].shape[1]
    read["token_projection"], read["video_dim"], _ = _projection(weights, "video_token_proj", dim)
    read["text_dim"] = _projection(weights, "text_token_proj", dim)[1]
    shared = _projection(weights, "proj", dim)
    individual = _projection(weights, "video_proj", dim)
    read["projection"], _, read["projection_dim"] = shared if shared[0] != "none" else individual
    if read["projection"] != "none":
        read["individual_projections"] = shared[0] == "none"
    return read


def _mcn_settings(weights: Mapping[str, Tensor], name: str | None) -> dict[str, Any]:
    has_text, fused = "text_pooling_caption.fc.weight" in weights, "GU_audio_text.fc_audio.weight" in weights
    has_reconstruction = "recon_v.0.weight" in weights
    read = {
        "name": "avlnet" if not has_text else "avlnet_text_fused" if fused else "avlnet_text_tri",
        "embed_dim": weights["GU_video.fc.weight"].shape[0],
        "video_dim": weights["GU_video.fc.weight"].shape[1],
        "reconstruction_dim": weights["recon_v.0.weight"].shape[0] if has_reconstruction else None,
        **_davenet_settings(weights, "DAVEnet"),
    }
    if has_text:
        read["text_dim"] = weights["text_pooling_caption.fc.weight"].shape[1]
    if "classification.weight" in weights:
        read["cluster_classes"] = weights["classification.weight"].shape[0]
        if "projection_head.3.weight" in weights:
            read["cluster_projection_dim"] = weights["projection_head.3.weight"].shape[0]
            hidden = weights["projection_head.0.weight"].shape[0]
            read["cluster_hidden_dim"] = None if hidden == read["embed_dim"] // 8 else hidden
    if read["name"] == "avlnet_text_tri" and (has_reconstruction or "cluster_classes" in read or name == "mcn"):
        # Without its heads MCN has the weights of AVLnet-Text-Tri: only the caller knows.
        read["name"] = "mcn"
    return read


def _davenet_settings(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    stages = _count(weights, rf"{prefix}\.layer(\d+)\.0\.conv1\.weight")
    sizes = [size for size, blocks in BLOCKS.items() if len(blocks) == stages]
    if not sizes:
        raise InputError(f"the audio network {prefix} has {stages} stages: no known size has")
    return {"davenet": sizes[0], "davenet_width": weights[f"{prefix}.conv1.weight"].shape[0]}


def _projection(weights: Mapping[str, Tensor], name: str, dim: int) -> tuple[str, int, int]:
    """Kind, input and output width of a projection; without weights it changes nothing."""
    for kind, weight in (("gated", f"{name}.fc.weight"), ("linear", f"{name}.weight")):
        if weight in weights:
            out_dim, in_dim = weights[weight].shape
            return kind, in_dim, out_dim
    return "none", dim, dim


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in weights if (match := re.fullmatch(pattern, name))})


def _ratio(hidden: int, dim: int) -> float:
    """The ratio that gives back ``hidden`` when multiplied by ``dim`` and cut to an integer."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)


def _refuse_unknown(keywords: Mapping[str, Any]) -> None:
    known = [*_SETTINGS, *PROGRAM_NAMES]
    for name in keywords:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(_SETTINGS)}"
            raise InputError(f"unknown hyperparameter {name} ({hint})")


def _check_layout(model: Network, weights: Mapping[str, Tensor], where: str) -> None:
    expected = model.state_dict()
    for name, value in expected.items():
        if name not in weights:
            raise InputError(f"{where}: has no {name}, which {model.settings.name} needs")
        if weights[name].shape != value.shape:
            shapes = f"{list(weights[name].shape)}, not {list(value.shape)}"
            raise InputError(f"{where}: {name} has the shape {shapes}")
    strange = [name for name in weights if name not in expected]
    if strange:
        raise InputError(f"{where}: has {strange[0]}, which {model.settings.name} does not know")
