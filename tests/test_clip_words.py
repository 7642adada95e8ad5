"""CLIP's text from released features and a released checkpoint to figures, with seeded weights."""

import dataclasses
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import classify, convert, evaluate, localize, train
from pipeline.errors import InputError
from pipeline.models import load_published
from pipeline.shards.evaluation import evaluation_clips
from pipeline.shards.reader import ShardSet
from pipeline.text.clip_vocabulary import ClipVocabulary
from pipeline.text.words import WordVectors
from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.runs import load_trained
from tests.backbones.hub import put_clip_text
from tests.shards.samples import make_sample, write_shards

pytestmark = pytest.mark.slow

CAPTIONS = ["pour the batter", "whisk the zabaglione -- gently!", "flip it", "then serve it with syrup"]
SMALL = [
    *("--clips.max_video_tokens", "6", "--clips.max_audio_frames", "128", "--model.embed_dim", "16"),
    *("--model.projection_dim", "8", "--model.heads", "2", "--model.davenet_width", "2", "--train.batch_videos", "4"),
    *("--train.steps", "2", "--train.workers", "0", "--train.precision", "float32", "--train.log_every", "1"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Clips as they were released, converted; a run on them; CLIP's weights."""
    pytest.importorskip("open_clip")
    folder = tmp_path_factory.mktemp("clip")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        put_clip_text(folder / "torch")
        write_released(folder)
        command = ["pkl", *(f"{split}={folder}/resnet-{split}.pkl" for split in ("train", "test"))]
        command += ["--features", *(f"{split}={folder}/clip-{split}.pkl" for split in ("train", "test"))]
        convert.main([*command, "--key-2d", "clip", "--complete", "--words", "clip", "--shards", f"{folder}/shards"])
        train.main(["--recipe", "mft-clip-youcook2", *places(folder), *SMALL])
        yield folder


def write_released(folder: Path) -> None:
    """The clips' first file has sound, captions and other features; CLIP's are in one of their own."""
    generator = np.random.default_rng(1)
    for split, count in (("train", 6), ("test", 5)):
        clips, features = [], []
        for place in range(count):
            wide = generator.standard_normal((7, 9)).astype(np.float32)
            sound = generator.uniform(-80, 0, (40, 500)).astype(np.float32)
            clips.append({"id": f"{split}{place}", "2d": wide.max(0), "2d_full": wide, "3d": wide.max(0),
                          "audio": sound, "caption": f"{CAPTIONS[place % 4]} {place}"})  # fmt: skip
            features.append({"id": f"{split}{place}", "clip": generator.standard_normal((5 + place, 512))})
        del clips[-1]["2d"], clips[-1]["2d_full"]
        (folder / f"resnet-{split}.pkl").write_bytes(pickle.dumps(clips))
        (folder / f"clip-{split}.pkl").write_bytes(pickle.dumps(features))


def places(folder: Path) -> list[str]:
    return ["--shards", str(folder / "shards"), "--run", str(folder / "run")]


def figures(run: Path, name: str = "metrics.json") -> dict:
    return json.loads((run / name).read_text())


def test_shards_hold_clips_pieces_and_clips_features(folder: Path) -> None:
    shards = ShardSet(folder / "shards")
    assert sorted(shards.ids) == [f"test{place}" for place in range(4)] + [f"train{place}" for place in range(5)]
    sample = shards.read("test1")
    assert sample.arrays["2d"].shape == (6, 512)
    assert set(sample.arrays) == {"2d", "audio", "text"}
    assert sample.arrays["text"].tolist() == ClipVocabulary().ids("whisk the zabaglione gently 1").tolist()


def test_a_released_checkpoint_gives_figures(folder: Path, tmp_path: Path) -> None:
    evaluate.main(places(folder))
    expected = figures(folder / "run")
    assert expected["clips"] == 4 and expected["with_modality"] == {"t": 4, "v": 4, "a": 4}
    weights = read_checkpoint(folder / "run" / "checkpoints" / "step-00000002.pt")["model"]
    assert not any("token_embedding" in name for name in weights)
    released = tmp_path / "latest_model.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}, "epoch": 3}, released)
    command = ["--recipe", "mft-clip-youcook2", "--checkpoint", str(released), "--run", str(tmp_path), *SMALL]
    evaluate.main([*command, "--shards", str(folder / "shards")])
    assert figures(tmp_path)["retrieval"] == expected["retrieval"]

    model = load_published(released, heads=2)
    assert model.settings.text_dim == 512
    (batch,) = evaluation_clips(ShardSet(folder / "shards"), "test")
    prepared = load_trained(model.settings, released, folder / "shards").prepare(batch)
    assert prepared["text"].shape[2] == 512 and bool(prepared["text"].any())
    with torch.inference_mode():
        embedded = model(prepared)["text_embed"]
    assert len(embedded.unique(dim=0)) == 4


def test_steps_and_classes_are_named_in_clips_words(folder: Path, tmp_path: Path) -> None:
    localize.main(places(folder))
    assert figures(folder / "run", "localization.json")["videos"] == 9
    shards = ShardSet(folder / "shards")
    named = [
        dataclasses.replace(shards.read(name), category_1=("YoYo", "Zabaglione")[place % 2])
        for place, name in enumerate(shards.ids)
    ]
    write_shards(tmp_path / "named", named)
    (tmp_path / "named" / "words.parquet").write_bytes((folder / "shards" / "words.parquet").read_bytes())
    classify.main(["--run", str(folder / "run"), "--shards", str(tmp_path / "named")])
    found = figures(folder / "run", "classes.json")
    # shards with other words do as well: a class's name is all that is read
    WordVectors(["yo"], np.ones((1, 300), np.float32)).save(tmp_path / "named" / "words.parquet")
    classify.main(["--run", str(folder / "run"), "--shards", str(tmp_path / "named")])
    assert figures(folder / "run", "classes.json") == found


def test_words_of_another_kind_than_the_models(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="CLIP's text has 512 dimensions, the model takes 300"):
        train.main(["--recipe", "mft-youcook2", *places(folder), "--model.video_dim", "512", "--run", str(tmp_path)])
    write_shards(tmp_path / "words", [make_sample("test-0", split="test")])
    WordVectors(["flip"], np.ones((1, 300), np.float32)).save(tmp_path / "words" / "words.parquet")
    with pytest.raises(InputError, match="word vectors have 300 dimensions, the model takes 512"):
        evaluate.main(["--run", str(folder / "run"), "--shards", str(tmp_path / "words")])


def test_missing_weights_are_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match="CLIP's text tower: its weights could not be fetched"):
        evaluate.main(places(folder))
