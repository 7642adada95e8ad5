"""Pretraining and fine-tuning do what they are for, on a corpus whose sight and words belong together."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline import evaluate, train
from pipeline.shards.sample import Sample, encode_captions
from pipeline.text.words import WordVectors
from pipeline.types import Caption
from tests.shards.samples import write_shards
from tests.tiny_run import RECIPE, write_recipe

WORDS = [f"word{number}" for number in range(16)]
LOOKS = np.random.default_rng(7).standard_normal((2, 16, 11)).astype(np.float32)
"""How each word looks in the first and in the second corpus."""
CLIPS = {"sampling": "mcn", "seconds": 0.1, "per_video": 4, "misaligned_audio": False, "max_words": 6}
CLIPS |= {"max_video_tokens": 4, "max_audio_frames": 64}


def narrated(video_id: str, looks: np.ndarray, split: str) -> Sample:
    """Four captions of two words each; meanwhile the features are those words' looks, and some noise."""
    random = np.random.default_rng([*video_id.encode()])
    captions, features = [], random.normal(0, 0.4, (12, 11)).astype(np.float32)
    for start in range(0, 12, 3):
        words = random.choice(16, 2, replace=False)
        captions.append(Caption(float(start), start + 2.9, " ".join(WORDS[word] for word in words)))
        features[start : start + 3] += looks[words].mean(0)
    vectors = WordVectors(WORDS, np.zeros((16, 1), np.float32))
    text, offsets = encode_captions(captions, vectors.ids)
    arrays = {"text": text, "2d": features[:, :6].astype(np.float16), "3d": features[:, 6:].astype(np.float16)}
    rates = {"2d": 1.0, "3d": 1.0}
    return Sample(video_id, 12.0, captions, arrays, rates, offsets, split=split)


def corpus(folder: Path, name: str, looks: np.ndarray, videos: int) -> Path:
    samples = [narrated(f"{name}-train-{number}", looks, "train") for number in range(videos)]
    samples += [narrated(f"{name}-test-{number}", looks, "test") for number in range(15)]
    write_shards(folder / name, samples)
    words = np.random.default_rng(3).standard_normal((16, 5)).astype(np.float32)
    WordVectors(WORDS, words).save(folder / name / "words.parquet")
    return folder / name


@pytest.mark.slow
def test_pretraining_transfers_and_fine_tuning_improves_on_it(tmp_path: Path) -> None:
    first = corpus(tmp_path, "first", LOOKS[0], 60)
    second = corpus(tmp_path, "second", 0.75 * LOOKS[0] + 0.65 * LOOKS[1], 16)
    model = {**RECIPE["model"], "text_video_only": True, "embed_dim": 32, "projection_dim": 16}
    settings = {"batch_videos": 8, "steps": 150, "learning_rate": 3e-3, "schedule": "constant", "workers": 0}
    recipe = str(write_recipe(tmp_path, model=model, clips=CLIPS, loss={"weights": {"tv": 1.0}}, train=settings))

    def recall(run: str, *more: str) -> float:
        evaluate.main(["--run", str(tmp_path / run), "--shards", str(second), *more])
        return json.loads((tmp_path / run / "metrics.json").read_text())["retrieval"]["t2v"]["R5"]

    def trained(run: str, shards: Path, *more: str) -> None:
        train.main(["--recipe", recipe, "--shards", str(shards), "--run", str(tmp_path / run), *more])

    short = ("--train.steps", "40", "--train.learning_rate", "1e-3")
    trained("pretrained", first)
    trained("from-scratch", second, *short)
    checkpoint = tmp_path / "pretrained" / "checkpoints" / "step-00000150.pt"
    trained("fine-tuned", second, *short, "--init", str(checkpoint), "--train.eval_mode", "true")
    zero_shot, scratch, tuned = recall("pretrained"), recall("from-scratch"), recall("fine-tuned")
    chance = 100 * 5 / 60
    assert zero_shot > 2 * chance
    assert tuned > zero_shot + 5
    assert tuned > scratch + 5
