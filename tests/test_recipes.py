"""Every recipe of the package can be read, built and trained."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import train
from pipeline.config import RECIPES, load_recipe, recipe_names
from pipeline.models import build_model
from pipeline.objectives import build_loss
from pipeline.text.words import WordVectors
from pipeline.training.logging import read_rows
from tests.shards.samples import WORDS
from tests.tiny_run import write_tiny_shards

TRAINED = [name for name in recipe_names() if "demo" not in name]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_shards(tmp_path_factory.mktemp("recipes") / "shards")
    WordVectors(WORDS, np.ones((len(WORDS), 4), np.float32)).save(folder / "words.parquet")
    return folder


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_named_as_its_file_and_says_what_it_is(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.version >= 1
    assert recipe.description
    assert recipe == load_recipe(str(RECIPES / f"{name}.yaml"))


@pytest.mark.parametrize("name", TRAINED)
def test_network_and_loss_of_a_recipe_fit_each_other_at_full_size(name: str) -> None:
    recipe = load_recipe(name)
    with torch.device("meta"):
        model = build_model(recipe.model)
        build_loss(recipe.loss)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert 40e6 < parameters < 1.2e9


@pytest.mark.parametrize("name", TRAINED)
def test_a_recipe_trains_once_it_is_made_small(name: str, shards: Path, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    tokens, frames = (0, 64) if recipe.clips.max_video_tokens == 0 else (4, 64)
    settings = {
        "clips.per_video": 2, "clips.max_video_tokens": tokens, "clips.max_audio_frames": frames,
        "model.video_dim": 11, "model.text_dim": 4, "model.embed_dim": 16, "model.projection_dim": 8,
        "model.heads": 2, "model.davenet_width": 2, "train.batch_videos": 4, "train.steps": 2, "train.workers": 0,
        "train.precision": "float32", "train.log_every": 1, "loss.clusters": min(recipe.loss.clusters, 3),
    }  # fmt: skip
    overrides = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    if recipe.model.reconstruction_dim is not None:
        overrides += ["--model.reconstruction_dim", "6"]
    if recipe.model.cluster_classes is not None:
        overrides += ["--model.cluster_classes", "3", "--model.cluster_projection_dim", "6"]
    train.main(["--recipe", name, "--shards", str(shards), "--run", str(tmp_path), *overrides])
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    terms = {key.removeprefix("loss/") for key in rows[0] if key.startswith("loss/")}
    if recipe.loss.name == "norm_softmax":
        assert terms == {key for key, weight in recipe.loss.weights.items() if weight}
    assert terms


def test_published_hyperparameters_of_the_two_papers() -> None:
    mft, mcn = load_recipe("mft"), load_recipe("mcn")
    assert (mft.train.batch_videos, mft.clips.per_video, mft.train.learning_rate, mft.train.decay) == (
        224,
        10,
        5e-5,
        0.9,
    )
    assert (mcn.train.batch_videos, mcn.clips.per_video, mcn.train.learning_rate) == (128, 32, 1e-4)
    assert (mcn.loss.queue_size, mcn.loss.clusters, mcn.train.warmup_steps) == (20, 256, 5000)
    assert dataclasses.asdict(load_recipe("mft-youcook2").loss)["weights"] == dict.fromkeys(mft.loss.weights, 1.0)
    assert load_recipe("mft-youcook2").train.eval_mode
