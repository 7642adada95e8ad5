"""All backbones by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pipeline.backbones.base import Backbone
from pipeline.backbones.clip import clip_vit_b32
from pipeline.backbones.names import TIMM_PREFIX, check_backbones, check_name
from pipeline.backbones.resnet152 import resnet152
from pipeline.backbones.resnext101_3d import resnext101_3d
from pipeline.backbones.s3d import s3d_howto100m
from pipeline.backbones.seeded import seeded_2d, seeded_3d
from pipeline.backbones.slowfast import slowfast
from pipeline.backbones.timm_frames import timm_frames
from pipeline.config import ExtractSettings

_BACKBONES: dict[str, Callable[[], Backbone]] = {
    "clip_vit_b32": clip_vit_b32,
    "resnet152": resnet152,
    "resnext101_3d": resnext101_3d,
    "slowfast_r50": partial(slowfast, "slowfast_r50"),
    "slowfast_r101": partial(slowfast, "slowfast_r101"),
    "s3d_howto100m": s3d_howto100m,
    "seeded_2d": seeded_2d,
    "seeded_3d": seeded_3d,
}


def get_backbone(name: str) -> Backbone:
    """A backbone's description; its network is made by :meth:`Backbone.load`.

    Raises:
        InputError: there is no such backbone; the nearest name is given.
    """
    check_name(name)
    return timm_frames(name) if name.startswith(TIMM_PREFIX) else _BACKBONES[name]()


def backbones_of(settings: ExtractSettings) -> dict[str, Backbone]:
    """The backbones of a recipe by the array that they fill, ``2d`` and ``3d``.

    Raises:
        InputError: there is no such backbone, or it does not belong there.
    """
    check_backbones(settings)
    names = {"2d": settings.video_2d, "3d": settings.video_3d}
    return {key: get_backbone(name) for key, name in names.items() if name}
