"""Clips longer than those a model was trained on: the four ways in which MFT's authors embed them.

Their names for them, in the published program's ``configs/evaluation``: at once, clips, max, nearest.
"""

from __future__ import annotations

import dataclasses

from pipeline.config import ClipSettings, ModelSettings, Recipe
from pipeline.errors import InputError
from pipeline.models.davenet import stride_of


def evaluation_sizes(recipe: Recipe) -> tuple[ModelSettings, ClipSettings]:
    """The model's and the clips' settings for evaluation by the recipe's strategy.

    Weights do not depend on what is changed here, but for the learned positions of as many audio tokens.

    Raises:
        InputError: the strategy cannot be had with this model.
    """
    if recipe.evaluate.windows < 1:
        raise InputError(
            f"evaluate.windows {recipe.evaluate.windows}: at least one training window has to be looked at"
        )
    model, clips = _sizes(recipe)
    if model.positions and not model.per_modality:
        _check_positions(model, clips, recipe.evaluate.max_words)
    return model, clips


def _sizes(recipe: Recipe) -> tuple[ModelSettings, ClipSettings]:
    model, clips, settings = recipe.model, recipe.clips, recipe.evaluate
    windows, strategy = settings.windows, settings.strategy
    if strategy == "cut":
        return model, dataclasses.replace(clips, pieces=windows, video_tokens="clip")
    clips = dataclasses.replace(clips, max_audio_frames=clips.max_audio_frames * windows)
    if strategy == "at_once":
        return model, dataclasses.replace(clips, max_video_tokens=clips.max_video_tokens * windows)
    if model.name != "mft":
        raise InputError(f"evaluate.strategy {strategy} is for token sequences: {model.name} has one vector per clip")
    clips = dataclasses.replace(clips, video_tokens=strategy)
    if model.text_video_only:
        return model, clips
    frames, stride = recipe.clips.max_audio_frames, stride_of(model.davenet)
    tokens = frames // stride
    if not tokens:
        raise InputError(
            f"evaluate.strategy {strategy} needs sound of a token or more: clips.max_audio_frames is {frames}, a token "
            f"is {stride} frames"
        )
    if model.positions and model.max_audio_tokens not in (None, tokens):
        raise InputError(
            f"evaluate.strategy {strategy} makes {tokens} tokens of {frames} frames of sound, but the model has "
            f"positions of {model.max_audio_tokens}: set clips.max_audio_frames to {model.max_audio_tokens} x {stride}"
        )
    return dataclasses.replace(model, audio_pooling=strategy, max_audio_tokens=tokens), clips


def _check_positions(model: ModelSettings, clips: ClipSettings, max_words: int) -> None:
    """Refuses clips of more tokens than the model has positions; training would find out at its first evaluation."""
    sound = -(-clips.max_audio_frames // stride_of(model.davenet))
    wanted = {
        "video": (clips.max_video_tokens, model.max_video_tokens, "evaluate.windows or clips.max_video_tokens"),
        "text": (max_words, model.max_text_tokens, "evaluate.max_words"),
        "audio": (sound, model.max_audio_tokens, "evaluate.windows or clips.max_audio_frames"),
    }
    if model.text_video_only or model.audio_pooling != "none":
        del wanted["audio"]
    for name, (tokens, positions, settings) in wanted.items():
        if positions is not None and tokens > positions:
            raise InputError(
                f"evaluation has clips of up to {tokens} {name} tokens, but the model knows {positions} positions "
                f"(model.max_{name}_tokens): lower {settings}"
            )
