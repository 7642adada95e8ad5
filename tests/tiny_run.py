"""Shards and a recipe so small that a training step takes milliseconds."""

from pathlib import Path

import numpy as np
import torch
import yaml

from pipeline import train
from pipeline.text.words import WordVectors
from tests.shards.samples import WORDS, make_sample, write_shards

# this process and those that a test starts are to add up in the same order
torch.set_num_threads(1)

RECIPE = {
    "name": "tiny",
    "version": 1,
    "description": "for tests",
    "seeded": True,
    "clips": {"per_video": 2, "seconds": 4.0, "max_words": 6, "max_video_tokens": 4, "max_audio_frames": 64},
    "model": {
        "video_dim": 11, "text_dim": 5, "embed_dim": 16, "projection_dim": 8, "heads": 2,
        "davenet": "small", "davenet_width": 4,
    },
    "train": {
        "batch_videos": 4, "steps": 12, "learning_rate": 1e-3, "checkpoint_every": 3, "workers": 0, "log_every": 1,
    },
    "evaluate": {"batch_clips": 16},
}  # fmt: skip

MCN = {
    **RECIPE,
    "clips": {
        "sampling": "mcn", "per_video": 4, "seconds": 4.0, "max_words": 6, "max_video_tokens": 0,
        "max_audio_frames": 64, "misaligned_audio": False,
    },
    "model": {
        "name": "mcn", "video_dim": 11, "text_dim": 5, "embed_dim": 16, "davenet": "small", "davenet_width": 4,
        "reconstruction_dim": 6,
    },
    "loss": {"name": "mcn", "clusters": 5, "queue_size": 3},
}  # fmt: skip


def write_recipe(folder: Path, **changes: dict) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **changes}))
    return path


def write_tiny_shards(folder: Path, train: int = 10, test: int = 3) -> Path:
    """``train`` and ``test`` videos; one has no sound, one no captions."""
    samples = [make_sample(f"train-{number}", seconds=12) for number in range(train - 2)]
    samples.append(make_sample("train-mute", seconds=12, modalities=("text", "2d", "3d")))
    samples.append(make_sample("train-silent", seconds=12, modalities=("2d", "3d", "audio")))
    samples += [make_sample(f"test-{number}", seconds=12, split="test") for number in range(test)]
    write_shards(folder, samples)
    vectors = np.random.default_rng(0).standard_normal((len(WORDS), 5)).astype(np.float32)
    WordVectors(WORDS, vectors).save(folder / "words.parquet")
    return folder


def trained_for_a_step(shards: Path, folder: Path) -> str:
    """A run in ``folder`` whose network has made one step; gives its path."""
    run = str(folder / "run")
    recipe = str(write_recipe(folder))
    train.main(["--recipe", recipe, "--shards", str(shards), "--run", run, "--train.steps", "1"])
    return run
