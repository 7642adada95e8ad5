"""What the shards of a folder were made with, beside them as ``extract.yaml``."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import Recipe
from pipeline.errors import InputError


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
        beside = folder / f"extract.yaml.tmp{os.getpid()}"
        beside.write_text(yaml.safe_dump(values, sort_keys=False))
        beside.replace(folder / "extract.yaml")
    elif before["fingerprint"] != fingerprint:
        raise InputError(
            f"{folder} holds shards of other settings ({folder / 'extract.yaml'}); give another folder with --shards, "
            f"or the recipe {before['recipe']} that it was made with"
        )


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """What :func:`claim_folder` wrote: ``fingerprint``, ``recipe``, ``seeded`` and the settings; None: nothing."""
    path = folder / "extract.yaml"
    return dict(yaml.safe_load(path.read_text())) if path.exists() else None
