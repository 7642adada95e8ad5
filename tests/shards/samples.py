"""Small samples that the tests of the shards share."""

from pathlib import Path

import numpy as np
import torch

from pipeline.shards import decoding
from pipeline.shards.clips import token_features
from pipeline.shards.sample import Sample, encode_captions
from pipeline.shards.writer import ShardWriter
from pipeline.types import Caption

WORDS = ["first", "pour", "the", "batter", "then", "flip", "it"]


def word_ids(text):
    return np.array([WORDS.index(word) for word in text.split() if word in WORDS], np.int32)


def make_sample(video_id, seconds=30, seed=0, modalities=("text", "2d", "3d", "audio"), split="train", every=4.0):
    """A sample of seeded noise with a caption every ``every`` seconds, each of three words."""
    generator = np.random.default_rng([seed, *video_id.encode()])
    captions = [
        Caption(float(start), float(start) + 0.75 * every, " ".join(generator.choice(WORDS, 3)))
        for start in np.arange(0, seconds - every, every)
    ]
    text, offsets = encode_captions(captions, word_ids)
    arrays = {
        "text": text,
        "2d": generator.standard_normal((seconds, 6)).astype(np.float16),
        "3d": generator.standard_normal((seconds * 3 // 2, 5)).astype(np.float16),
        "audio": generator.uniform(-80, 0, (seconds * 100, 40)).astype(np.float16),
    }
    return Sample(
        video_id=video_id,
        duration=float(seconds),
        captions=captions if "text" in modalities else [],
        arrays={name: arrays[name] for name in modalities},
        rates={"2d": 1.0, "3d": 1.5, "audio": 100.0},
        caption_words=offsets if "text" in modalities else [0],
        recipe="0123abcd",
        backbones={"2d": "seeded_2d@1"},
        notes=["no sound"] if "audio" not in modalities else [],
        split=split,
        category_1="Food",
        task_id="42",
    )


def small_sample(video_id):
    """A sample of three kilobytes."""
    return make_sample(video_id, seconds=8, modalities=("text", "2d"))


def write_shards(folder: Path, samples, shard_bytes=1_000_000, name="set", writer="w0"):
    with ShardWriter(folder, name, writer, shard_bytes) as shard_writer:
        for sample in samples:
            shard_writer.add(sample)
    return folder


def assert_same(found, expected):
    assert found.captions == expected.captions
    assert sorted(found.arrays) == sorted(expected.arrays)
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
        assert found.arrays[name].dtype == array.dtype


def video_tokens(features_2d, features_3d, count, strategy):
    """A clip's tokens ``[max(count, 1), D2 + D3]`` and their mask, made of its whole features."""
    tracks = [track for track in (features_2d, features_3d) if track is not None]
    chosen = token_features(tracks, count, strategy)
    padded = [np.zeros((1, max(count, 1), track.shape[1]), track.dtype) for track in chosen]
    for target, track in zip(padded, chosen, strict=True):
        target[0, : len(track)] = track
    if features_2d is None:
        padded.insert(0, padded[0][:, :, :0])
    elif features_3d is None:
        padded.append(padded[0][:, :, :0])
    first, second = map(torch.from_numpy, padded)
    video = decoding.video_tokens(first, torch.arange(first.shape[1])[None], second)
    return video[0].numpy(), (np.arange(first.shape[1]) < max(map(len, chosen))).astype(np.float32)
