"""The one way to read settings: a recipe (YAML) with dotted overrides.

A recipe is a file under ``pipeline/recipes/`` or anywhere. It may name a ``base`` recipe, of which it changes
only what it lists. Overrides from the command line (``--train.steps 500``) win over the recipe.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
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
        return Recipe(**parser.instantiate_classes(parser.parse_object(dict(values))).as_dict())
    except (jsonargparse.ArgumentError, TypeError) as error:
        cause = re.sub(r'Parser key "([^"]+)":', r"\1:", " ".join(str(error).split()))
        raise InputError(f"{where}: {cause}") from None


def _read_yaml(name: str) -> dict[str, Any]:
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        known = recipe_names()
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known recipes: {', '.join(known)}"
        raise InputError(f"there is no recipe {name} ({hint})")
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: a recipe is a mapping of settings")
    base = values.pop("base", None)
    return _merge(_read_yaml(str(base)), values) if base is not None else values


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
            known = _dotted_keys(Recipe)
            nearest = difflib.get_close_matches(prefix + key, known, n=1, cutoff=0.5)
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
        nested: dict[str, Any] = {leaf: yaml.safe_load(text)}
        for section in reversed(sections):
            nested = {section: nested}
        _check_keys(nested, Recipe, where="command line")
        parsed = _merge(parsed, nested)
    return parsed
