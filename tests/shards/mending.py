"""What the tests of damage and its mending share."""

import shutil

import pytest

from pipeline.shards.files import ShardError, Stem, stems
from pipeline.shards.index import read_index, rows_of
from pipeline.shards.reader import ShardSet
from pipeline.shards.recovery import completed_ids
from pipeline.shards.repair import repair
from pipeline.shards.verify import verify
from tests.shards.samples import assert_same, small_sample

IDS = [f"video{number}" for number in range(6)]


def stem(folder, number=1, writer="w0"):
    return Stem(folder, "set", writer, number)


def assert_mended(folder, lost):
    """After a repair, verify is clean, the lost are named, and all others are as they were."""
    repairs = repair(folder)
    assert repairs.redo == sorted(lost)
    assert repairs.done
    assert verify(folder).problems == []
    assert completed_ids(folder) == set(IDS) - set(lost)
    shards = ShardSet(folder)
    assert shards.repeated == 0
    for video_id in shards.ids:
        assert_same(shards.read(video_id, check=True), small_sample(video_id))
    assert repair(folder).done == []


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def copy_with_a_flipped_feature(shards, target):
    """Copies shards, changes a byte of the first video's 2D features, and gives the video's id."""
    shutil.copytree(shards, target)
    first = min(stems(target, ".parquet"))
    row = rows_of(read_index(first))[0]
    flip(first.tar, row.members["2d"].offset + 1)
    return row.video_id


def without_the_damaged_video(main, run, shards, target, capsys):
    """A verb's ``main`` on shards of which a video is damaged: an error, or with ``clips.damaged skip`` a warning.

    Gives what is said then, in one line.
    """
    video_id = copy_with_a_flipped_feature(shards, target)
    command = ["--run", run, "--shards", str(target)]
    with pytest.raises(ShardError, match=f"the checksum of {video_id} is wrong"):
        main(command)
    main([*command, "--clips.damaged", "skip"])
    told = " ".join(capsys.readouterr().err.split())
    assert f"the checksum of {video_id} is wrong" in told
    return told
