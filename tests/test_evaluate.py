import dataclasses
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline import classify, evaluate, localize, train
from pipeline.benchmarks.embeddings import DIRECTIONS
from pipeline.config import load_recipe
from pipeline.errors import InputError
from pipeline.models import build_model, save_published
from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.runs import best_checkpoint
from pipeline.types import Caption
from tests.shards.samples import make_sample, write_shards
from tests.tiny_run import MCN, write_recipe, write_tiny_shards


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    write_tiny_shards(folder / "shards")
    recipe = write_recipe(folder)
    arguments = ["--recipe", str(recipe), "--shards", str(folder / "shards"), "--run", str(folder / "run")]
    train.main([*arguments, "--train.steps", "2"])
    return folder


def run(folder: Path, *more: str) -> dict:
    evaluate.main(["--run", str(folder / "run"), "--shards", str(folder / "shards"), *more])
    return json.loads((folder / "run" / "metrics.json").read_text())


def test_all_directions_against_chance(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = run(folder)
    assert metrics["clips"] == 6
    assert list(metrics["retrieval"]) == list(DIRECTIONS)
    assert metrics["chance"]["R1"] == pytest.approx(100 / 6)
    assert metrics["seeded"] is True
    assert metrics["with_modality"] == {"t": 6, "v": 6, "a": 6}
    assert metrics["retrieval"]["t2va"]["R10"] == 100.0
    shown = " ".join(capsys.readouterr().err.split())  # a title may be wrapped anywhere
    assert "t → va" in shown
    assert "seeded stand-ins" in shown


def test_the_same_each_time_whatever_the_batch(folder: Path) -> None:
    first = run(folder)
    assert run(folder)["retrieval"] == first["retrieval"]
    assert run(folder, "--evaluate.batch_clips", "4")["retrieval"] == first["retrieval"]


def test_missing_clips_count_as_misses(folder: Path) -> None:
    whole, half = run(folder), run(folder, "--total", "12")
    assert half["total"] == 12
    for direction, values in whole["retrieval"].items():
        assert half["retrieval"][direction]["R5"] == pytest.approx(values["R5"] / 2)
        assert half["retrieval"][direction]["MedR"] == values["MedR"]
    assert half["chance"]["R1"] == pytest.approx(whole["chance"]["R1"] / 2)


def test_results_of_several_test_sets_lie_side_by_side(folder: Path) -> None:
    out = str(folder / "run" / "youcook2.json")
    evaluate.main(["--run", str(folder / "run"), "--shards", str(folder / "shards"), "--out", out])
    written = {path.name for path in (folder / "run").glob("youcook2*")}
    assert written == {"youcook2.json", "youcook2-ranks.parquet", "youcook2-retrieval.html"}


def test_clips_that_only_their_captions_tell_apart_are_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(folder)
    assert "tell those apart" not in capsys.readouterr().err
    shutil.copytree(folder / "run", tmp_path / "run")
    sample = make_sample("test-0", seconds=12, split="test")
    first, second = sample.captions
    sample.captions = [first, Caption(*first[:2], second.text)]
    write_shards(tmp_path / "shards", [sample, make_sample("test-1", seconds=12, split="test")])
    shutil.copy(folder / "shards" / "words.parquet", tmp_path / "shards")
    metrics = run(tmp_path)["retrieval"]
    assert "2 of 4 clips show the same stretch of video as another" in " ".join(capsys.readouterr().err.split())
    assert metrics["t2v"]["R1"] <= 50.0


def test_files_in_place_of_folders_are_told(folder: Path) -> None:
    checkpoint = folder / "run" / "checkpoints" / "step-00000002.pt"
    with pytest.raises(InputError, match="this is a file; give the run's folder, and a checkpoint with --checkpoint"):
        evaluate.main(["--run", str(checkpoint), "--shards", str(folder / "shards")])
    tar = next((folder / "shards").glob("*.tar"))
    with pytest.raises(InputError, match=r"\.tar: this is a file; give the folder of shards that it is in"):
        run(folder, "--shards", str(tar))


def test_results_are_not_asked_for_in_place_of_a_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(folder, "--out", str(tmp_path))
    assert f"{tmp_path} is a folder: give a file in it" in capsys.readouterr().err


def test_another_split(folder: Path) -> None:
    assert run(folder, "--split", "train")["clips"] == 18


def test_mistakes_are_told_in_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no run"):
        evaluate.main(["--run", str(tmp_path), "--shards", str(folder / "shards")])
    with pytest.raises(InputError, match="no video with captions in split nothing"):
        run(folder, "--split", "nothing")
    with pytest.raises(InputError, match="--total 3: but 6 clips are there"):
        run(folder, "--total", "3")


def test_ranks_of_every_clip_are_written(folder: Path) -> None:
    metrics = run(folder)
    table = pq.read_table(folder / "run" / "ranks.parquet")
    assert table["clip_id"].to_pylist()[:2] == ["test-0/0", "test-0/1"]
    assert all(table["text"].to_pylist())
    assert float(np.median(table["t2va"].to_numpy())) == metrics["retrieval"]["t2va"]["MedR"]


@pytest.mark.parametrize("strategy", ["at_once", "cut", "max_pool", "nearest"])
def test_strategies_for_clips_longer_than_a_training_window(folder: Path, strategy: str) -> None:
    short = run(folder)["retrieval"]
    long = run(folder, "--evaluate.strategy", strategy, "--evaluate.windows", "2")
    assert long["strategy"] == strategy
    assert long["settings"]["evaluate"]["windows"] == 2
    assert "at most 2 training windows of each" in (folder / "run" / "retrieval.html").read_text()
    assert long["clips"] == 6
    assert long["retrieval"]["v2t"] != short["v2t"] or long["retrieval"]["a2t"] != short["a2t"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["--clips.max_audio_frames", "4"], "needs sound of a token or more"),
        (["--evaluate.max_words", "30", "--model.positions", "true", "--model.max_audio_tokens", "9",
          "--model.max_video_tokens", "9", "--model.max_text_tokens", "9", "--evaluate.strategy", "at_once"],
         r"up to 30 text tokens, but the model knows 9 positions .*lower evaluate\.max_words"),
        (["--model.positions", "true", "--model.max_audio_tokens", "3", "--model.max_video_tokens", "4",
          "--model.max_text_tokens", "9"], r"positions of 3: set clips\.max_audio_frames to 3 x 16"),
    ],
)  # fmt: skip
def test_strategies_that_the_sound_does_not_fit(folder: Path, settings: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        run(folder, "--evaluate.strategy", "max_pool", *settings)


def test_a_published_checkpoint_needs_no_run(folder: Path, tmp_path: Path) -> None:
    expected = run(folder)["retrieval"]
    weights = read_checkpoint(folder / "run" / "checkpoints" / "step-00000002.pt")["model"]
    published = tmp_path / "latest_model.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}, "epoch": 3}, published)
    out = tmp_path / "published"
    arguments = ["--run", str(out), "--shards", str(folder / "shards"), "--recipe", str(folder / "tiny.yaml")]
    evaluate.main([*arguments, "--checkpoint", str(published)])
    assert json.loads((out / "metrics.json").read_text())["retrieval"] == expected
    different = r"is of another model than the recipe's: its \w+\.fc\.weight is \[8, 16\], the recipe's \[4, 16\]"
    with pytest.raises(InputError, match=different):
        evaluate.main([*arguments, "--checkpoint", str(published), "--model.projection_dim", "4"])
    (tmp_path / "mcn").mkdir()
    own, arguments[-1] = folder / "run" / "checkpoints" / "step-00000002.pt", str(write_recipe(tmp_path / "mcn", **MCN))
    with pytest.raises(InputError, match=r"it has no \S+ \(and \d+ more\), it was trained with recipe tiny"):
        evaluate.main([*arguments, "--checkpoint", str(own)])


@pytest.mark.parametrize(
    ("content", "said"),
    [("[]", "names no checkpoint"), ("null", "names no checkpoint"), ('{"st', "names no checkpoint"),
     ('{"step": 1, "score": 2.0}', "names step 1, which is not there")],
)  # fmt: skip
def test_a_best_checkpoint_that_cannot_be_had_is_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, said: str
) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "best.json").write_text(content)
    evaluate.main(["--run", str(tmp_path / "run"), "--shards", str(folder / "shards")])
    told = " ".join(capsys.readouterr().err.split())
    assert f"{said}: taking the last checkpoint, step-00000002.pt" in told


def two_classes(folder: Path, shards: Path) -> Path:
    """Shards of two short videos that every verb can look at."""
    samples = [dataclasses.replace(make_sample(name, 8, split="test"), category_1=name) for name in ("pour", "flip")]
    write_shards(shards, samples)
    shutil.copy(folder / "shards" / "words.parquet", shards)
    return shards


@pytest.mark.parametrize("verb", [evaluate, localize, classify])
def test_a_checkpoint_that_its_training_removes_meanwhile_is_replaced_by_the_one_that_is_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: ModuleType
) -> None:
    gone = folder / "run" / "checkpoints" / "step-00000001.pt"
    shards = two_classes(folder, tmp_path / "shards")
    command = ["--run", str(folder / "run"), "--shards", str(shards), "--out", str(tmp_path / "out.json")]
    choices = [gone, best_checkpoint(folder / "run")]
    monkeypatch.setattr("pipeline.training.runs.best_checkpoint", lambda run: choices.pop(0))
    verb.main(command)
    assert json.loads((tmp_path / "out.json").read_text())["checkpoint"] == "step-00000002.pt"
    told = " ".join(capsys.readouterr().err.split())
    assert "step-00000001.pt is not there any more, as its run is being trained: taking step-00000002.pt" in told
    assert f"step-00000002.pt → {tmp_path / 'out.json'}" in told
    with pytest.raises(InputError, match=r"step-00000001\.pt: there is no such checkpoint file"):
        verb.main([*command, "--checkpoint", str(gone)])


def test_a_damaged_checkpoint_gives_no_figures(folder: Path, tmp_path: Path) -> None:
    data = bytearray((folder / "run" / "checkpoints" / "step-00000002.pt").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 256] = bytes(256)
    (tmp_path / "damaged.pt").write_bytes(data)
    with pytest.raises(InputError, match=r"damaged\.pt: damaged, or no checkpoint .*does not have its checksum"):
        run(folder, "--checkpoint", str(tmp_path / "damaged.pt"))


def test_another_number_of_heads_is_refused_though_it_fits(folder: Path) -> None:
    with pytest.raises(InputError, match=r"was trained with model\.heads 2, not 4"):
        run(folder, "--model.heads", "4")


@pytest.mark.parametrize(
    ("released", "said"),
    [({"heads": 4}, r"trained with model\.heads 4, not 2"), ({"text_video_only": True}, "trained without sound")],
)
def test_settings_that_come_with_a_published_checkpoint_count(
    folder: Path, tmp_path: Path, released: dict[str, Any], said: str
) -> None:
    own = load_recipe(str(folder / "tiny.yaml")).model
    save_published(build_model(dataclasses.replace(own, **released)), tmp_path / "latest_model.pth")
    state = torch.load(tmp_path / "latest_model.pth", weights_only=True)
    torch.save({"state_dict": state["state_dict"]}, tmp_path / "latest_model.pth")  # its settings are beside it alone
    arguments = ["--run", str(tmp_path / "out"), "--shards", str(folder / "shards")]
    arguments += ["--recipe", str(folder / "tiny.yaml"), "--checkpoint", str(tmp_path / "latest_model.pth")]
    with pytest.raises(InputError, match=said):
        evaluate.main(arguments)
    setting, value = next(iter(released.items()))
    evaluate.main([*arguments, f"--model.{setting}", str(value).lower()])


@pytest.mark.parametrize(("factor", "what"), [(torch.nan, r"\S+ is"), (1e30, r"embeddings of \S+ are")])
def test_weights_that_are_not_finite_are_told(folder: Path, tmp_path: Path, factor: float, what: str) -> None:
    weights = read_checkpoint(folder / "run" / "checkpoints" / "step-00000002.pt")["model"]
    torch.save({"model": {name: value * factor for name, value in weights.items()}}, tmp_path / "lost.pt")
    with pytest.raises(InputError, match=rf"lost\.pt: its {what} not finite"):
        run(folder, "--checkpoint", str(tmp_path / "lost.pt"))
    shards = two_classes(folder, tmp_path / "shards")
    for verb in (localize, classify):
        with pytest.raises(InputError, match="not finite"):
            verb.main(
                ["--run", str(folder / "run"), "--shards", str(shards), "--checkpoint", str(tmp_path / "lost.pt")]
            )


def test_a_page_shows_figures_and_examples(folder: Path) -> None:
    run(folder, "--total", "10", "--whole-videos")
    page = (folder / "run" / "retrieval.html").read_text()
    for shown in (
        "t → va",
        "v+a → t",
        "chance",
        "4 missing",
        "4 more are missing",
        f"Split test of {folder / 'shards'}, clips at once, at most a training window of each; ",
        "weights step-00000002.pt",
        "Whole videos",
        "text 6, video 6, sound 6",
        "test-0/0",
        "what came first",
    ):
        assert shown in page
    assert "http" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("name", "directions"),
    [
        ("avlnet", {"v2a", "a2v"}),
        ("avlnet_text_fused", {"v2ta", "ta2v"}),
        ("mcn", {"t2v", "v2t", "t2a", "a2t", "v2a", "a2v", "t2v+a", "v+a2t", "v2t+a", "t+a2v", "a2t+v", "t+v2a"}),
    ],
)
def test_models_without_some_embeddings(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, directions: set[str]
) -> None:
    model = {**MCN["model"], "name": name, "reconstruction_dim": None}
    recipe = str(write_recipe(tmp_path, **{**MCN, "model": model, "loss": {"name": "mcn", "clusters": 0}}))
    arguments = ["--shards", str(folder / "shards"), "--run", str(tmp_path / "run")]
    train.main(["--recipe", recipe, *arguments, "--train.steps", "1", "--train.evaluate_every", "1"])
    evaluate.main([*arguments, "--whole-videos"])
    said = " ".join(capsys.readouterr().err.split())
    assert ("no embedding of text alone" in said) == ("t2v" not in directions)
    result = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(result["retrieval"]) == directions
    if "t2v" in directions:
        assert (result["whole_videos"]["direction"], result["whole_videos"]["videos"]) == ("t2v+a", 3)
        assert 0 <= result["whole_videos"]["average"]["R1"] <= 100
    else:
        assert "whole_videos" not in result
    assert (tmp_path / "run" / "retrieval.html").exists()
