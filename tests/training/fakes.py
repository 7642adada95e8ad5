"""A loader, a network and a loss that are as small as can be, and as random as the real ones."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import Recipe, TrainSettings
from pipeline.objectives import Loss
from pipeline.objectives.contrastive import ALL
from pipeline.training.loop import Outcome, train

torch.set_num_threads(1)
QUIET = Console(quiet=True)
VIDEOS = [f"video-{number}" for number in range(12)]


class FakeLoader:
    """Batches that follow from (seed, epoch, position): this rank's part of each."""

    def __init__(self, *, batch: int = 4, rank: int = 0, world_size: int = 1, poisoned: int | None = None) -> None:
        self.batch, self.rank, self.world_size, self.poisoned = batch, rank, world_size, poisoned
        self.epoch, self.position = 0, 0

    def __len__(self) -> int:
        return len(VIDEOS) // self.batch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        order = torch.randperm(len(VIDEOS), generator=torch.Generator().manual_seed(self.epoch))
        for position in range(self.position, len(self)):
            self.position = position + 1
            yield self._part(order[position * self.batch : (position + 1) * self.batch])
        self.epoch, self.position = self.epoch + 1, 0

    def _part(self, videos: Tensor) -> dict[str, Any]:
        size = len(videos) // self.world_size
        videos = videos[self.rank * size : (self.rank + 1) * size]
        values = [torch.randn(3, 6, generator=torch.Generator().manual_seed(int(video))) for video in videos]
        video = torch.stack(values)
        if self.poisoned in videos.tolist():
            video[0, 0, 0] = float("nan")
        return {"video": video, "video_mask": torch.ones(len(videos), 3), "video_index": videos}

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]


class FakeModel(nn.Module):
    """Two embeddings of a clip's video; batch norm and dropout make its state matter."""

    def __init__(self, dropout: float = 0.2, norm: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.second = nn.Linear(8, 5)
        self.unused = nn.Linear(2, 2)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        hidden = self.drop(self.norm(self.first(batch["video"].mean(1))))
        present = batch["video_mask"].any(dim=1)
        return {
            "video_embed": self.second(hidden),
            "text_embed": hidden[:, :5].sin(),
            "video_nonempty_input_mask": present,
        }


class FakeLoss(Loss):
    """Contrast of the two, with a buffer that changes as training goes on, as a queue would."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def share(self, outputs: dict[str, Tensor], own: slice = ALL) -> tuple[Tensor, dict[str, Tensor]]:
        clips = len(outputs["video_embed"])
        self.seen += clips
        logits = F.normalize(outputs["video_embed"])[own] @ F.normalize(outputs["text_embed"]).T
        losses = F.cross_entropy(logits / 0.1, torch.arange(clips)[own], reduction="none") + self.seen * 1e-3
        return losses.sum() / clips, {"tv": losses.sum().detach() / clips}


def recipe(**settings: Any) -> Recipe:
    return Recipe("fake", 1, "", train=TrainSettings(**{"log_every": 1, "learning_rate": 1e-2, **settings}))


def run_training(
    run: Path,
    state: dict[str, Any] | None = None,
    loader: FakeLoader | None = None,
    seconds: float | None = None,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    **settings: Any,
) -> Outcome:
    torch.manual_seed(7)
    model, loader = FakeModel(), loader or FakeLoader()
    keywords = {"state": state, "seconds": seconds, "validate": validate, "video_ids": VIDEOS}
    return train(recipe(**settings), model, FakeLoss(), loader, dict, run, QUIET, **keywords)


CLIPS = 8


def clips_batch() -> dict[str, Tensor]:
    """Clips of which some lack a modality; words are 10 wide, video tokens 12."""
    random = torch.Generator().manual_seed(3)
    batch = {
        "text": torch.randn(CLIPS, 6, 10, generator=random),
        "text_mask": torch.ones(CLIPS, 6),
        "video": torch.randn(CLIPS, 5, 12, generator=random),
        "video_mask": torch.ones(CLIPS, 5),
        "audio": torch.randn(CLIPS, 40, 96, generator=random),
        "audio_mask": torch.ones(CLIPS, 96),
        "audio_nframes": torch.full((CLIPS,), 96.0),
    }
    for number, name in enumerate(("text", "video", "audio")):
        batch[f"{name}_mask"][number] = 0
    batch["audio_nframes"][2] = 0
    return batch
