"""The backbones' names, for those who do not want to wait until torch is imported."""

from __future__ import annotations

import difflib

from pipeline.errors import InputError

NAMES = (
    "clip_vit_b32",
    "resnet152",
    "resnext101_3d",
    "s3d_howto100m",
    "seeded_2d",
    "seeded_3d",
    "slowfast_r101",
    "slowfast_r50",
)
TIMM_PREFIX = "timm:"
"""What follows it is the name of a network of timm's."""


def check_name(name: str) -> None:
    """Whether there is such a backbone; of timm's networks only timm knows.

    Raises:
        InputError: there is not; the nearest name is given.
    """
    if name in NAMES or name.startswith(TIMM_PREFIX):
        return
    nearest = difflib.get_close_matches(name, NAMES, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(NAMES)}, {TIMM_PREFIX}<name>"
    raise InputError(f"there is no backbone {name} ({hint})")
