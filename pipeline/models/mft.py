"""MFT, the multi-modal fusion transformer of *Everything at Once* (Shvetsova et al., CVPR 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config import ModelSettings
from pipeline.errors import InputError
from pipeline.models.audio_pooling import pool_tokens
from pipeline.models.davenet import Davenet
from pipeline.models.fusion import CLASS, Combination, FusionTransformer, Tokens, with_masking_token
from pipeline.models.layers import projection
from pipeline.models.rows import Rows

MODALITIES = ("text", "video", "audio")
_HALVES = (torch.float16, torch.bfloat16)


class MFT(nn.Module):
    """Text, video and audio tokens → an embedding of each modality and of each pair.

    Raises:
        InputError: settings that contradict each other.
    """

    similarity = "cosine"
    """How embeddings are compared."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        _check(settings)
        self.settings = settings
        self.modalities = MODALITIES[:2] if settings.text_video_only else MODALITIES
        dim = settings.embed_dim
        self.fusion = _transformer(settings)
        for name in ("video", "text", "audio"):
            self.add_module(f"{name}_norm_layer", nn.LayerNorm(dim, eps=1e-6))
        self.davenet = Davenet(settings.davenet, settings.davenet_width)
        in_dims = {"video": settings.video_dim, "text": settings.text_dim, "audio": self.davenet.dim}
        if settings.positions:
            for name, length in self._most_tokens().items():
                positions = nn.init.trunc_normal_(torch.empty(1, length, dim), std=0.02)
                self.register_parameter(f"{name}_pos_embed", nn.Parameter(positions))
        for name, in_dim in in_dims.items():
            self.add_module(f"{name}_token_proj", projection(settings.token_projection, in_dim, dim))
        for name in in_dims if settings.individual_projections else ("",):
            full_name = f"{name}_proj" if name else "proj"
            self.add_module(full_name, projection(settings.projection, dim, settings.projection_dim))
        if settings.per_modality:
            self.fusion_text = self.fusion
            self.fusion_video = _transformer(settings)
            self.fusion_audio = _transformer(settings)
        self.most_tokens: dict[str, int] | None = None
        """Numbers of tokens, sums of :meth:`clip_tokens`, that the next batches don't exceed: with them a GPU leaves
        padding out. What exceeds them would be lost; None keeps padding."""
        self.audio_network_apart = False
        """Whether ``torch.compile`` makes a program of its own of the audio network."""
        self._freeze_what_is_never_used()

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Embeds a batch of clips.

        Args:
            batch: ``text [batch, words, text dim]``, ``video [batch, tokens, video dim]`` and ``audio
                [batch, 40, frames]`` (log-mel); for each a mask, ``text_mask``, ``video_mask``, ``audio_mask``
                ``[batch, length]``, not zero where it is valid; ``audio_nframes [batch]``, the number of real frames
                (``audio_STFT_nframes`` in the published program, which does as well).

        Returns:
            ``text_embed``, ``video_embed``, ``audio_embed`` ``[batch, projection dim]``; the pairs ``tv_embed``,
            ``ta_embed``, ``va_embed`` (in training only where ``cross_modal`` asks for them); in eval mode also the
            late sums ``t+v_embed``, ``t+a_embed``, ``v+a_embed``; and bool ``[batch]`` ``text_nonempty_input_mask``,
            ...: which clips have the modality at all. Rows of a modality that a clip lacks mean nothing.
        """
        given = {name: self._given(name, batch) for name in self.modalities}
        if self.audio_network_apart:
            torch._dynamo.graph_break()
        embedded = {name: self._tokens(name, *given[name]) for name in self.modalities}
        outputs = {f"{name}_nonempty_input_mask": present for name, (_, present) in embedded.items()}
        if "audio" not in embedded and "audio_mask" in batch:
            outputs["audio_nonempty_input_mask"] = (batch["audio_mask"] != 0).any(dim=1)
        projected = self._project(self._fuse({name: tokens for name, (tokens, _) in embedded.items()}))
        for combination in dict.fromkeys(combination for combination, _ in projected):
            parts = [value for (owner, _), value in projected.items() if owner == combination]
            outputs[_output_name(combination)] = parts[0] if len(parts) == 1 else _mean_direction(*parts)
        if not self.training:
            for first, second in combinations(self.modalities, 2):
                both = outputs[f"{first}_embed"], outputs[f"{second}_embed"]
                outputs[f"{first[0]}+{second[0]}_embed"] = _mean_direction(*both)
        return outputs

    def clip_tokens(self, lengths: Mapping[str, Tensor], frames: int) -> dict[str, Tensor]:
        """How many tokens each clip has for the transformer, by modality: one at least, the masking token.

        Args:
            lengths: ``[batch]`` each: ``text``, words; ``video``, tokens; ``audio``, real frames.
            frames: of a spectrogram, padding among them.
        """
        counts = {name: lengths[name].long() for name in self.modalities}
        if "audio" in counts:
            limit = None if self.settings.audio_pooling == "none" else self.settings.max_audio_tokens
            counts["audio"] = (-(-counts["audio"] // self.davenet.frames_per_token(frames))).clamp(max=limit or frames)
        return {name: count.clamp(min=1) for name, count in counts.items()}

    def _given(self, name: str, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """A modality's tokens before their projection, those of sound by the audio network, and which are valid."""
        values, mask = batch[name].to(self.fusion.masking_token.dtype), batch[f"{name}_mask"] != 0
        if name == "audio":
            frames = batch["audio_nframes"] if "audio_nframes" in batch else batch["audio_STFT_nframes"]
            return self._audio_tokens(values, mask, frames)
        return values, mask

    def _tokens(self, name: str, values: Tensor, mask: Tensor) -> tuple[Tokens, Tensor]:
        """What a modality is given → its tokens, and bool ``[batch]``: which clips have any."""
        rows = Rows(mask, self.settings.embed_dim, self.most_tokens[name] if self.most_tokens else None)
        projected = self.get_submodule(f"{name}_token_proj")(rows.pick(values))
        values = rows.put(self.get_submodule(f"{name}_norm_layer")(projected))
        tokens, present = with_masking_token(values, mask, self.fusion.masking_token)
        if self.settings.positions and not self.settings.per_modality:
            positions = self.get_parameter(f"{name}_pos_embed")
            count = tokens.values.shape[1]
            if count > positions.shape[1]:
                raise InputError(
                    f"a clip has {count} {name} tokens, but the model knows {positions.shape[1]} positions: "
                    "pool or cut them, or train with more"
                )
            tokens = Tokens(tokens.values + positions[:, :count], tokens.mask)
        return tokens, present

    def _audio_tokens(self, spectrogram: Tensor, mask: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        per_token = self.davenet.frames_per_token(spectrogram.shape[2])
        values, mask = self.davenet(spectrogram), self.davenet.token_mask(mask)
        limit = self.settings.max_audio_tokens
        if limit is None:
            return values, mask
        return pool_tokens(values, mask, (frames / per_token).long(), limit, self.settings.audio_pooling)

    def _fuse(self, tokens: Mapping[str, Tokens]) -> dict[tuple[Combination, str], Tensor]:
        singles: list[Combination] = [(name,) for name in tokens]
        if self.settings.per_modality:
            fused: dict[tuple[Combination, str], Tensor] = {}
            for (name,) in singles:
                fused |= self.get_submodule(f"fusion_{name}")({name: tokens[name]}, [(name,)], self.most_tokens)
            return fused
        with_pairs = not self.settings.text_video_only and (self.settings.cross_modal or not self.training)
        pairs = list(combinations(tokens, 2)) if with_pairs else []
        return self.fusion(tokens, [*singles, *pairs], self.most_tokens)

    def _project(self, fused: dict[tuple[Combination, str], Tensor]) -> dict[tuple[Combination, str], Tensor]:
        """Projects each modality's embeddings, those of all combinations at once."""
        own: dict[str, list[tuple[Combination, str]]] = {}
        for combination, part in fused:
            name = "proj"
            if self.settings.individual_projections:
                # then no pair has a class token: it is its one modality's
                name = f"{combination[0] if part == CLASS else part}_proj"
            own.setdefault(name, []).append((combination, part))
        projected: dict[tuple[Combination, str], Tensor] = {}
        for name, keys in own.items():
            together = torch.stack([fused[key] for key in keys])
            projected |= zip(keys, self.get_submodule(name)(together).unbind(0), strict=True)
        return {key: projected[key] for key in fused}

    def _most_tokens(self) -> dict[str, int]:
        most = {
            "video": self.settings.max_video_tokens,
            "text": self.settings.max_text_tokens,
            "audio": self.settings.max_audio_tokens,
        }
        for name, length in most.items():
            if length is None:
                raise InputError(f"model.positions needs model.max_{name}_tokens")
        return {name: length for name, length in most.items() if length is not None}

    def _freeze_what_is_never_used(self) -> None:
        """Keeps parameters that only the published layout asks for out of optimisers and of gradient exchange."""
        unused: list[nn.Module | nn.Parameter] = []
        if self.settings.text_video_only:
            heads = ["audio_proj"] if self.settings.individual_projections else []
            unused += [self.get_submodule(name) for name in ("davenet", "audio_token_proj", "audio_norm_layer", *heads)]
        if self.settings.per_modality:
            unused += [self.fusion_video.masking_token, self.fusion_audio.masking_token]
        if self.settings.positions:
            names = MODALITIES if self.settings.per_modality else set(MODALITIES) - set(self.modalities)
            unused += [self.get_parameter(f"{name}_pos_embed") for name in names]
        for parameter in unused:
            parameter.requires_grad_(False)


def _transformer(settings: ModelSettings) -> FusionTransformer:
    return FusionTransformer(
        settings.embed_dim, settings.depth, settings.heads, settings.mlp_ratio, settings.class_token
    )


def _check(settings: ModelSettings) -> None:
    pairs = not (settings.per_modality or settings.text_video_only)
    if settings.class_token and settings.individual_projections and pairs:
        raise InputError(
            "model.class_token gives one vector for a pair, which no single modality's projection fits: "
            "set model.individual_projections false"
        )
    if settings.per_modality and settings.text_video_only:
        raise InputError("model.per_modality is defined with all three modalities: set model.text_video_only false")
    if settings.per_modality and not settings.individual_projections:
        raise InputError("model.per_modality is defined with model.individual_projections only")


def _output_name(combination: Combination) -> str:
    return f"{combination[0] if len(combination) == 1 else ''.join(name[0] for name in combination)}_embed"


def _mean_direction(first: Tensor, second: Tensor) -> Tensor:
    """The mean of the two L2-normalised vectors (*Everything at Once*, equation 3), half precision as float32.

    In float16 the least length that is divided by is zero, and long vectors' lengths are infinite.
    """
    first, second = (value.float() if value.dtype in _HALVES else value for value in (first, second))
    return (F.normalize(first, dim=1, eps=1e-8) + F.normalize(second, dim=1, eps=1e-8)) / 2
