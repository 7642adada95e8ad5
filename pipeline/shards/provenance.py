"""What the shards of a folder were made with, beside them as ``extract.yaml``, or ``repack.yaml``."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import Recipe
from pipeline.errors import InputError
from pipeline.replacing import replace_file


def claim_folder(folder: Path, recipe: Recipe) -> None:
    """Remembers the settings that a folder's shards are extracted with, and refuses to mix them with others.

    Raises:
        InputError: the folder holds shards of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = read_provenance(folder)
    fingerprint = recipe.extract.fingerprint()
    if before is None or not any(folder.glob("*.tar*")):
        values = {"fingerprint": fingerprint, "recipe": recipe.name, "seeded": recipe.seeded, **asdict(recipe.extract)}
        _write(folder / "extract.yaml", values)
    elif before["fingerprint"] != fingerprint:
        raise InputError(
            f"{folder} holds shards of other settings ({folder / 'extract.yaml'}); give another folder with --shards, "
            f"or the recipe {before['recipe']} that it was made with"
        )


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """What :func:`claim_folder` wrote: ``fingerprint``, ``recipe``, ``seeded`` and the settings; None: nothing."""
    return _read(folder / "extract.yaml")


def claim_repacking(folder: Path, options: dict[str, Any], begun: bool) -> None:
    """Remembers the options that a folder's shards are repacked with, and refuses to go on with others.

    Args:
        folder: the new shards'.
        options: what decides about samples and their order; values that YAML can hold.
        begun: whether there are samples already.

    Raises:
        InputError: these were repacked with other options.
    """
    path = folder / "repack.yaml"
    before = _read(path) if begun else None
    for name, value in options.items():
        if before is not None and before.get(name) != value:
            raise InputError(
                f"{path}: these shards were begun with {name} {_shown(before.get(name))} and not with {_shown(value)}; "
                "give what they were begun with, or another folder"
            )
    _write(path, options)


def _shown(value: Any) -> str:
    pairs = [f"{key}={one}" for key, one in value.items()] if isinstance(value, dict) else value
    return (" ".join(pairs) if isinstance(pairs, list) else str(pairs or "")) or "(none)"


def _read(path: Path) -> dict[str, Any] | None:
    return dict(yaml.safe_load(path.read_text())) if path.exists() else None


def _write(path: Path, values: dict[str, Any]) -> None:
    text = yaml.safe_dump(values, sort_keys=False)
    replace_file(path, lambda part: part.write_text(text), path.with_name(f"{path.name}.tmp{os.getpid()}"))
