import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import localize, train
from pipeline.benchmarks.windows import Embedder, second_scores, windows_of_seconds
from pipeline.config import ClipSettings
from pipeline.datasets.crosstask import Task
from pipeline.errors import InputError
from pipeline.shards.batches import ClipReader
from pipeline.shards.clips import feature_window, time_to_frame
from pipeline.shards.decoding import decode_batch
from pipeline.shards.files import ShardError
from pipeline.shards.reader import ShardSet
from pipeline.text.words import WordVectors
from pipeline.types import Caption
from tests.shards.mending import flip, without_the_damaged_video
from tests.shards.samples import WORDS, make_sample, word_ids, write_shards
from tests.tiny_run import MCN, trained_for_a_step, write_recipe, write_tiny_shards

TASKS = "42\nMake a pancake\nhttps://example.org\n3\npour batter,flip it,first\n"
OTHER = "\n44\nBraise a leek\nhttps://example.org\n1\nwords without vectors\n"
"""A task of which there is no video, so that its words do not matter."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("localize")
    write_tiny_shards(folder / "shards")
    (folder / "tasks.txt").write_text(TASKS + OTHER)
    samples = []
    for number in range(3):
        sample = make_sample(f"video-{number}", seconds=14, split="val")
        sample.captions = [Caption(1.2, 3.0, "pour batter"), Caption(6.0, 8.5, "flip it")]
        sample.arrays["text"] = np.concatenate([word_ids(caption.text) for caption in sample.captions])
        sample.caption_words = [0, 2, 4]
        samples.append(sample)
    write_shards(folder / "crosstask", samples)
    (folder / "crosstask" / "words.parquet").write_bytes((folder / "shards" / "words.parquet").read_bytes())
    return folder


def arguments(folder: Path, run: Path) -> list[str]:
    tasks = str(folder / "tasks.txt")
    return ["--run", str(run), "--shards", str(folder / "crosstask"), "--tasks", tasks]


@pytest.mark.parametrize("model", ["mft", "mcn"])
def test_from_shards_to_table_and_pictures(
    folder: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, **(MCN if model == "mcn" else {}))
    run = tmp_path / "run"
    train.main(["--recipe", str(recipe), "--shards", str(folder / "shards"), "--run", str(run), "--train.steps", "1"])
    localize.main(arguments(folder, run))
    result = json.loads((run / "localization.json").read_text())
    assert result["videos"] == 3
    assert set(result["groups"]) == {"all", "cooking"}
    assert 0 <= result["tasks"]["42"]["recall"] <= 100
    assert result["tasks"]["42"]["title"] == "Make a pancake"
    page = (run / "localization.html").read_text()
    assert page.count("<svg") >= 3
    assert "flip it" in page and "of 2 steps found" in page
    assert "mean: all" in capsys.readouterr().err


def test_without_tasks_the_videos_own_segments_are_the_steps(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = str(write_recipe(tmp_path))
    train.main(["--recipe", recipe, "--shards", str(folder / "shards"), "--run", str(run), "--train.steps", "1"])
    around = ["--radius", "2", "--evaluate.step_sound", "6"]
    out = tmp_path / "figures" / "mining.json"
    localize.main(["--run", str(run), "--shards", str(folder / "crosstask"), *around, "--out", str(out)])
    result = json.loads(out.read_text())
    assert out.with_suffix(".html").exists()
    assert (result["radius"], result["sound"]) == (2, 6)
    assert set(result["tasks"]) == {"video-0", "video-1", "video-2"}
    assert set(result["groups"]) == {"all"}


def test_a_video_without_an_annotated_second_does_not_count(folder: Path, tmp_path: Path) -> None:
    samples = [
        dataclasses.replace(make_sample(f"video-{number}", seconds=6, modalities=("2d", "3d")), captions=[caption])
        for number, caption in enumerate((Caption(1, 3, "flip it"), Caption(1, 3, "narration"), Caption(7, 9, "first")))
    ]
    write_shards(tmp_path / "shards", samples)
    shutil.copy(folder / "shards" / "words.parquet", tmp_path / "shards")
    command = ["--run", trained_for_a_step(folder / "shards", tmp_path), "--shards", str(tmp_path / "shards")]
    localize.main([*command, "--tasks", str(folder / "tasks.txt")])
    result = json.loads((tmp_path / "run" / "localization.json").read_text())
    assert (result["videos"], result["tasks"]["42"]["videos"], result["splits"]) == (1, 1, {"train": 1})
    assert (tmp_path / "run" / "localization.html").read_text().count("<svg") == 1


class SecondModel(torch.nn.Module):
    """Video: its first feature; text: the first word's vector."""

    def forward(self, batch: dict) -> dict:
        present = batch["video_mask"].unsqueeze(2)
        video = (batch["video"] * present).sum(1)[:, :5] / present.sum(1).clamp(min=1)
        return {"text_embed": batch["text"][:, 0], "va_embed": video}


def test_scores_compare_every_second_with_every_step(folder: Path) -> None:
    shards = ShardSet(folder / "crosstask")
    words = WordVectors(WORDS, np.eye(len(WORDS), 5, dtype=np.float32))

    def prepare(batch: dict) -> dict:
        table = torch.cat([torch.from_numpy(words.vectors), torch.zeros(1, 5)])
        return {**decode_batch(batch), "text": table[batch["word_ids"].long()]}

    reader, task = ClipReader(shards, ClipSettings()), Task("42", "", ("first", "pour", "then"))
    embedder = Embedder(SecondModel(), prepare, reader, words)
    scores = second_scores(embedder, 1, task)
    assert scores.shape == (14, 3)
    assert (np.abs(scores) <= 1 + 1e-6).all()
    assert np.array_equal(scores, second_scores(Embedder(SecondModel(), prepare, reader, words, 2), 1, task))
    assert not np.allclose(second_scores(embedder, 1, task, radius=0), scores)
    assert np.allclose(second_scores(embedder, 1, Task("42", "", ("pour",)))[:, 0], scores[:, 1])


def test_a_second_may_be_heard_longer_than_it_is_seen() -> None:
    seen = windows_of_seconds(12, radius=1)
    assert seen.start[:2].tolist() == [0, 0] and seen.end[:2] == pytest.approx([2, 3], abs=2e-6)
    assert seen.audio_first.tolist() == time_to_frame(seen.start).tolist()
    heard = windows_of_seconds(12, radius=0, sound=8)
    assert heard.start.tolist() == list(range(12)) and heard.end == pytest.approx(range(1, 13), abs=2e-6)
    starts = np.array([0, 0, 0, 0, 0, 1, 2, 3, 4, 4, 4, 4])
    assert heard.audio_first.tolist() == time_to_frame(starts).tolist()
    assert heard.audio_stop.tolist() == time_to_frame(starts + 8).tolist()
    assert set(windows_of_seconds(5, radius=0, sound=8).audio_first.tolist()) == {0}
    for radius, sound in ((-1, None), (0, 0)):
        with pytest.raises(InputError, match="has to have a length"):
            windows_of_seconds(3, radius, sound)


@pytest.mark.parametrize("radius", [0, 1, 2])
@pytest.mark.parametrize("rate", [0.5, 1.0, 1.5, 24 / 16, 30000 / 1001 / 16, 25.0])
def test_a_second_has_the_features_that_lie_in_it(radius: int, rate: float) -> None:
    around = windows_of_seconds(600, radius)
    first, stop = feature_window(around.start, around.end, rate, round(600 * rate))
    seconds = range(600)
    assert first.tolist() == [math.floor(max(0, second - radius) * rate) for second in seconds]
    assert stop.tolist() == [math.ceil(min(second + radius + 1, 600) * rate - 1e-9) for second in seconds]


def test_shards_without_these_tasks_are_refused(folder: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    run = tmp_path / "run"
    train.main(["--recipe", str(recipe), "--shards", str(folder / "shards"), "--run", str(run), "--train.steps", "1"])
    (tmp_path / "other.txt").write_text(TASKS.replace("42", "43"))
    changed = [*arguments(folder, run)[:-1], str(tmp_path / "other.txt")]
    with pytest.raises(InputError, match=r"no video with a caption that is a step of one of these tasks$"):
        localize.main(changed)
    with pytest.raises(InputError, match="no video with any caption in split nosuch"):
        localize.main([*arguments(folder, run)[:-2], "--split", "nosuch"])


def test_a_damaged_video_gives_no_figures_or_is_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained_for_a_step(folder / "shards", tmp_path)
    told = without_the_damaged_video(localize.main, run, folder / "crosstask", tmp_path / "damaged", capsys)
    assert "localize: 2 videos (1 damaged left out)" in told
    result = json.loads((tmp_path / "run" / "localization.json").read_text())
    assert (result["videos"], result["left_out"]) == (2, 1)


def test_videos_of_other_splits_may_be_damaged_and_not_all_of_this_one(folder: Path, tmp_path: Path) -> None:
    run, damaged = trained_for_a_step(folder / "shards", tmp_path), tmp_path / "damaged"
    shutil.copytree(folder / "crosstask", damaged)
    for row in ShardSet(damaged).table.to_pylist():
        flip(damaged / "set-w0-000000.tar", row["json_offset"])
    with pytest.raises(ShardError, match=r"all videos are damaged: .*set-w0-000000\.tar"):
        localize.main(["--run", run, "--shards", str(damaged), "--clips.damaged", "skip"])
    with pytest.raises(InputError, match="no video with any caption in split test"):
        localize.main(["--run", run, "--shards", str(damaged), "--split", "test"])
