"""Indexes that are damaged, lost, or of another tar."""

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.shards.files import ShardError
from pipeline.shards.index import read_index, rows_of
from pipeline.shards.reader import ShardSet
from pipeline.shards.recovery import completed_ids
from pipeline.shards.repair import repair
from pipeline.shards.verify import verify
from tests.shards.mending import IDS, assert_mended, stem
from tests.shards.samples import assert_same, make_sample, small_sample, write_shards


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A shard of one sample."""
    return write_shards(tmp_path_factory.mktemp("single") / "set", [small_sample("video0")])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_of_an_index_is_found_or_changes_nothing(tmp_path_factory, single, data):
    folder = shutil.copytree(single, tmp_path_factory.mktemp("flip") / "set")
    path = stem(folder, 0).index
    whole = path.read_bytes()
    at, bit = data.draw(st.integers(0, len(whole) - 1), label="byte"), data.draw(st.integers(0, 7), label="bit")
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
    try:
        assert completed_ids(folder) == {"video0"}
        shards = ShardSet(folder)
        if shards.tars.sizes == [stem(folder, 0).tar.stat().st_size]:
            assert_same(shards.read("video0", check=True), small_sample("video0"))
    except ShardError as error:
        assert path.name in str(error)
    if verify(folder).problems:
        assert repair(folder).redo == []
        assert verify(folder).problems == []
    assert_same(ShardSet(folder).read("video0", check=True), small_sample("video0"))


def change_index(path, column, place, value):
    """Writes an index as a program would that knows no checksums of pages, with one value changed."""
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[place] = value
    field = table.schema.field(column)
    changed = table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)


@pytest.mark.parametrize("column", ["2d_length", "2d_offset", "duration", "json_size", "captions", "split"])
def test_an_index_that_says_something_else(folder, column):
    value = pq.read_table(stem(folder).index)[column][0].as_py()
    change_index(stem(folder).index, column, 0, "dev" if column == "split" else value + 1)
    (problem,) = verify(folder).problems
    assert "video2" in problem.what
    assert {"2d_length": "members", "2d_offset": "members"}.get(column, column) in problem.what


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("offset", 1 << 62, "its bytes are not in the tar"),
        ("offset", -(1 << 63), "its bytes are not in the tar"),
        ("size", 1 << 62, "its bytes are not in the tar"),
        ("size", 0, "its bytes are not in the tar"),
        ("json_offset", 0, "its JSON is not among its bytes"),
        ("json_size", (1 << 31) - 1, "its JSON is not among its bytes"),
        ("duration", float("nan"), "its duration is not a finite number"),
        ("captions", -1, "its JSON cannot hold so many captions"),
        ("captions", 1 << 30, "its JSON cannot hold so many captions"),
        ("times_offset", 1 << 40, "its times are not among its bytes"),
        ("text_length", 1 << 30, "such an array as its text"),
        ("text_length", -2, "such an array as its text"),
        ("2d_offset", 0, "such an array as its 2d"),
        ("2d_offset", None, "such an array as its 2d"),
        ("2d_width", 1 << 30, "such an array as its 2d"),
        ("2d_dtype", "float1v", "such an array as its 2d"),
        ("2d_dtype", "object", "such an array as its 2d"),
        ("2d_dtype", None, "such an array as its 2d"),
        ("2d_rate", float("inf"), "such an array as its 2d"),
        ("2d_rate", -1.0, "such an array as its 2d"),
    ],
)
def test_an_index_that_says_what_cannot_be(folder, column, value, message):
    path = stem(folder).index
    change_index(path, column, 1, value)
    with pytest.raises(ShardError, match=rf"set-w0-000001\.parquet: .*video3: .*{message}.*pipeline\.shards repair"):
        ShardSet(folder)
    (problem,) = verify(folder).problems
    assert (problem.path, problem.redo) == (path, [])
    assert_mended(folder, [])


@pytest.mark.parametrize("key", [b"tar_size", b"format_version", b"samples"])
def test_an_index_whose_metadata_are_damaged(folder, key):
    path = stem(folder).index
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata(table.schema.metadata | {key: b"\xff8"}), path)
    for read in (completed_ids, ShardSet):
        with pytest.raises(ShardError, match=r"set-w0-000001\.parquet: the index cannot be read"):
            read(folder)
    assert_mended(folder, [])


def test_an_index_with_a_type_of_its_own_for_a_column(folder):
    """Another program may write texts and numbers as other types that mean the same; not values that mean nothing."""
    path = stem(folder).index
    table = pq.read_table(path)
    place = table.schema.get_field_index("split")
    pq.write_table(table.set_column(place, "split", table["split"].cast(pa.large_string())), path)
    assert verify(folder).problems == []
    pq.write_table(table.set_column(place, "split", pa.array(["train", None])), path)
    with pytest.raises(ShardError, match="its column split lacks values"):
        ShardSet(folder)
    pq.write_table(table.set_column(place, "split", pa.array([b"\xff", b"\xff"])), path)
    with pytest.raises(ShardError, match="the index cannot be read"):
        ShardSet(folder)


def test_an_index_that_lacks_a_column(folder):
    path = stem(folder).index
    pq.write_table(pq.read_table(path).drop_columns(["checksum"]), path)
    (problem,) = verify(folder).problems
    assert "it lacks the column checksum" in problem.what
    assert_mended(folder, [])


def test_an_index_of_another_tar(folder):
    shutil.copy(stem(folder, 0).index, stem(folder).index)
    assert verify(folder).problems
    assert repair(folder).redo == []
    assert completed_ids(folder) == set(IDS)
    assert verify(folder).problems == []


def test_an_index_of_an_earlier_extraction_condemns_nothing(folder, tmp_path):
    """Its checksums are those of other features of the same videos."""
    other = write_shards(tmp_path / "other", [make_sample(name, seconds=12) for name in IDS[2:4]], name="set")
    shutil.copy(stem(other, 0).index, stem(folder).index)
    assert verify(folder).redo == IDS[2:4]
    assert_mended(folder, [])


@pytest.mark.parametrize("content", [None, b"", b"PAR1 not an index"])
def test_a_lost_index_is_made_again(folder, content):
    before = rows_of(read_index(stem(folder)))
    stem(folder).index.unlink() if content is None else stem(folder).index.write_bytes(content)
    assert len(verify(folder).problems) == 1
    assert_mended(folder, [])
    assert rows_of(read_index(stem(folder))) == before
