"""The one way to read settings: a recipe (YAML) with dotted overrides.

A recipe is a file under ``pipeline/recipes/`` or anywhere. It may name a ``base`` recipe, of which it changes
only what it lists. Overrides from the command line (``--train.steps 500``) win over the recipe.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from pipeline.errors import InputError
from pipeline.settings import (
    ClipSettings,
    DownloadSettings,
    EvaluateSettings,
    ExtractSettings,
    LossSettings,
    ModelSettings,
    Recipe,
    TrainSettings,
)

__all__ = [
    "RECIPES",
    "ClipSettings",
    "DownloadSettings",
    "EvaluateSettings",
    "ExtractSettings",
    "LossSettings",
    "ModelSettings",
    "Recipe",
    "TrainSettings",
    "from_dict",
    "load_recipe",
    "recipe_names",
]

RECIPES = Path(__file__).parent / "recipes"

_LEAST = {
    0: (
        "clips.max_video_tokens", "model.depth", "loss.clusters", "loss.queue_size", "train.steps",
        "train.learning_rate", "train.weight_decay", "train.warmup_steps", "train.workers", "train.seed",
    ),
    1: (
        "extract.batch_size", "extract.word_dim", "extract.shard_bytes",
        "clips.per_video", "clips.max_words", "clips.max_audio_frames", "clips.pieces", "clips.shuffle_shards",
        "model.video_dim", "model.text_dim", "model.embed_dim", "model.projection_dim", "model.heads",
        "model.davenet_width", "model.max_audio_tokens", "model.max_video_tokens", "model.max_text_tokens",
        "model.reconstruction_dim", "model.cluster_classes", "model.cluster_projection_dim", "model.cluster_hidden_dim",
        "train.batch_videos", "train.accumulate", "train.epochs", "train.checkpoint_every", "train.keep",
        "train.evaluate_every", "train.log_every",
        "evaluate.batch_clips", "evaluate.max_words", "evaluate.windows",
    ),
}  # fmt: skip
"""The least that settings can be."""
_MOST = {"train.seed": 2**63 - 1}
"""The most that settings can be: torch's generators take no more, and each process has a seed of its own behind it."""
_POSITIVE = (
    "extract.timeout", "clips.seconds", "model.mlp_ratio", "loss.temperature", "loss.cluster_temperature",
    "train.decay", "train.clip_gradient",
)  # fmt: skip

_ABBREVIATIONS = {"lr": ["train.learning_rate"], "wd": ["train.weight_decay"], "batch_size": ["train.batch_videos"]}
"""What the field calls settings that are spelled out here."""


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe and applies dotted overrides.

    Args:
        name: a recipe of the package (``mft``) or the path of a YAML file.
        overrides: ``--section.key=value`` or ``--section.key``, ``value`` in turn, as on a command line.

    Raises:
        InputError: the recipe is not there, a key is unknown (the nearest known one is named) or a value is of
            another type.
    """
    values = _read_yaml(name)
    _check_keys(values, Recipe, where=f"recipe {name}")
    return from_dict(
        _merge(values, _parse_overrides(overrides)),
        where=f"recipe {name}, as changed here" if overrides else f"recipe {name}",
    )


def from_dict(values: Mapping[str, Any], where: str = "settings") -> Recipe:
    """A recipe from plain values, as :meth:`Recipe.to_dict` gives them; raises :class:`InputError`."""
    _check_keys(values, Recipe, where)
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe, as_group=False)
    try:
        recipe = Recipe(**parser.instantiate_classes(parser.parse_object(dict(values))).as_dict())
    except (jsonargparse.ArgumentError, TypeError) as error:
        raise InputError(f"{where}: {_explain(error, values)}") from None
    _check_ranges(recipe, where)
    return recipe


def _explain(error: Exception, values: Mapping[str, Any]) -> str:
    """A wrong value in a sentence; jsonargparse's own account of it is long."""
    found = re.search(r'Parser key "([\w.]+)"', str(error))
    hint: Any = Recipe
    value: Any = values
    for part in found[1].split(".") if found else ():
        if not dataclasses.is_dataclass(hint) or not isinstance(value, Mapping):
            break
        hint, value = typing.get_type_hints(hint)[part], value.get(part)
    if found is None or dataclasses.is_dataclass(hint):
        return " ".join(str(error).split())
    return f"{found[1]} cannot be {value!r}; it takes {_kind(hint)}"


def _kind(hint: Any) -> str:
    """A type in a user's words."""
    options = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(options[:-1]) + f" or {options[-1]}"
    if typing.get_origin(hint) is types.UnionType:
        return " or ".join(map(_kind, options))
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", types.NoneType: "null"}
    return names.get(hint, str(hint))


def _check_ranges(recipe: Recipe, where: str) -> None:
    """Refuses numbers that no run could begin with; null and what is not listed here pass."""
    for least, keys in _LEAST.items():
        for key in keys:
            section, name = key.split(".")
            value = getattr(getattr(recipe, section), name)
            if value is not None and not value >= least:
                raise InputError(f"{where}: {key} is {value}; it must be {least} or more")
    for key, most in _MOST.items():
        section, name = key.split(".")
        value = getattr(getattr(recipe, section), name)
        if value > most:
            raise InputError(f"{where}: {key} is {value}; it must be {most} or less")
    for key in _POSITIVE:
        section, name = key.split(".")
        value = getattr(getattr(recipe, section), name)
        if value is not None and not value > 0:
            raise InputError(f"{where}: {key} is {value}; it must be more than 0")
    if not math.isfinite(recipe.loss.margin):
        raise InputError(f"{where}: loss.margin is {recipe.loss.margin}; it must be a finite number")
    for name, weight in (recipe.loss.weights or {}).items():
        if not 0 <= weight < math.inf:
            raise InputError(f"{where}: loss.weights.{name} is {weight}; it must be 0 or more")
    pairs = not (recipe.model.per_modality or recipe.model.text_video_only)
    if recipe.train.eval_mode and recipe.model.name == "mft" and pairs and not recipe.model.cross_modal:
        raise InputError(
            f"{where}: train.eval_mode runs the network as evaluation does, with pairs; model.cross_modal "
            "false is against that: set one of them"
        )
    if recipe.model.audio_pooling != "none" and recipe.model.max_audio_tokens is None:
        raise InputError(f"{where}: model.audio_pooling {recipe.model.audio_pooling} needs model.max_audio_tokens")
    _check_cuts(recipe, where)


def _check_cuts(recipe: Recipe, where: str) -> None:
    """Refuses to cut clips of which there is but one vector; training would find out at its first evaluation."""
    if recipe.clips.pieces > 1 and recipe.evaluate.strategy != "cut":
        raise InputError(
            f"{where}: clips.pieces {recipe.clips.pieces} cuts clips, but evaluate.strategy is "
            f"{recipe.evaluate.strategy}: set evaluate.strategy cut and evaluate.windows {recipe.clips.pieces}"
        )
    if recipe.clips.max_video_tokens:
        return
    why = "clips.max_video_tokens 0 makes one token of a clip, which cannot be cut"
    if recipe.clips.pieces > 1:
        raise InputError(f"{where}: clips.pieces is {recipe.clips.pieces}, but {why}; set clips.pieces 1")
    if recipe.evaluate.strategy == "cut" and recipe.evaluate.windows > 1:
        raise InputError(
            f"{where}: evaluate.strategy is cut and evaluate.windows {recipe.evaluate.windows}, but {why}; set "
            "evaluate.strategy at_once"
        )


def _read_yaml(name: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    if name in above:
        raise InputError(f"recipe {name} is based on itself ({' → '.join([*above, name])})")
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        known = recipe_names()
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known recipes: {', '.join(known)}"
        raise InputError(f"there is no recipe {name} ({hint})")
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        what = "is empty" if values is None else "is no mapping of settings"
        raise InputError(f"{path}: {what}: a recipe has a name, a version and a description, or a base")
    base = values.pop("base", None)
    if base is None:
        return values
    # not the base's name: a run is by default called like its recipe
    return {**_merge(_read_yaml(str(base), (*above, name)), values), "name": values.get("name", path.stem)}


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both_maps = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both_maps else value
    return merged


def _check_keys(values: Mapping[str, Any], settings: type, where: str, prefix: str = "") -> None:
    hints = typing.get_type_hints(settings)
    for key, value in values.items():
        if key not in hints:
            nearest = _ABBREVIATIONS.get(key) or difflib.get_close_matches(
                prefix + key, _dotted_keys(Recipe), n=1, cutoff=0.5
            )
            hint = f"; did you mean {nearest[0]}?" if nearest else f"; known here: {', '.join(hints)}"
            raise InputError(f"{where}: unknown setting {prefix}{key}{hint}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise InputError(f"{where}: {prefix}{key} is a section of settings, not the value {value!r}")
            _check_keys(value, typing.cast(type, hints[key]), where, f"{prefix}{key}.")


def _dotted_keys(settings: type, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, hint in typing.get_type_hints(settings).items():
        nested = dataclasses.is_dataclass(hint)
        keys += _dotted_keys(typing.cast(type, hint), f"{prefix}{key}.") if nested else [prefix + key]
    return keys


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    rest = list(overrides)
    while rest:
        option = rest.pop(0)
        key, equals, text = option.removeprefix("--").partition("=")
        if not option.startswith("--"):
            raise InputError(f"unexpected argument {option}; settings are given as --section.key value")
        if not equals:
            if not rest:
                raise InputError(f"{option} needs a value")
            text = rest.pop(0)
        *sections, leaf = key.split(".")
        try:
            nested: dict[str, Any] = {leaf: yaml.safe_load(text)}
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise InputError(f"--{key} {text}: not valid YAML ({reason}); put a text in quotes of its own") from None
        for section in reversed(sections):
            nested = {section: nested}
        _check_keys(nested, Recipe, where="command line")
        parsed = _merge(parsed, nested)
    return parsed
