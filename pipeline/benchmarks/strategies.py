"""Clips longer than those a model was trained on: the four ways in which MFT's authors embed them.

Their names for them, in the published program's ``configs/evaluation``: at once, clips, max, nearest.
"""

from __future__ import annotations

import dataclasses

from pipeline.config import ClipSettings, ModelSettings, Recipe
from pipeline.errors import InputError
from pipeline.models.davenet import BLOCKS


def evaluation_sizes(recipe: Recipe) -> tuple[ModelSettings, ClipSettings]:
    """The model's and the clips' settings for evaluation by the recipe's strategy.

    Weights do not depend on what is changed here, but for the learned positions of as many audio tokens.

    Raises:
        InputError: the strategy cannot be had with this model.
    """
    model, clips, settings = recipe.model, recipe.clips, recipe.evaluate
    windows, strategy = settings.windows, settings.strategy
    if windows < 1:
        raise InputError(f"evaluate.windows {windows}: at least one training window has to be looked at")
    if strategy == "cut":
        return model, dataclasses.replace(clips, pieces=windows, video_tokens="clip")
    clips = dataclasses.replace(clips, max_audio_frames=clips.max_audio_frames * windows)
    if strategy == "at_once":
        return model, dataclasses.replace(clips, max_video_tokens=clips.max_video_tokens * windows)
    if model.name != "mft":
        raise InputError(f"evaluate.strategy {strategy} is for token sequences: {model.name} has one vector per clip")
    frames, stride = recipe.clips.max_audio_frames, 2 ** len(BLOCKS[model.davenet])
    tokens = frames // stride
    if not tokens:
        raise InputError(
            f"evaluate.strategy {strategy} needs sound of a token or more: clips.max_audio_frames is {frames}, a token "
            f"is {stride} frames"
        )
    if model.positions and model.max_audio_tokens != tokens:
        raise InputError(
            f"evaluate.strategy {strategy} makes {tokens} tokens of {frames} frames of sound, but the model has "
            f"positions of {model.max_audio_tokens}: set clips.max_audio_frames to {model.max_audio_tokens} x {stride}"
        )
    model = dataclasses.replace(model, audio_pooling=strategy, max_audio_tokens=tokens)
    return model, dataclasses.replace(clips, video_tokens=strategy)
