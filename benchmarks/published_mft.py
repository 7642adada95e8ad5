"""MFT the published way: what the published program computes, the way it does, with the weights of this package's.

Every combination of modalities goes through the transformer by itself, attention is written out, the audio network is a
convolution over images, every embedding is projected by itself, sound is pooled clip by clip.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models import MFT
from pipeline.models.davenet import Davenet
from pipeline.models.fusion import FusionTransformer
from pipeline.objectives.combinatorial import TERMS

Batch = Mapping[str, Tensor]
Modality = tuple[Tensor, Tensor]


def published_outputs(model: MFT, batch: Batch, evaluating: bool = False) -> dict[str, Tensor]:
    """The embeddings of a batch; ``evaluating``: also pairs that training does without, and sums."""
    outputs, tokens = {}, {}
    for name, (values, mask) in _inputs(model, batch).items():
        values = published_projection(model.get_submodule(f"{name}_token_proj"), values)
        values = model.get_submodule(f"{name}_norm_layer")(values)
        present = mask.sum(-1) != 0
        values, mask = values.clone(), mask.clone()
        values[~present, :1] = model.fusion.masking_token.type(values.dtype)
        mask[~present, :1] = 1
        if model.settings.positions and not model.settings.per_modality:
            values = values + model.get_parameter(f"{name}_pos_embed")
        tokens[name] = (values, mask)
        outputs[f"{name}_nonempty_input_mask"] = present
    for name in tokens:
        fusion = model.get_submodule(f"fusion_{name}") if model.settings.per_modality else model.fusion
        embedding = published_fusion(fusion, {name: tokens[name]})[0]
        outputs[f"{name}_embed"] = published_projection(_head(model, name), embedding)
    for first, second in itertools.combinations(tokens, 2):
        if _has_pairs(model, evaluating):
            fused = published_fusion(model.fusion, {name: tokens[name] for name in (first, second)})
            embeddings = [
                published_projection(_head(model, name), x) for name, x in zip((first, second), fused, strict=False)
            ]
            fused_pair = embeddings[0] if len(embeddings) == 1 else sum(map(unit, embeddings)) / 2
            outputs[f"{first[0]}{second[0]}_embed"] = fused_pair
        if evaluating:
            both = outputs[f"{first}_embed"], outputs[f"{second}_embed"]
            outputs[f"{first[0]}+{second[0]}_embed"] = sum(map(unit, both)) / 2
    return outputs


def _inputs(model: MFT, batch: Batch) -> dict[str, Modality]:
    inputs = {name: (batch[name], batch[f"{name}_mask"]) for name in ("text", "video")}
    if model.settings.text_video_only:
        return inputs
    tokens = published_davenet(model.davenet, batch["audio"])
    frames_per_token = -(-batch["audio_mask"].shape[1] // tokens.shape[1])
    mask = F.max_pool1d(batch["audio_mask"].unsqueeze(0), frames_per_token).squeeze(0)
    limit, how = model.settings.max_audio_tokens, model.settings.audio_pooling
    if limit is not None and tokens.shape[1] > limit and how != "none":
        real = (batch["audio_nframes"] / frames_per_token).int().tolist()
        tokens = torch.stack([_pooled(x, count, limit, how) for x, count in zip(tokens, real, strict=True)])
        mask = mask[:, :limit]
    return {**inputs, "audio": (tokens, mask)}


def _pooled(tokens: Tensor, real: int, limit: int, how: str) -> Tensor:
    """A clip's audio tokens ``[tokens, dim]``, of which ``real`` are, brought to ``limit``."""
    if how == "clip" or real <= limit:
        return tokens[:limit]
    signal = tokens[:real].T.unsqueeze(0)
    if how == "nearest":
        pooled = F.interpolate(signal, size=limit, mode="nearest")
    else:
        pooled = {"max_pool": F.adaptive_max_pool1d, "avg_pool": F.adaptive_avg_pool1d}[how](signal, limit)
    return pooled[0].T


def _head(model: MFT, name: str) -> nn.Module:
    return model.get_submodule(f"{name}_proj" if model.settings.individual_projections else "proj")


def _has_pairs(model: MFT, evaluating: bool) -> bool:
    settings = model.settings
    return not (settings.per_modality or settings.text_video_only) and (settings.cross_modal or evaluating)


def published_fusion(fusion: FusionTransformer, modalities: dict[str, Modality]) -> list[Tensor]:
    """One pass through the transformer: the mean of each modality's tokens, or the class token's output."""
    x = torch.cat([values for values, _ in modalities.values()], dim=1)
    mask = torch.cat([mask for _, mask in modalities.values()], dim=1)
    if fusion.cls_token is not None:
        x = torch.cat([fusion.cls_token.expand(len(x), -1, -1), x], dim=1)
        mask = torch.cat([torch.ones(len(x), 1, device=x.device), mask], dim=1)
    for block in fusion.blocks:
        x = x + published_attention(block.attn, block.norm1(x), mask)
        x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))
    if fusion.cls_token is not None:
        return [x[:, 0]]
    means, offset = [], 0
    for values, own_mask in modalities.values():
        own = x[:, offset : offset + values.shape[1]]
        weights = own_mask.unsqueeze(2).expand_as(own)
        means.append((own * weights).sum(1) / weights.sum(1))
        offset += values.shape[1]
    return means


def published_attention(attention: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    """Attention written out, masked keys at minus infinity."""
    batch, count, dim = x.shape
    qkv = attention.qkv(x).reshape(batch, count, 3, attention.heads, dim // attention.heads).permute(2, 0, 3, 1, 4)
    queries, keys, values = qkv[0], qkv[1], qkv[2]
    scores = (queries @ keys.transpose(-2, -1)) * (dim // attention.heads) ** -0.5
    scores = scores.masked_fill((mask == 0).view(batch, 1, 1, count).expand_as(scores), -float("inf"))
    mixed = scores.softmax(dim=-1) @ values
    return attention.proj(mixed.transpose(1, 2).reshape(batch, count, dim))


def published_projection(head: nn.Module, x: Tensor) -> Tensor:
    """A gated unit that concatenates its values and gates along the second axis and splits them again."""
    if not hasattr(head, "cg"):
        return head(x)
    x = head.fc(x)
    return F.glu(torch.cat([x, head.cg.fc(x)], dim=1), dim=1)


def published_davenet(net: Davenet, spectrogram: Tensor) -> Tensor:
    """The audio network as a convolution over images of height 40, then 1; tokens ``[batch, time, dim]``."""

    def norm(x: Tensor, layer: nn.BatchNorm1d) -> Tensor:
        statistics = layer.running_mean, layer.running_var
        return F.batch_norm(x, *statistics, layer.weight, layer.bias, layer.training, layer.momentum, layer.eps)

    def convolve(x: Tensor, layer: nn.Module) -> Tensor:
        return F.conv2d(x, layer.weight, stride=layer.stride, padding=(0, layer.padding))

    x = F.relu(norm(convolve(spectrogram.unsqueeze(1), net.conv1), net.bn1))
    for stage in range(1, net.stages + 1):
        for block in net.get_submodule(f"layer{stage}"):
            shortcut = x if block.downsample is None else norm(convolve(x, block.downsample[0]), block.downsample[1])
            out = F.relu(norm(convolve(x, block.conv1), block.bn1))
            x = F.relu(norm(convolve(out, block.conv2), block.bn2) + shortcut)
    return x.squeeze(2).permute(0, 2, 1)


def published_loss(outputs: Mapping[str, Tensor], weights: Mapping[str, float], temperature: float) -> Tensor:
    """Term by term over the samples that have the modalities, each read back to the host for the log."""
    total, weight_sum = torch.zeros((), device=outputs["text_embed"].device), 0.0
    for name, (first, second, needs) in TERMS.items():
        if f"{first}_embed" not in outputs or f"{second}_embed" not in outputs:
            continue
        present = torch.stack([outputs[f"{needed}_nonempty_input_mask"] for needed in needs]).all(dim=0)
        similarity = unit(outputs[f"{first}_embed"][present]) @ unit(outputs[f"{second}_embed"][present]).T
        rows = F.log_softmax(similarity / temperature, dim=1).diag()
        columns = F.log_softmax(similarity.T / temperature, dim=1).diag()
        term = -rows.sum() / len(rows) - columns.sum() / len(columns)
        term.item()
        total = total + weights[name] * term
        weight_sum += weights[name]
    return total / weight_sum


def unit(x: Tensor) -> Tensor:
    norms = x.norm(dim=1)[:, None]
    return x / torch.max(norms, 1e-8 * torch.ones_like(norms))
