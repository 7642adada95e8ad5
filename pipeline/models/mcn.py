"""MCN (*Multimodal Clustering Networks*, ICCV 2021) and its ancestor AVLnet (Interspeech 2021): one vector per clip.

All forms share the branches of video and sound. They differ in what becomes of text: AVLnet has none, AVLnet-Text-Tri
has a branch of its own, AVLnet-Text-Fused joins it with sound, and MCN is the form with three branches and heads that
reconstruct from each embedding what went into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config import ModelSettings
from pipeline.errors import InputError
from pipeline.models.davenet import Davenet
from pipeline.models.layers import ContextGating, GatedUnit
from pipeline.models.products import Linear


class SentenceMaxPool(nn.Module):
    """Linear and ReLU on every word, then the maximum over words, padding included."""

    def __init__(self, word_dim: int, dim: int) -> None:
        super().__init__()
        self.fc = Linear(word_dim, dim)

    def forward(self, words: Tensor) -> Tensor:
        """``[batch, words, word dim]`` → ``[batch, dim]``."""
        return F.relu(self.fc(words)).amax(dim=1)


class FusedGatedUnit(nn.Module):
    """Sound and text, each through a linear map, summed and gated."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.fc_audio = Linear(in_dim, dim)
        self.fc_text = Linear(in_dim, dim)
        self.cg = ContextGating(dim)

    def forward(self, audio: Tensor, text: Tensor) -> Tensor:
        """Twice ``[batch, in_dim]`` → ``[batch, dim]``."""
        return self.cg(self.fc_audio(audio) + self.fc_text(text))


class MCN(nn.Module):
    """Video, sound and text of a clip → an embedding each; ``settings.name`` says which form.

    Raises:
        InputError: settings that contradict each other.
    """

    similarity = "dot"
    """How embeddings are compared: raw dot products."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        _check(settings)
        self.settings = settings
        self.fused = settings.name == "avlnet_text_fused"
        dim = settings.embed_dim
        branch_dim = dim // 2 if self.fused else dim
        self.DAVEnet = Davenet(settings.davenet, settings.davenet_width)
        audio_dim = self.DAVEnet.dim
        self.DAVEnet_projection = Linear(audio_dim, branch_dim)
        # The fused form never calls this unit; it stays so that checkpoints keep their layout.
        self.GU_audio = GatedUnit(audio_dim, audio_dim).requires_grad_(not self.fused)
        self.GU_video = GatedUnit(settings.video_dim, dim)
        self.audio_network_apart = False
        """Whether ``torch.compile`` makes a program of its own of the audio network."""
        self.modalities: tuple[str, ...] = ("video", "audio")
        if settings.name != "avlnet":
            self.modalities = ("text", *self.modalities)
            self.text_pooling_caption = SentenceMaxPool(settings.text_dim, branch_dim)
            if self.fused:
                self.GU_audio_text = FusedGatedUnit(branch_dim, dim)
            else:
                self.GU_text_captions = GatedUnit(dim, dim)
        if settings.reconstruction_dim is not None:
            hidden = settings.reconstruction_dim
            self.recon_v = _reconstruction(dim, hidden, settings.video_dim)
            self.recon_a = _reconstruction(dim, hidden, audio_dim)
            self.recon_t = _reconstruction(dim, hidden, dim)
        if settings.cluster_classes is not None:
            self._add_cluster_head(settings, settings.cluster_classes)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Embeds a batch of clips.

        Args:
            batch: ``video [batch, video dim]``, or ``[batch, tokens, video dim]`` with ``video_mask``, of which the
                maximum over valid tokens is taken; ``audio [batch, 40, frames]`` (log-mel) and ``audio_nframes
                [batch]``, the number of real frames (``nframes`` in the published programs, which does as well);
                ``text [batch, words, text dim]``, padding zero. ``text_mask``, ``video_mask`` and ``audio_mask`` say
                what is there; without one, all is. ``video_index [batch]``, where given, tells a video's clips from
                its neighbours'.

        Returns:
            ``video_embed``, ``audio_embed``, ``text_embed`` ``[batch, embed dim]``, or ``ta_embed`` for the last two
            in the fused form; bool ``[batch]`` ``video_nonempty_input_mask``, ...: which clips have the modality;
            with reconstruction heads ``reconstruction [batch]``, their mean squared errors, summed; with a cluster
            head ``video_cluster [batch, classes]``, ...; with ``video_index``, bool ``[batch]`` ``enters_queue``: the
            clip is in the first half of its video's. In eval mode also the sums ``t+v_embed``, ``t+a_embed``,
            ``v+a_embed``, of what the clip has.
        """
        dtype = self.DAVEnet_projection.weight.dtype
        outputs = {f"{name}_nonempty_input_mask": _present(batch, name) for name in self.modalities}
        video = _pool_video(batch["video"].to(dtype), batch.get("video_mask"))
        frames = batch["audio_nframes"] if "audio_nframes" in batch else batch["nframes"]
        audio = self._pool_audio(batch["audio"].to(dtype), frames)
        if self.audio_network_apart:
            torch._dynamo.graph_break()
        outputs["video_embed"] = self.GU_video(video)
        if self.fused:
            text = self.text_pooling_caption(batch["text"].to(dtype))
            outputs["ta_embed"] = self.GU_audio_text(self.DAVEnet_projection(audio), text)
            return outputs
        # The gate works in the narrower space, which is stabler in half precision.
        outputs["audio_embed"] = self.DAVEnet_projection(self.GU_audio(audio))
        targets = {"video": video, "audio": audio}
        if "text" in self.modalities:
            targets["text"] = self.text_pooling_caption(batch["text"].to(dtype))
            outputs["text_embed"] = self.GU_text_captions(targets["text"])
        if self.settings.reconstruction_dim is not None:
            outputs["reconstruction"] = self._reconstruction_error(outputs, targets)
        if self.settings.cluster_classes is not None:
            outputs |= {f"{name}_cluster": self._cluster_scores(outputs[f"{name}_embed"]) for name in self.modalities}
        if "video_index" in batch:
            outputs["enters_queue"] = _first_half_of_each_run(batch["video_index"])
        if not self.training:
            # an absent modality's embedding is a constant, which in a sum would draw all such clips to the same texts
            there = {
                name: outputs[f"{name}_embed"] * outputs[f"{name}_nonempty_input_mask"].unsqueeze(1)
                for name in self.modalities
            }
            for first, second in combinations(self.modalities, 2):
                outputs[f"{first[0]}+{second[0]}_embed"] = there[first] + there[second]
        return outputs

    def _add_cluster_head(self, settings: ModelSettings, classes: int) -> None:
        dim, projection_dim = settings.embed_dim, settings.cluster_projection_dim
        if projection_dim is None:
            self.classification = Linear(dim, classes, bias=False)
            # The published program holds two more heads that it never calls.
            self.classification2 = Linear(dim, classes, bias=False).requires_grad_(False)
            self.classification3 = Linear(dim, classes, bias=False).requires_grad_(False)
            return
        hidden = settings.cluster_hidden_dim or dim // 8
        self.projection_head = nn.Sequential(
            Linear(dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), Linear(hidden, projection_dim)
        )
        self.classification = Linear(projection_dim, classes, bias=False)

    def _cluster_scores(self, embedding: Tensor) -> Tensor:
        if self.settings.cluster_projection_dim is not None:
            embedding = self.projection_head(embedding)
        directions = F.normalize(embedding, dim=1)
        if self.settings.cluster_cosine:
            return F.linear(directions, F.normalize(self.classification.weight, dim=1))
        return self.classification(directions)

    def _pool_audio(self, spectrogram: Tensor, frames: Tensor) -> Tensor:
        """The mean over time: in training over all of it, in evaluation over the real part, as published."""
        tokens = self.DAVEnet(spectrogram)
        if self.training:
            return tokens.mean(dim=1)
        # the network's stride, as the published program finds it: less where short sound is rounded up to whole tokens
        frames_per_token = round(spectrogram.shape[2] / tokens.shape[1])
        real = torch.div(frames, frames_per_token, rounding_mode="floor").clamp(min=1, max=tokens.shape[1])
        weights = (torch.arange(tokens.shape[1], device=tokens.device) < real.unsqueeze(1)).to(tokens.dtype)
        return torch.einsum("btd,bt->bd", tokens, weights / weights.sum(dim=1, keepdim=True))

    def _reconstruction_error(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        errors = []
        for name, target in targets.items():
            rebuilt = self.get_submodule(f"recon_{name[0]}")(outputs[f"{name}_embed"])
            error = F.mse_loss(rebuilt, target, reduction="none").mean(dim=1)
            errors.append(torch.where(outputs[f"{name}_nonempty_input_mask"], error, 0))
        return torch.stack(errors).sum(dim=0)


def _check(settings: ModelSettings) -> None:
    if settings.reconstruction_dim is not None and settings.name != "mcn":
        raise InputError(f"model.reconstruction_dim is for mcn: {settings.name} has no reconstruction heads")
    if settings.cluster_classes is not None and settings.name != "mcn":
        raise InputError(f"model.cluster_classes is for mcn: {settings.name} has no cluster head")
    if settings.cluster_projection_dim is not None and settings.cluster_classes is None:
        raise InputError("model.cluster_projection_dim needs model.cluster_classes")
    if settings.cluster_hidden_dim is not None and settings.cluster_projection_dim is None:
        raise InputError("model.cluster_hidden_dim needs model.cluster_projection_dim")
    if settings.cluster_cosine and settings.cluster_classes is None:
        raise InputError("model.cluster_cosine needs model.cluster_classes")
    if settings.name == "avlnet_text_fused" and settings.embed_dim % 2:
        raise InputError(f"model.embed_dim {settings.embed_dim} has to be even: sound and text take half of it each")


def _reconstruction(dim: int, hidden: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(Linear(dim, hidden), nn.ReLU(), Linear(hidden, out_dim), nn.ReLU())


def _present(batch: Mapping[str, Tensor], name: str) -> Tensor:
    mask = batch.get(f"{name}_mask")
    if mask is None:
        return torch.ones(len(batch[name]), dtype=torch.bool, device=batch[name].device)
    return (mask != 0).any(dim=1)


def _pool_video(video: Tensor, mask: Tensor | None) -> Tensor:
    if video.dim() == 2:
        return video
    if mask is None:
        return video.amax(dim=1)
    valid = (mask != 0).unsqueeze(2)
    pooled = video.masked_fill(~valid, torch.finfo(video.dtype).min).amax(dim=1)
    return torch.where(valid.any(dim=1), pooled, 0)


def _first_half_of_each_run(values: Tensor) -> Tensor:
    """Bool ``[n]``: the element is in the first half of the equal elements that it stands among."""
    # of fixed shapes: a GPU does not wait for the number of runs, and the network stays one graph to the compiler
    place = torch.arange(len(values), device=values.device)
    differs, end = values[1:] != values[:-1], values.new_ones(1, dtype=torch.bool)
    first = torch.where(torch.cat([end, differs]), place, 0).cummax(0).values
    last = torch.where(torch.cat([differs, end]), place, len(values)).flip(0).cummin(0).values.flip(0)
    return place - first < (last - first + 2) // 2
