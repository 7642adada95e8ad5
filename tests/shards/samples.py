"""Small samples that the tests of the shards share."""

import io
import itertools
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch

from pipeline.shards import decoding
from pipeline.shards.clips import token_features
from pipeline.shards.files import stems
from pipeline.shards.index import write_index
from pipeline.shards.narrations import Narrations
from pipeline.shards.sample import Sample, encode_captions
from pipeline.shards.scan import scan
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


SMALL_BYTES = 4096


def small_sample(video_id):
    """A sample of ``SMALL_BYTES``, two captions and two arrays."""
    return make_sample(video_id, seconds=8, modalities=("text", "2d"))


def write_shards(folder: Path, samples, shard_bytes=1_000_000, name="set", writer="w0"):
    with ShardWriter(folder, name, writer, shard_bytes) as shard_writer:
        for sample in samples:
            shard_writer.add(sample)
    return folder


def without_times(folder: Path):
    """Makes shards those of a program that knew no ``times.npy``: neither in the tar nor in the index."""
    for stem in stems(folder, ".tar"):
        written = io.BytesIO()
        with tarfile.open(stem.tar) as old, tarfile.open(fileobj=written, mode="w", format=tarfile.USTAR_FORMAT) as new:
            for member in old:
                if not member.name.endswith(".times.npy"):
                    new.addfile(member, old.extractfile(member))
        data = written.getvalue().rstrip(b"\0")
        stem.tar.write_bytes(data + bytes(-len(data) % 512 + 1024))
        write_index(stem, list(scan(stem.tar)))
        table = pq.read_table(stem.index)
        pq.write_table(table.drop_columns("times_offset").replace_schema_metadata(table.schema.metadata), stem.index)
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


def same(first, second):
    """Whether two batches are the same to a network."""
    first, second = decoding.decode_batch(first), decoding.decode_batch(second)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def narrations_of(*videos):
    """Of videos whose captions start and end then; each caption is of one word, its number within all of them."""
    bounds = np.array([0, *itertools.accumulate(len(starts) for starts, _ in videos)])
    starts, ends = ([float(time) for video in videos for time in video[side]] for side in (0, 1))
    words = np.arange(len(starts) + 1)
    return Narrations(np.array(starts), np.array(ends), bounds, words, words[:-1].astype(np.int32))


class OneClip(NamedTuple):
    video: int
    start: float
    end: float
    audio_first: int
    audio_stop: int
    captions: tuple[int, ...]


def one_by_one(clips):
    """Clips as a list; captions are numbered as in the narrations."""
    captions = [tuple(clips.captions[clips.owner == place].tolist()) for place in range(len(clips.start))]
    columns = (values.tolist() for values in clips[:5])
    return list(itertools.starmap(OneClip, zip(*columns, captions, strict=True)))
