"""The frame features of HowTo100M, MCN and MFT: torchvision's ResNet-152 on one whole frame a second."""

from __future__ import annotations

import torchvision
from torch import nn

from pipeline.backbones.base import Backbone, Normalize, Normalized
from pipeline.backbones.folding import fold_batch_norms
from pipeline.backbones.weights import fetch_weights, filled
from pipeline.media.decode import FrameFormat

URL = torchvision.models.ResNet152_Weights.IMAGENET1K_V1.url
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def resnet152() -> Backbone:
    """2048-d frame features at 1 per second, averaged over the whole frame."""
    return Backbone(
        name="resnet152",
        dim=2048,
        frame_format=FrameFormat(rate=1, size=224),
        version="resnet152/1: torchvision, IMAGENET1K_V1 (394f9c45), 1 frame/s, shorter side 224, whole frame",
        build=_build,
        fusable=True,
    )


def _build() -> nn.Module:
    weights = fetch_weights("resnet152", URL, check_hash=True)
    network = filled("resnet152", torchvision.models.resnet152, weights)
    network.fc = nn.Identity()
    return Normalized(fold_batch_norms(network.eval()), Normalize(IMAGENET_MEAN, IMAGENET_STD))
