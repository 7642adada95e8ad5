"""A real process that writes shards, killed at random moments."""

import multiprocessing
import random
import time

import pytest

from pipeline.shards.reader import ShardSet
from pipeline.shards.recovery import completed_ids
from pipeline.shards.writer import ShardWriter
from tests.shards.samples import assert_same, make_sample

KILLS = 200
IDS = [f"video{number:02d}" for number in range(24)]


def _sample(video_id):
    seconds = 4 if int(video_id[-2:]) % 3 else 20  # 2 to 100 kilobytes
    return make_sample(video_id, seconds=seconds, every=1.0)


def _extract(folder, added):
    """Adds what does not count yet, and tells of each sample once it should count."""
    with ShardWriter(folder, "set", "w0", shard_bytes=150_000, wait=30) as writer:
        done = completed_ids(folder)
        for video_id in IDS:
            if video_id not in done:
                writer.add(_sample(video_id))
                added.send(video_id)
    added.send(None)


def _told(pipe):
    """What the process told before it died; None at the end says that it came to its end."""
    told = []
    while pipe.poll():
        try:
            told.append(pipe.recv())
        except (EOFError, OSError):
            break
    return told


def _run(context, folder, seconds):
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_extract, args=(folder, sender))
    process.start()
    sender.close()
    process.join(seconds)
    killed = process.is_alive()
    process.kill()
    process.join()
    told = _told(receiver)
    receiver.close()
    return told, killed


@pytest.mark.slow
def test_killed_200_times_nothing_is_lost_and_nothing_repeated(tmp_path):
    chance = random.Random(0)
    context = multiprocessing.get_context("fork")
    kills = folders = 0
    while kills < KILLS:
        folder = tmp_path / str(folders)
        told = []
        started = time.monotonic()
        while None not in told:
            found, killed = _run(context, folder, chance.uniform(0.005, 0.15))
            kills += killed
            told += found
            counted = completed_ids(folder)
            assert {video_id for video_id in told if video_id is not None} <= counted
            assert time.monotonic() - started < 120
        assert sorted(set(told) - {None}) == sorted(video_id for video_id in told if video_id is not None)
        folders += 1
        shards = ShardSet(folder)
        assert shards.repeated == 0
        assert sorted(shards.ids) == IDS
        for video_id in IDS:
            assert_same(shards.read(video_id), _sample(video_id))
        assert {path.suffix for path in folder.iterdir()} == {".tar", ".parquet"}
    assert folders > 3
