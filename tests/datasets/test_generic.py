import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.datasets.generic import read_table
from pipeline.datasets.identity import id_from_path, id_from_url, is_video_id, youtube_id
from pipeline.datasets.table import Manifest, write_manifest
from pipeline.errors import InputError
from pipeline.types import Caption, Video


def read(path, text, **options):
    path.write_text(text)
    return list(read_table(path, **options))


def test_csv_with_the_columns_of_a_video(tmp_path):
    videos = read(tmp_path / "a.csv", "video_id,split,rank,category_1\nabc,test,3,Food\ndef,,,\n")
    assert videos == [Video("abc", split="test", rank=3, category_1="Food"), Video("def")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "url\nhttps://youtu.be/nVbIUDjzWY4\n"),
        ("a.csv", "title;video_url\nBikes, new;https://youtu.be/nVbIUDjzWY4\n"),
        ("a.tsv", "title\turl\nx,y\thttps://youtu.be/nVbIUDjzWY4\n"),
        ("a.txt", "https://youtu.be/nVbIUDjzWY4\n\n"),
        ("a.jsonl", '{"url": "https://youtu.be/nVbIUDjzWY4"}\n\n'),
        ("a.csv", "id\nhttps://youtu.be/nVbIUDjzWY4\n"),
    ],
)
def test_ids_come_from_urls_where_there_are_no_ids(tmp_path, name, text):
    (video,) = read(tmp_path / name, text)
    assert (video.video_id, video.url) == ("nVbIUDjzWY4", "https://youtu.be/nVbIUDjzWY4")


def test_plain_lines_of_ids_and_of_paths(tmp_path):
    assert [video.video_id for video in read(tmp_path / "a.txt", "nVbIUDjzWY4\n-D6xkQDjZ3E\n")] == [
        "nVbIUDjzWY4",
        "-D6xkQDjZ3E",
    ]
    paths = "path\n/data/htm/nVbIUDjzWY4.webm\n/data/-D6xkQDjZ3E_2d.npy\n"
    assert [video.video_id for video in read(tmp_path / "b.csv", paths)] == ["nVbIUDjzWY4", "-D6xkQDjZ3E"]
    assert [video.video_id for video in read(tmp_path / "c.txt", "videos/nVbIUDjzWY4.mp4\n")] == ["nVbIUDjzWY4"]


def test_a_path_that_is_more_than_an_id_tells_where_the_video_is(tmp_path):
    found = read(tmp_path / "a.csv", "video_id,path\nq-1,a/b.mp4\nq-2,q-2.mp4\nq-3,other.mp4\nq-4,x/q-4_2d.npy\n")
    assert [video.url for video in found] == ["a/b.mp4", None, "other.mp4", None]
    found = read(tmp_path / "b.txt", "mine-1.mp4\nsub/mine-2.mp4\n")
    assert [(video.video_id, video.url) for video in found] == [("mine-1", None), ("mine-2", "sub/mine-2.mp4")]
    (video,) = read(tmp_path / "c.csv", "url,path\nhttps://youtu.be/nVbIUDjzWY4,x/y.mp4\n")
    assert video.url == "https://youtu.be/nVbIUDjzWY4"


def test_names_as_people_give_them_become_ids_and_stay_paths(tmp_path):
    paths = ["My Clips/cutting bread (1).MP4", "Gemüse, fein.mp4", "comma, and more.mp4", "100% done #1.mp4", "a,b.mp4"]
    found = read(tmp_path / "a.txt", "\n".join(paths))
    assert [video.url for video in found] == paths
    assert len({video.video_id for video in found}) == len(paths) and all(
        is_video_id(video.video_id) for video in found
    )
    assert [video.video_id for video in read(tmp_path / "b.txt", "\n".join(reversed(paths)))] == [
        video.video_id for video in reversed(found)
    ]
    assert found[0].video_id.startswith("cutting_bread_1_-")


def test_captions_as_objects_as_three_lists_and_as_text(tmp_path):
    objects = [{"start": 0, "end": 1.5, "text": "cut"}]
    lists = {"start": [0], "end": [1.5], "text": ["cut"]}
    rows = [objects, lists, json.dumps(lists), [], None]
    text = "\n".join(json.dumps({"id": f"v{n}", "captions": row}) for n, row in enumerate(rows))
    expected = [[Caption(0, 1.5, "cut")]] * 3 + [[], None]
    assert [video.captions for video in read(tmp_path / "a.jsonl", text)] == expected
    table = pa.table({"video_id": ["a"], "captions": [objects], "rank": [5]})
    pq.write_table(table, tmp_path / "b.parquet")
    assert list(read_table(tmp_path / "b.parquet")) == [Video("a", rank=5, captions=[Caption(0, 1.5, "cut")])]


def test_half_a_surrogate_pair_in_a_caption_costs_a_character(tmp_path):
    row = {"id": "a", "captions": [{"start": 0, "end": 1, "text": "flip \ud83d it"}]}
    videos = read(tmp_path / "a.jsonl", json.dumps(row))
    assert videos[0].captions == [Caption(0, 1, "flip \ufffd it")]
    write_manifest(tmp_path / "a.parquet", videos)
    assert list(Manifest(tmp_path / "a.parquet")) == videos


def test_named_columns(tmp_path):
    (video,) = read(tmp_path / "a.csv", "id,name,where\n1,abc,http://h/abc.mp4\n", id_column="name", url_column="where")
    assert (video.video_id, video.url) == ("abc", "http://h/abc.mp4")
    (video,) = read(tmp_path / "b.csv", "clip,where\nabc,x\n", id_column="clip")
    assert video.video_id == "abc"
    (video,) = read(tmp_path / "c.csv", "Video ID,URL\nabc,http://h/abc.mp4\n")
    assert (video.video_id, video.url) == ("abc", "http://h/abc.mp4")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "colour,size\nred,3\n", "names no column"),
        ("a.txt", "colour,size\nred,3\n", "names no column"),
        ("a.jsonl", '{"a": 1}', "no column video_id or url or path"),
        ("a.jsonl", '{"id": "a"}\n{broken', "line 2 is not JSON"),
        ("a.jsonl", "[1]", "line 1 is not an object"),
        (
            "a.jsonl",
            '{"id": "a", "captions": {"start": [1]}}',
            "row 1 cannot be read .captions: no list 'end'; expected",
        ),
        (
            "a.jsonl",
            '{"id": "a", "captions": {"start": [1], "end": [2, 3], "text": ["x"]}}',
            "captions: 1 start, 2 ends, 1 text, and not as many of each; expected is .* in seconds",
        ),
        ("a.jsonl", '{"id": "a", "captions": "cut it"}', "captions: not JSON .Expecting value.*; expected is"),
        ("a.jsonl", '{"id": "a", "captions": 7}', "captions: 7 is no list; expected"),
        ("a.jsonl", '{"id": "a", "captions": ["cut it"]}', "captions: number 1 is 'cut it'; expected"),
        (
            "a.jsonl",
            '{"id": "a", "captions": [{"start": 1, "text": "x"}]}',
            "captions: number 1 has no 'end'; expected",
        ),
        (
            "a.jsonl",
            '{"id": "a", "captions": [{"start": 1, "end": 2, "text": "x"}, {"start": "0:01", "end": 2, "text": "x"}]}',
            "row 1 cannot be read .captions: the start of number 2 is '0:01'; expected",
        ),
        ("a.csv", "id,rank\na,first\n", "row 1 cannot be read .the rank 'first' is not a number"),
        (
            "a.csv",
            "id,rank\na,1\nb,2147483648\n",
            "row 2 cannot be read .the rank '2147483648' is not a whole number of",
        ),
        ("a.jsonl", '{"id": "a", "rank": 1.5}', "row 1 cannot be read .the rank 1.5 is not a whole number"),
        ("a.jsonl", '{"id": "a", "rank": 1' + 400 * "0" + "}", "row 1 cannot be read .the rank 1000"),
        ("a.jsonl", '{"id": "a", "rank": [1]}', r"row 1 cannot be read .the rank \[1\] is not a number"),
        ("a.parquet", "x", "not a readable Parquet"),
        ("a.pdf", "x", "unknown kind of list"),
        ("a.csv", "id,rank\na,1\n,2\n", "row 2 cannot be read .it has no id, URL or path"),
    ],
)
def test_what_cannot_be_read_is_an_input_error(tmp_path, name, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path / name, text)
    assert str(tmp_path / name) in str(caught.value)


def test_a_column_that_was_named_must_be_there(tmp_path):
    with pytest.raises(InputError, match="no column name"):
        read(tmp_path / "a.csv", "id\na\n", id_column="name")
    with pytest.raises(InputError, match="there is no list"):
        list(read_table(tmp_path / "nothing.csv"))


@pytest.mark.parametrize(
    "url",
    [
        "https://www.youtube.com/watch?v=nVbIUDjzWY4",
        "http://youtube.com/watch?t=3&v=nVbIUDjzWY4&list=x",
        "https://m.youtube.com/shorts/nVbIUDjzWY4",
        "https://www.youtube-nocookie.com/embed/nVbIUDjzWY4?start=3",
        "https://youtu.be/nVbIUDjzWY4?si=abc",
        "youtube.com/live/nVbIUDjzWY4",
        "https://www.youtube.com/v/nVbIUDjzWY4",
    ],
)
def test_forms_of_youtube_urls(url):
    assert youtube_id(url) == "nVbIUDjzWY4" == id_from_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://vimeo.com/watch?v=nVbIUDjzWY4",
        "https://notyoutube.com/watch?v=nVbIUDjzWY4",
        "https://www.youtube.com/watch?v=short",
        "https://www.youtube.com/playlist?list=PLabcdefgh12",
    ],
)
def test_other_urls_are_not_youtube(url):
    assert youtube_id(url) is None


def test_ids_of_files():
    assert id_from_url("http://host/a/cake%201.mp4?x=1") == "cake_1"
    assert id_from_url("http://host/a/plain") == "plain"
    assert id_from_path("/x/nVbIUDjzWY4.mp4.npy") == "nVbIUDjzWY4"
    assert id_from_path("C:\\x\\clip_7.avi") == "clip_7"


def test_a_mark_of_byte_order_and_a_large_cell_are_read(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"id": "a"}\n')
    assert [video.video_id for video in read_table(tmp_path / "a.jsonl")] == ["a"]
    (tmp_path / "a.csv").write_text(f"id,notes\na,{'x' * 200_000}\n")
    assert [video.video_id for video in read_table(tmp_path / "a.csv")] == ["a"]


def test_ranks_are_those_that_a_manifest_can_hold(tmp_path):
    rows = [{"id": f"v{place}", "rank": rank} for place, rank in enumerate([27, 27.0, "27.0", "", None, math.nan])]
    videos = read(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    largest = read(tmp_path / "a.csv", f"id,rank\nx,{2**31 - 1}\ny,{1 - 2**31}\n")
    write_manifest(tmp_path / "a.parquet", [*videos, *largest])
    ranks = [video.rank for video in Manifest(tmp_path / "a.parquet")]
    assert ranks == [27] * 3 + [None] * 3 + [2**31 - 1, 1 - 2**31]


def test_a_value_that_is_no_number_is_none(tmp_path):
    (video,) = read(tmp_path / "a.jsonl", '{"id": "a", "url": NaN, "category_1": NaN, "task_id": NaN, "split": NaN}')
    assert video == Video("a")


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", b'{"id": "caf\xe9"}'), ("a.csv", b"id\ncaf\xe9\n")])
def test_another_encoding_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="not a text file in UTF-8"):
        list(read_table(tmp_path / name))


def test_half_a_surrogate_pair_in_a_category_costs_a_character(tmp_path):
    write_manifest(tmp_path / "a.parquet", [Video("a", category_1="caf\ud83d", captions=[Caption(0, 1, "x\ud83d")])])
    (video,) = Manifest(tmp_path / "a.parquet")
    assert (video.category_1, video.captions) == ("caf\ufffd", [Caption(0, 1, "x\ufffd")])
