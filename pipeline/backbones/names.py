"""The backbones' names, for those who do not want to wait until torch is imported."""

from __future__ import annotations

import difflib

from pipeline.config import ExtractSettings
from pipeline.errors import InputError

OF_FRAMES = ("clip_vit_b32", "resnet152", "seeded_2d")
OF_CLIPS = ("resnext101_3d", "s3d_howto100m", "seeded_3d", "slowfast_r101", "slowfast_r50")
NAMES = tuple(sorted((*OF_FRAMES, *OF_CLIPS)))
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


def check_backbones(settings: ExtractSettings) -> None:
    """Whether there are such backbones, each where it belongs.

    Raises:
        InputError: there is none of that name, or it takes clips where single frames are meant, or the other way.
    """
    for slot, name, foreign in (("video_2d", settings.video_2d, OF_CLIPS), ("video_3d", settings.video_3d, OF_FRAMES)):
        if name is None:
            continue
        check_name(name)
        if name in foreign or (slot == "video_3d" and name.startswith(TIMM_PREFIX)):
            takes, other = ("clips", "video_3d") if slot == "video_2d" else ("single frames", "video_2d")
            raise InputError(f"extract.{slot} {name}: this backbone takes {takes}; set extract.{other} to it")
