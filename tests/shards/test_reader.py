import shutil
from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.shards import indexes
from pipeline.shards.files import ShardError
from pipeline.shards.index import read_index, rows_of, write_index
from pipeline.shards.reader import ShardSet
from pipeline.shards.repair import repair
from pipeline.shards.writer import ShardWriter
from tests.shards.samples import assert_same, make_sample, small_sample, write_shards


@pytest.mark.parametrize("make", [False, True])
def test_an_empty_folder_says_what_to_run(tmp_path, make):
    folder = tmp_path / "set"
    if make:
        folder.mkdir()
    with pytest.raises(InputError, match=r"set: .*python -m pipeline\.extract"):
        ShardSet(folder)


def test_a_folder_without_a_sealed_shard_says_so(tmp_path):
    writer = ShardWriter(tmp_path, "set", "w0")
    writer.add(small_sample("one"))
    with pytest.raises(InputError, match="no shard is sealed yet"):
        ShardSet(tmp_path)
    writer.abandon()


def test_steps_are_read_by_offset(tmp_path):
    sample = make_sample("one")
    write_shards(tmp_path, [make_sample("zero"), sample])
    shards = ShardSet(tmp_path)
    number = shards.number("one")
    members = shards.row(number).members
    for name, first, stop in [("2d", 3, 9), ("audio", 0, 1), ("3d", 40, 99), ("2d", -5, 2), ("2d", 50, 60)]:
        found = shards.read_steps(number, members[name], first, stop)
        np.testing.assert_array_equal(found, sample.arrays[name][max(first, 0) : stop])


def test_a_video_in_two_shards_is_there_once(tmp_path):
    write_shards(tmp_path, [small_sample("one"), small_sample("two")])
    write_shards(tmp_path, [small_sample("two"), small_sample("three")], writer="w1")
    shards = ShardSet(tmp_path)
    assert shards.ids == ["one", "two", "three"]
    assert shards.repeated == 1
    assert shards.stems[shards.shard(shards.number("two"))].writer == "w0"


def test_a_shard_without_its_index_is_left_out_and_named(tmp_path, caplog):
    for name in ("one", "two", "three"):
        write_shards(tmp_path, [small_sample(name)], writer=name)
    (tmp_path / "set-one-000000.parquet").unlink()
    shards = ShardSet(tmp_path)
    assert sorted(shards.ids) == ["three", "two"] and [stem.writer for stem in shards.unindexed] == ["one"]
    assert f"set-one-000000.tar: its index is missing; make it again: python -m pipeline.shards repair {tmp_path}" in (
        caplog.text
    )
    caplog.clear()
    ShardSet(tmp_path, warn=False)
    assert not caplog.text
    for index in tmp_path.glob("*.parquet"):
        index.unlink()
    with pytest.raises(InputError, match=r"its index \(and of 2 others\) is missing"):
        ShardSet(tmp_path)
    repair(tmp_path)
    caplog.clear()
    assert sorted(ShardSet(tmp_path).ids) == ["one", "three", "two"] and not caplog.text


def test_a_shard_on_its_way_to_being_sealed_is_no_cause_for_a_warning(tmp_path, caplog):
    write_shards(tmp_path, [small_sample("one")])
    writer = ShardWriter(tmp_path, "set", "w1")
    writer.add(small_sample("two"))
    writer.abandon()
    (tmp_path / "set-w1-000000.tar.part").rename(tmp_path / "set-w1-000000.tar")
    assert ShardSet(tmp_path).ids == ["one"] and not caplog.text


def test_other_parquet_files_are_left_alone(tmp_path):
    write_shards(tmp_path, [small_sample("one")])
    (tmp_path / "words.parquet").write_bytes(b"not an index")
    assert ShardSet(tmp_path).ids == ["one"]


@pytest.mark.parametrize("damage", ["gone", "shorter", "longer", "other"])
def test_a_damaged_shard_is_named(tmp_path, damage):
    write_shards(tmp_path, [small_sample("one"), small_sample("two")])
    tar = tmp_path / "set-w0-000000.tar"
    if damage == "gone":
        tar.unlink()
    elif damage == "shorter":
        tar.write_bytes(tar.read_bytes()[:-2000])
    elif damage == "longer":
        tar.write_bytes(tar.read_bytes() + b"x")
    else:
        tar.write_bytes(bytes(tar.stat().st_size))
    with pytest.raises(ShardError, match=r"set-w0-000000\.tar: .*pipeline\.shards verify"):
        ShardSet(tmp_path).read("two")


def test_an_unreadable_index_is_named(tmp_path):
    write_shards(tmp_path, [small_sample("one")])
    shutil.copy(tmp_path / "set-w0-000000.tar", tmp_path / "set-w0-000001.tar")
    (tmp_path / "set-w0-000001.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ShardError, match=r"set-w0-000001\.parquet: .*repair"):
        ShardSet(tmp_path)


@pytest.fixture
def many(tmp_path, monkeypatch):
    """Four shards, which count as many, opened once."""
    monkeypatch.setattr(indexes, "_WORTH_A_COPY", 2)
    write_shards(tmp_path, [small_sample(name) for name in ("one", "two", "three", "four")], shard_bytes=1)
    assert len(ShardSet(tmp_path).stems) == 4
    return tmp_path


def test_many_indexes_are_read_once(many, monkeypatch):
    expected = ShardSet(many)
    monkeypatch.setattr(indexes, "read_index", None)
    found = ShardSet(many)
    assert found.table.replace_schema_metadata() == expected.table.replace_schema_metadata()
    assert found.tars.sizes == expected.tars.sizes
    assert_same(found.read("three", check=True), small_sample("three"))


@pytest.mark.parametrize("change", ["changed", "added", "removed", "replaced"])
def test_an_index_that_changed_is_seen(many, change):
    shards = ShardSet(many)
    stem = shards.stems[1]
    if change == "changed":
        (row,) = rows_of(read_index(stem))
        write_index(stem, [replace(row, video_id="owt")])
    elif change == "added":
        write_shards(many, [small_sample("five")], writer="w1")
    elif change == "removed":
        stem.index.unlink()
    else:
        shutil.copyfile(shards.stems[2].index, stem.index)
    expected = {
        "changed": ["one", "owt", "three", "four"],
        "added": ["one", "two", "three", "four", "five"],
        "removed": ["one", "three", "four"],
        "replaced": ["one", "three", "four"],
    }
    assert ShardSet(many).ids == expected[change]


@pytest.mark.parametrize("content", [b"", b"ARROW1", None])
def test_a_copy_of_the_indexes_that_is_damaged_is_made_again(many, content):
    copy = many / indexes.COPY
    whole = copy.read_bytes()
    copy.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert ShardSet(many).ids == ["one", "two", "three", "four"]
    assert copy.stat().st_size == len(whole)
