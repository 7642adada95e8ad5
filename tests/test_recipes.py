"""Every recipe of the package can be read, built and trained."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import evaluate, train
from pipeline.config import RECIPES, load_recipe, recipe_names
from pipeline.models import build_model, load_published, save_published
from pipeline.objectives import build_loss
from pipeline.text.words import WordVectors
from pipeline.training.logging import read_rows
from tests.shards.samples import WORDS
from tests.tiny_run import write_tiny_shards

recipe_of = functools.cache(load_recipe)
TRAINED = [name for name in recipe_names() if "demo" not in name]
FINE_TUNING = [name for name in TRAINED if name.endswith(("youcook2", "msrvtt"))]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_shards(tmp_path_factory.mktemp("recipes") / "shards")
    WordVectors(WORDS, np.ones((len(WORDS), 4), np.float32)).save(folder / "words.parquet")
    return folder


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_named_as_its_file_and_says_what_it_is(name: str) -> None:
    recipe = recipe_of(name)
    assert recipe.name == name
    assert recipe.version >= 1
    assert recipe.description
    assert recipe == load_recipe(str(RECIPES / f"{name}.yaml"))


@pytest.mark.parametrize("name", TRAINED)
def test_network_and_loss_of_a_recipe_fit_each_other_at_full_size(name: str) -> None:
    recipe = recipe_of(name)
    with torch.device("meta"):
        model = build_model(recipe.model)
        build_loss(recipe.loss)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert 40e6 < parameters < 1.2e9


def made_small(name: str) -> list[str]:
    """Overrides with which a recipe takes milliseconds."""
    recipe = recipe_of(name)
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
        overrides += ["--model.cluster_hidden_dim", "4"]
    return overrides


@pytest.mark.parametrize("name", [name for name in TRAINED if name not in FINE_TUNING])
def test_a_recipe_trains_once_it_is_made_small(name: str, shards: Path, tmp_path: Path) -> None:
    recipe, overrides = recipe_of(name), made_small(name)
    train.main(["--recipe", name, "--shards", str(shards), "--run", str(tmp_path), *overrides])
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    terms = {key.removeprefix("loss/") for key in rows[0] if key.startswith("loss/")}
    if recipe.loss.name == "norm_softmax":
        assert terms == {key for key, weight in recipe.loss.weights.items() if weight}
    assert terms


@pytest.mark.parametrize("name", FINE_TUNING)
def test_fine_tuning_starts_from_a_released_file(name: str, shards: Path, tmp_path: Path) -> None:
    overrides = made_small(name)
    released = build_model(load_recipe(name, overrides).model)
    save_published(released, tmp_path / "released.pth")
    run = ["--shards", str(shards), "--run", str(tmp_path / "run")]
    still = ["--train.learning_rate", "0.0", "--init", str(tmp_path / "released.pth")]
    train.main(["--recipe", name, *run, *overrides, *still])
    tuned = load_published(tmp_path / "run" / "checkpoints" / "step-00000002.pt")
    assert tuned.settings == released.settings
    for parameter, expected in zip(tuned.parameters(), released.parameters(), strict=True):
        assert torch.equal(parameter, expected)
    evaluate.main(run)
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    directions = json.loads((tmp_path / "run" / "metrics.json").read_text())["retrieval"]
    assert {"avlnet": "a2v", "avlnet_text_fused": "ta2v", "mft": "t2va"}.get(
        released.settings.name, "t2v+a"
    ) in directions


def test_published_hyperparameters_of_avlnets_fine_tuning() -> None:
    expected = {
        "avlnet-youcook2": (5, 1e-4, "constant", 5120),
        "avlnet-msrvtt": (5, 1e-4, "constant", 3072),
        "avlnet-text-tri-youcook2": (3, 1e-4, "exponential", 5120),
        "avlnet-text-tri-msrvtt": (15, 1e-4, "constant", 3072),
        "avlnet-text-fused-youcook2": (5, 1e-5, "constant", 5120),
        "avlnet-text-fused-msrvtt": (5, 1e-5, "constant", 3072),
    }
    for name, values in expected.items():
        recipe = recipe_of(name)
        settings = recipe.train
        found = (settings.epochs, settings.learning_rate, settings.schedule, recipe.clips.max_audio_frames)
        assert found == values
        assert (settings.batch_videos, settings.decay, settings.precision) == (256, 0.9, "float32")
        assert settings.eval_mode
        assert recipe.loss.contrast == ("text_to_sum" if "tri" in name else "pairs")


def test_published_hyperparameters_of_the_two_papers() -> None:
    mft, mcn = recipe_of("mft"), recipe_of("mcn")
    assert (mft.train.batch_videos, mft.clips.per_video, mft.train.learning_rate, mft.train.decay) == (
        224,
        10,
        5e-5,
        0.9,
    )
    assert (mcn.train.batch_videos, mcn.clips.per_video, mcn.train.learning_rate) == (128, 32, 1e-4)
    assert (mcn.loss.queue_size, mcn.loss.clusters, mcn.train.warmup_steps) == (20, 256, 5000)
    assert dataclasses.asdict(recipe_of("mft-youcook2").loss)["weights"] == dict.fromkeys(mft.loss.weights, 1.0)
    assert recipe_of("mft-youcook2").train.eval_mode
