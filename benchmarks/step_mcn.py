"""One training step of MCN, k-means included, against the published way of computing it.

    python benchmarks/step_mcn.py                     # a size that a CPU takes in seconds
    python benchmarks/step_mcn.py --size paper --device cuda --videos 128

The baseline clusters as the published program does: in each round of k-means all points of the queue are normalised
and compared, and the means are a one-hot matrix times the points; between two runs of k-means the whole queue is
assigned again; and the queue is shifted in memory. Its audio network is a two-dimensional convolution. Both see the
same weights and batches, with the queue full; the table gives the mean over a whole cycle of steps, from one run of
k-means to the next, and the share of it that clustering takes. On a GPU both run under bfloat16 autocast, this package
with its loss in float32, as in training.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import now
from published_mft import published_davenet, published_projection
from rich.console import Console
from rich.table import Table
from step import torch_layers
from torch import Tensor

from pipeline.config import LossSettings, ModelSettings
from pipeline.models import MCN
from pipeline.objectives import MultimodalLoss, build_loss
from pipeline.training.memory import keep_freed_memory
from pipeline.training.step import Precision, embed

PER_VIDEO = 32
PAPER = ModelSettings(name="mcn", embed_dim=6144, davenet="small", reconstruction_dim=1024)
SMALL = ModelSettings(
    name="mcn", video_dim=512, embed_dim=768, davenet="small", davenet_width=8, reconstruction_dim=128
)
SIZES = {
    "small": (SMALL, LossSettings(name="mcn", clusters=64, queue_size=20)),
    # the published network; a batch that a CPU takes cannot start 256 clusters
    "medium": (PAPER, LossSettings(name="mcn", clusters=64, queue_size=20)),
    "paper": (PAPER, LossSettings(name="mcn")),
}
Batch = Mapping[str, Tensor]


class PublishedClustering:
    """Queue and k-means as the published program has them."""

    def __init__(self, clusters: int, queue_size: int) -> None:
        self.clusters, self.queue_size = clusters, queue_size
        self.queue: Tensor | None = None
        self.centroids: Tensor | None = None
        self.step = 0

    def __call__(self, fused: Tensor) -> Tensor:
        """Labels of the batch ``[clips, dim]``."""
        entering = fused.view(-1, PER_VIDEO, fused.shape[1])[:, : PER_VIDEO // 2].reshape(-1, fused.shape[1])
        if self.queue is None:
            self.queue = fused.new_zeros(self.queue_size * len(entering), fused.shape[1])
        points = fused if bool((self.queue[-1] == 0).all()) else torch.cat([self.queue, fused])
        labels = self._k_means(points) if self.step % self.queue_size == 0 else self._assign(points)
        self.queue[len(entering) :] = self.queue[: -len(entering)].clone()
        self.queue[: len(entering)] = entering
        self.step += 1
        return labels[-len(fused) :]

    def _assign(self, points: Tensor) -> Tensor:
        return (F.normalize(points, dim=-1) @ F.normalize(self.centroids, dim=-1).T).max(dim=-1)[1]

    def _k_means(self, points: Tensor) -> Tensor:
        for _ in range(100):
            labels = self._assign(points)
            mask = (labels[None] == torch.arange(self.clusters, device=points.device)[:, None]).to(points.dtype)
            moved = mask @ points / mask.sum(-1)[:, None]
            moved[moved.isnan()] = 0
            change = (moved - self.centroids).pow(2).sum()
            self.centroids = moved
            if change <= 1e-4:
                break
        return labels


def published_loss(
    model: MCN, batch: Batch, clustering: PublishedClustering, loss: MultimodalLoss
) -> tuple[Tensor, float]:
    """The loss of a step, and the seconds spent clustering."""
    video = batch["video"].squeeze(1)
    with torch_layers(model):
        audio = published_davenet(model.DAVEnet, batch["audio"]).mean(dim=1)
        text = model.text_pooling_caption(batch["text"])
        embeddings = {
            "video": published_projection(model.GU_video, video),
            "audio": model.DAVEnet_projection(published_projection(model.GU_audio, audio)),
            "text": published_projection(model.GU_text_captions, text),
        }
    total = torch.zeros((), device=video.device)
    for first, second in (("text", "video"), ("audio", "text"), ("audio", "video")):
        similarity = embeddings[first] @ embeddings[second].T
        similarity = similarity - loss.settings.margin * torch.eye(len(similarity)).to(similarity.device)
        target = torch.arange(len(similarity)).to(similarity.device)
        total = total + F.nll_loss(F.log_softmax(similarity, dim=1), target)
        total = total + F.nll_loss(F.log_softmax(similarity.T, dim=1), target)
    start = now(video.device.type)
    labels = clustering((sum(embeddings.values()) / 3).detach())
    clustered = now(video.device.type) - start
    for embedding in embeddings.values():
        scores = embedding @ clustering.centroids.T
        own = torch.zeros_like(scores)
        own[range(len(own)), labels] = 1
        total = total + F.nll_loss(F.log_softmax(scores - loss.settings.margin * own, dim=1), labels) / 3
    targets = {"video": video, "audio": audio, "text": text}
    with torch_layers(model):
        rebuilt = {name: model.get_submodule(f"recon_{name[0]}")(embeddings[name]) for name in targets}
    errors = [F.mse_loss(rebuilt[name], target, reduction="none").mean(-1) for name, target in targets.items()]
    return total + loss.settings.reconstruction_weight * sum(errors).mean(), clustered


def precision(device: str) -> Precision:
    """Of the network, for a kind of device."""
    return "bfloat16" if device == "cuda" else "float32"


def our_loss(model: MCN, batch: Batch, loss: MultimodalLoss) -> tuple[Tensor, float]:
    """The loss of a step, and the seconds spent clustering."""
    device = batch["video"].device.type
    spent = []
    handles = [
        loss.clustering.register_forward_pre_hook(lambda *_: spent.append(-now(device))),
        loss.clustering.register_forward_hook(lambda *_: spent.append(now(device))),
    ]
    total, _ = loss(embed(model, batch, precision(device)))
    for handle in handles:
        handle.remove()
    return total, sum(spent)


def make_batches(settings: ModelSettings, videos: int, count: int, device: str) -> list[dict[str, Tensor]]:
    """Ten-second clips of one video vector, 20 words and 1000 frames, around topics that k-means can find."""
    generator = torch.Generator().manual_seed(0)
    clips = videos * PER_VIDEO
    topics = torch.randn(100, settings.video_dim, generator=generator)
    batches = []
    for _ in range(count):
        topic = topics[torch.randint(100, (clips,), generator=generator)]
        batch = {
            "text": torch.randn(clips, 20, settings.text_dim, generator=generator),
            "video": (topic + 0.5 * torch.randn(clips, settings.video_dim, generator=generator)).unsqueeze(1),
            "audio": torch.randn(clips, 40, 1000, generator=generator),
            "audio_nframes": torch.full((clips,), 1000.0),
            "video_index": torch.arange(clips) // PER_VIDEO,
        }
        batches.append({name: value.to(device) for name, value in batch.items()})
    return batches


def fill_queue(model: MCN, loss: MultimodalLoss, clustering: PublishedClustering, batches: list[Batch]) -> None:
    """Brings both to the start of a cycle with a full queue and the same centroids, without training."""
    for step in range(loss.clustering.queue_size):
        with torch.no_grad():
            batch = batches[step % len(batches)]
            outputs = embed(model, batch, precision(batch["video"].device.type))
            fused = (outputs["text_embed"] + outputs["video_embed"] + outputs["audio_embed"]) / 3
            loss(outputs)
            if clustering.centroids is None:
                clustering.centroids = loss.clustering.centroids.clone()
            clustering(fused)


def time_way(
    model: MCN, way: Callable[[Batch], tuple[Tensor, float]], batch: Batch, device: str
) -> tuple[float, float, float]:
    """The loss of a step, its seconds, and those of them that were spent clustering."""
    model.zero_grad(set_to_none=True)
    start = now(device)
    total, spent = way(batch)
    total.backward()
    return float(total.detach()), now(device) - start, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--videos", type=int, default=4, help=f"videos in the batch, of {PER_VIDEO} clips each")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    arguments = parser.parse_args()

    model_settings, loss_settings = SIZES[arguments.size]
    if arguments.device == "cpu":
        keep_freed_memory()
    torch.manual_seed(0)
    with torch.device(arguments.device):
        model = MCN(model_settings).train()
    loss = build_loss(loss_settings).train()
    assert isinstance(loss, MultimodalLoss)
    clustering = PublishedClustering(loss_settings.clusters, loss_settings.queue_size)
    batches = make_batches(model_settings, arguments.videos, 4, arguments.device)
    fill_queue(model, loss, clustering, batches)

    def published(batch: Batch) -> tuple[Tensor, float]:
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=arguments.device == "cuda"):
            return published_loss(model, batch, clustering, loss)

    ways = {"published way": published, "this package": lambda batch: our_loss(model, batch, loss)}
    seconds, clustered = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0.0)
    worst = 0.0
    for way in ways.values():  # a GPU's first step is not like the others
        time_way(model, way, batches[0], arguments.device)
    for step in range(loss_settings.queue_size):
        totals = []
        for name, way in ways.items():
            total, took, spent = time_way(model, way, batches[step % len(batches)], arguments.device)
            seconds[name] += took
            clustered[name] += spent
            totals.append(total)
        worst = max(worst, abs(totals[0] - totals[1]) / abs(totals[0]))

    table = Table("", "step, mean", "of it clustering", "speed-up", title=f"MCN, {arguments.size}, {arguments.device}")
    for name, total in seconds.items():
        step_time = total / loss_settings.queue_size
        share = clustered[name] / total
        table.add_row(name, f"{step_time * 1e3:.0f} ms", f"{share:.1%}", f"{seconds['published way'] / total:.2f}x")
    Console().print(table)
    print(f"largest relative difference of the loss in a step: {worst:.1e}")
    if arguments.json:
        numbers = {"seconds": seconds, "clustering": clustered, "difference": worst, "videos": arguments.videos}
        arguments.json.write_text(json.dumps(numbers | {"size": arguments.size, "device": arguments.device}, indent=2))


if __name__ == "__main__":
    main()
