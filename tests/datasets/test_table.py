import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.datasets.contents import contents_of
from pipeline.datasets.identity import is_video_id
from pipeline.datasets.table import ROW_GROUP, SCHEMA, Manifest, write_manifest
from pipeline.errors import InputError
from pipeline.types import Caption, Video

VIDEOS = [
    Video("nVbIUDjzWY4", category_1="Cars", rank=27, task_id="52907", captions=[Caption(3.5, 8.5, "pick a bike")]),
    Video("-D6xkQDjZ3E", url="http://host/x.mp4", split="test"),
    Video("_97kyZVWVG0", captions=[]),
]


def test_what_is_written_is_read(tmp_path):
    summary = write_manifest(tmp_path / "a.parquet", VIDEOS)
    manifest = Manifest(tmp_path / "a.parquet")
    assert list(manifest) == VIDEOS
    assert (manifest.name, len(manifest), manifest.ids()) == ("a", 3, [video.video_id for video in VIDEOS])
    assert (summary.rows, summary.captions, summary.captioned) == (3, 1, 1)
    assert [video.captions for video in manifest.videos(with_captions=False)] == [None] * 3
    assert list(manifest.videos(skip={"nVbIUDjzWY4", "_97kyZVWVG0"})) == [VIDEOS[1]]
    assert [video.video_id for video, captioned in manifest.to_fetch() if not captioned] == ["-D6xkQDjZ3E"]
    assert not manifest.knows_all_captions()
    assert pq.read_schema(tmp_path / "a.parquet").equals(SCHEMA)


def test_row_groups_are_of_4096_and_captions_are_found_across_them(tmp_path):
    many = [Video(f"v{n}", captions=[Caption(n, n + 1, f"word {n}")]) for n in range(5000)]
    write_manifest(tmp_path / "a.parquet", iter(many))
    metadata = pq.ParquetFile(tmp_path / "a.parquet").metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [4096, 904]
    assert metadata.row_group(0).column(0).compression == "ZSTD"
    manifest = Manifest(tmp_path / "a.parquet")
    assert list(manifest) == many
    found = manifest.captions(["v7", "v4999", "v4096", "nobody"])
    assert found == {
        name: [Caption(n, n + 1, f"word {n}")] for name, n in (("v7", 7), ("v4999", 4999), ("v4096", 4096))
    }
    assert Manifest(tmp_path / "a.parquet").captions(["x"]) == {}


def test_duplicate_and_malformed_ids_are_left_out_and_named(tmp_path):
    bad = ["../evil", "a/b", "", ".hidden", "with space", "x" * 65, "ü", "a\x00b"]
    videos = [Video("twice"), Video("once"), Video("twice"), *map(Video, bad)]
    summary = write_manifest(tmp_path / "a.parquet", videos)
    assert Manifest(tmp_path / "a.parquet").ids() == ["twice", "once"]
    assert (summary.duplicates.count, summary.duplicates.names) == (1, ["twice"])
    assert (summary.malformed.count, summary.malformed.names) == (len(bad), bad)


def test_a_failed_write_leaves_the_old_manifest_and_nothing_else(tmp_path):
    write_manifest(tmp_path / "a.parquet", VIDEOS)

    def broken():
        yield Video("new")
        raise RuntimeError("source broke")

    with pytest.raises(RuntimeError):
        write_manifest(tmp_path / "a.parquet", broken())
    with pytest.raises(InputError, match="not one video"):
        write_manifest(tmp_path / "a.parquet", [Video("../x")])
    assert Manifest(tmp_path / "a.parquet").ids() == [video.video_id for video in VIDEOS]
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_a_file_that_is_no_manifest_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "no.parquet"))):
        Manifest(tmp_path / "no.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(InputError, match="not a readable Parquet"):
        Manifest(tmp_path / "text.parquet")
    pq.write_table(pa.table({"video_id": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="url, split"):
        Manifest(tmp_path / "other.parquet")


READS = [
    Manifest.ids,
    list,
    contents_of,
    Manifest.knows_all_captions,
    lambda manifest: list(manifest.videos(with_captions=False)),
    lambda manifest: list(manifest.to_fetch()),
    lambda manifest: manifest.table(["split"]),
    lambda manifest: manifest.captions([f"v{ROW_GROUP}"]),
]
"""Each way to read a manifest."""


@pytest.mark.parametrize("one_byte", [False, True])
def test_damage_behind_the_first_rows_is_said_of_the_file(tmp_path, one_byte):
    write_manifest(tmp_path / "a.parquet", (Video(f"v{n}", captions=[Caption(n, n + 1, "cut")]) for n in range(4200)))
    group = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(1)
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    for column in map(group.column, range(group.num_columns)):
        start = column.dictionary_page_offset or column.data_page_offset
        end = start + column.total_compressed_size
        if one_byte:
            content[end - 1] ^= 1
        else:
            content[start:end] = bytes(end - start)
    (tmp_path / "a.parquet").write_bytes(content)
    for read in READS:
        with pytest.raises(InputError, match=r"a\.parquet: damaged \(.*\); write it again with: python"):
            read(Manifest(tmp_path / "a.parquet"))


def test_texts_that_are_not_in_utf8_are_said_of_the_file(tmp_path):
    write_manifest(tmp_path / "a.parquet", [Video("v", category_1="cake")])
    table = pq.read_table(tmp_path / "a.parquet")
    latin = pa.array([b"g\xe2teau"]).view(pa.string())
    pq.write_table(table.set_column(3, SCHEMA.field("category_1"), latin), tmp_path / "a.parquet")
    for read in (list, contents_of, lambda manifest: list(manifest.to_fetch())):
        with pytest.raises(InputError, match=r"a\.parquet: damaged"):
            read(Manifest(tmp_path / "a.parquet"))


NAN = float("nan")


@pytest.mark.parametrize(
    "wrong",
    [(None, 1, "x"), (0, None, "x"), (0, 1, None), (NAN, 1, "x"), (0, NAN, "x"), (0, float("inf"), "x"), None],
)
def test_a_manifest_of_other_hands_whose_captions_lack_something_says_which(tmp_path, wrong):
    path = tmp_path / "hand.parquet"
    broken = wrong and dict(zip(("start", "end", "text"), wrong, strict=True))
    lists = [None, [], [{"start": 0, "end": 1, "text": "cut"}, broken]]
    rows = [{"video_id": f"v{n}", "split": "train", "captions": captions} for n, captions in enumerate(lists)]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    with pytest.raises(InputError, match=r"hand\.parquet: caption 2 of video v2 lacks .*; mend .* build table"):
        list(Manifest(path))
    with pytest.raises(InputError, match=r"caption 2 of video v2"):
        Manifest(path).captions(["v2"])
    assert [video.captions for video in Manifest(path).videos(with_captions=False)] == [None] * 3
    if wrong is None or wrong[1] not in (0, 1):
        with pytest.raises(InputError, match=r"caption 2 of video v2"):
            contents_of(Manifest(path))
    else:
        assert contents_of(Manifest(path)).captions == 2


@given(st.text(max_size=80))
@settings(max_examples=300, deadline=None)
def test_an_id_is_always_a_plain_file_name(text):
    if is_video_id(text):
        assert "/" not in text and "\\" not in text and not text.startswith(".") and text.isascii() and text.strip()


_CAPTIONS = st.lists(
    st.builds(
        lambda times, text: Caption(*sorted(times), text),
        st.tuples(st.floats(0, 1e4, width=32), st.floats(0, 1e4, width=32)),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    ),
    max_size=4,
)


@given(st.lists(st.one_of(st.none(), _CAPTIONS), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_any_captions_survive(tmp_path_factory, lists):
    path = tmp_path_factory.mktemp("captions") / "a.parquet"
    write_manifest(path, (Video(f"v{n}", captions=captions) for n, captions in enumerate(lists)))
    assert [video.captions for video in Manifest(path)] == lists
    assert list(Manifest(path).captions(Manifest(path).ids()).values()) == lists


def test_captions_that_end_before_they_start_are_left_out_and_counted(tmp_path):
    times = [(5, 1), (1, 5), (3, 3), (float("nan"), 4), (2, float("inf")), (4, 1e12)]
    videos = [
        Video("some", captions=[Caption(start, end, "cut it") for start, end in times]),
        Video("none", captions=[Caption(5, 1, "cut it")]),
        Video("unknown"),
    ]
    summary = write_manifest(tmp_path / "a.parquet", videos)
    assert (summary.captions, summary.captioned, summary.captions_left_out) == (2, 1, 5)
    found = [video.captions for video in Manifest(tmp_path / "a.parquet")]
    assert found == [[Caption(1, 5, "cut it"), Caption(3, 3, "cut it")], [], None]


def test_a_table_whose_columns_are_of_another_kind_is_no_manifest(tmp_path):
    write_manifest(tmp_path / "m.parquet", [Video("1")])
    table = pq.read_table(tmp_path / "m.parquet")
    pq.write_table(table.set_column(0, "video_id", pa.array([1])), tmp_path / "numbers.parquet")
    with pytest.raises(InputError, match="not a manifest, its video_id is int64, not string"):
        Manifest(tmp_path / "numbers.parquet")
    large = table.set_column(0, "video_id", table["video_id"].cast(pa.large_string()))
    pq.write_table(large, tmp_path / "large.parquet")
    assert [video.video_id for video in Manifest(tmp_path / "large.parquet")] == ["1"]
