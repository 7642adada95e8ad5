import json
from pathlib import Path

import pytest

from pipeline import evaluate, train
from pipeline.benchmarks.embeddings import DIRECTIONS
from pipeline.errors import InputError
from tests.tiny_run import write_recipe, write_tiny_shards


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
    shown = capsys.readouterr().err
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


def test_another_split(folder: Path) -> None:
    assert run(folder, "--split", "train")["clips"] == 18


def test_mistakes_are_told_in_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no run"):
        evaluate.main(["--run", str(tmp_path), "--shards", str(folder / "shards")])
    with pytest.raises(InputError, match="no video with captions in split nothing"):
        run(folder, "--split", "nothing")
    with pytest.raises(InputError, match="--total 3: but 6 clips are there"):
        run(folder, "--total", "3")
