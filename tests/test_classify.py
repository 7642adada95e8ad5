import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline import classify, train
from pipeline.errors import InputError
from pipeline.shards.files import ShardError
from pipeline.shards.reader import ShardSet
from pipeline.text.words import WordVectors
from tests.shards.mending import copy_with_a_flipped_feature, flip, without_the_damaged_video
from tests.shards.samples import make_sample, write_shards
from tests.tiny_run import MCN, trained_for_a_step, write_recipe, write_tiny_shards


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classify")
    write_tiny_shards(folder / "shards")
    for kind, modalities in (("ucf", ("2d", "3d", "audio")), ("silent", ("2d", "3d"))):
        samples = [
            dataclasses.replace(
                make_sample(f"{name}-{number}", seconds=10, split="test", modalities=modalities), category_1=name
            )
            for name in ("PourBatter", "flip_it", "First")
            for number in range(4)
        ]
        write_shards(folder / kind, samples)
        (folder / kind / "words.parquet").write_bytes((folder / "shards" / "words.parquet").read_bytes())
    return folder


@pytest.mark.parametrize("model", ["mft", "mcn"])
def test_from_shards_to_figures(folder: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(write_recipe(tmp_path, **(MCN if model == "mcn" else {})))
    run = str(tmp_path / "run")
    train.main(["--recipe", recipe, "--shards", str(folder / "shards"), "--run", run, "--train.steps", "1"])
    classify.main(["--run", run, "--shards", str(folder / "ucf")])
    result = json.loads((tmp_path / "run" / "classes.json").read_text())
    assert result["classes"] == ["First", "PourBatter", "flip_it"]
    assert result["videos"] == 12
    assert result["top5"] == 100.0
    assert 0 <= result["top1"] <= 100
    assert {"nmi", "accuracy", "entropy", "purity"} <= set(result)
    assert result["chance"] == pytest.approx(100 / 3)
    told = capsys.readouterr().err
    assert "zero-shot, top 1" in told and "one class" not in told
    classify.main(["--run", run, "--shards", str(folder / "silent"), "--out", str(tmp_path / "silent.json")])
    assert json.loads((tmp_path / "silent.json").read_text()) == result  # what counts is what is seen
    with pytest.raises(InputError, match="fewer than two classes"):
        classify.main(["--run", run, "--shards", str(folder / "shards")])


def test_one_vector_of_a_video_is_the_mean_of_its_features(folder: Path, tmp_path: Path) -> None:
    samples = [
        dataclasses.replace(make_sample(f"{name}-{number}", 10, 3, ("2d", "3d"), "test"), category_1=name)
        for name in ("PourBatter", "flip_it", "First")
        for number in range(8)
    ]
    still = [
        dataclasses.replace(
            sample,
            arrays={
                key: np.broadcast_to(array.mean(axis=0, dtype=np.float32).astype(np.float16), array.shape).copy()
                for key, array in sample.arrays.items()
            },
        )
        for sample in samples
    ]
    recipe, run = str(write_recipe(tmp_path, **MCN)), str(tmp_path / "run")
    train.main(["--recipe", recipe, "--shards", str(folder / "shards"), "--run", run, "--train.steps", "1"])
    found = []
    for kind, chosen in (("moving", samples), ("still", still)):
        write_shards(tmp_path / kind, chosen)
        (tmp_path / kind / "words.parquet").write_bytes((folder / "shards" / "words.parquet").read_bytes())
        classify.main(["--run", run, "--shards", str(tmp_path / kind), "--out", str(tmp_path / f"{kind}.json")])
        found.append(json.loads((tmp_path / f"{kind}.json").read_text()))
    assert found[0] == found[1]


def test_a_class_without_any_known_word_is_refused(folder: Path, tmp_path: Path) -> None:
    recipe = str(write_recipe(tmp_path, extract={"words": "corpus"}))
    run = str(tmp_path / "run")
    train.main(["--recipe", recipe, "--shards", str(folder / "shards"), "--run", run, "--train.steps", "1"])
    samples = [dataclasses.replace(make_sample(f"v{number}", seconds=10), category_1=name)
               for number, name in enumerate(["PourBatter", "YoYo"])]  # fmt: skip
    write_shards(tmp_path / "ucf", samples)
    (tmp_path / "ucf" / "words.parquet").write_bytes((folder / "shards" / "words.parquet").read_bytes())
    with pytest.raises(InputError, match=r"no word of 'yo yo' has a vector in corpus.*shards/<name>/words\.parquet"):
        classify.main(["--run", run, "--shards", str(tmp_path / "ucf")])
    known = WordVectors.load(folder / "shards" / "words.parquet")
    more = WordVectors([*known.words, "yo"], np.vstack([known.vectors, np.ones(known.dim)]))
    more.save(tmp_path / "words.parquet")
    classify.main(["--run", run, "--shards", str(tmp_path / "ucf"), "--extract.words", str(tmp_path / "words.parquet")])
    assert json.loads((tmp_path / "run" / "classes.json").read_text())["classes"] == ["PourBatter", "YoYo"]
    WordVectors(more.words, -more.vectors).save(tmp_path / "words.parquet")
    others = ("--extract.words", str(tmp_path / "words.parquet"))
    with pytest.raises(InputError, match="has another vector here than in the shards"):
        classify.main(["--run", run, "--shards", str(tmp_path / "ucf"), *others])


def test_classes_that_no_known_word_tells_apart_are_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    recipe = str(write_recipe(tmp_path, extract={"words": "corpus"}))
    train.main(["--recipe", recipe, "--shards", str(folder / "shards"), "--run", run, "--train.steps", "1"])
    samples = [dataclasses.replace(make_sample(f"v{number}", seconds=10), category_1="any", category_2=name)
               for number, name in enumerate(["flip yo", "flip yoyo", "pour"])]  # fmt: skip
    write_shards(tmp_path / "ucf", samples)
    (tmp_path / "ucf" / "words.parquet").write_bytes((folder / "shards" / "words.parquet").read_bytes())
    with pytest.raises(InputError, match="fewer than two classes; a video's class is category_1"):
        classify.main(["--run", run, "--shards", str(tmp_path / "ucf")])
    classify.main(["--run", run, "--shards", str(tmp_path / "ucf"), "--category", "2"])
    told = " ".join(capsys.readouterr().err.split())
    assert "tell flip yo, flip yoyo apart have no vectors: to the model they are one class" in told
    assert json.loads((tmp_path / "run" / "classes.json").read_text())["classes"] == ["flip yo", "flip yoyo", "pour"]


def test_a_damaged_video_gives_no_figures_or_is_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained_for_a_step(folder / "shards", tmp_path)
    told = without_the_damaged_video(classify.main, run, folder / "ucf", tmp_path / "damaged", capsys)
    assert "11 videos (1 damaged left out) of 3 classes" in told
    result = json.loads((tmp_path / "run" / "classes.json").read_text())
    assert (result["videos"], result["left_out"]) == (11, 1)


def test_a_model_without_text_is_refused_before_the_work(folder: Path, tmp_path: Path) -> None:
    clips = {**MCN["clips"], "sampling": "avlnet"}
    model = {**MCN["model"], "name": "avlnet", "reconstruction_dim": None}
    recipe = str(
        write_recipe(tmp_path, **{**MCN, "clips": clips, "model": model, "loss": {"name": "mcn", "clusters": 0}})
    )
    run = str(tmp_path / "run")
    train.main(["--recipe", recipe, "--shards", str(folder / "shards"), "--run", run, "--train.steps", "1"])
    copy_with_a_flipped_feature(folder / "ucf", tmp_path / "damaged")
    with pytest.raises(InputError, match="no embedding of text alone"):
        classify.main(["--run", run, "--shards", str(tmp_path / "damaged")])


def test_damaged_videos_take_their_classes_with_them(folder: Path, tmp_path: Path) -> None:
    run, damaged = trained_for_a_step(folder / "shards", tmp_path), tmp_path / "damaged"
    shutil.copytree(folder / "ucf", damaged)
    rows = ShardSet(damaged).table.to_pylist()
    for row in rows[:4]:  # one class: what its videos are is not even to be read
        flip(damaged / "set-w0-000000.tar", row["json_offset"])
    skip = ["--run", run, "--shards", str(damaged), "--clips.damaged", "skip"]
    classify.main(skip)
    result = json.loads((tmp_path / "run" / "classes.json").read_text())
    assert (result["videos"], result["left_out"], result["classes"]) == (8, 4, ["First", "flip_it"])
    for row in rows[4:]:
        flip(damaged / "set-w0-000000.tar", row["2d_offset"])
    with pytest.raises(ShardError, match=r"all videos are damaged: .*set-w0-000000\.tar"):
        classify.main(skip)
