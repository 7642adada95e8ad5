import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.datasets import jsonfile
from pipeline.datasets.howto100m import read_howto100m, read_task_names, task_ids
from pipeline.datasets.jsonfile import LargeObject
from pipeline.errors import InputError
from pipeline.types import Caption
from tests.conftest import ANNOTATIONS, needs_shared


@needs_shared
def test_the_official_files():
    with LargeObject(ANNOTATIONS / "caption.json") as captions:
        videos = {video.video_id: video for video in read_howto100m(ANNOTATIONS / "HowTo100M_v1.csv", captions)}
    assert list(videos) == ["nVbIUDjzWY4", "CTPAZ2euJ2Q", "_97kyZVWVG0", "gkjnR3-ZVts", "-D6xkQDjZ3E"]
    bike = videos["nVbIUDjzWY4"]
    assert (bike.category_1, bike.category_2) == ("Cars & Other Vehicles", "Motorcycles")
    assert (bike.rank, bike.task_id, bike.url) == (27, "52907", None)
    assert bike.captions[0] == Caption(3.58, 8.5, "today picking first bike") and len(bike.captions) == 3
    assert videos["_97kyZVWVG0"].captions == []
    assert videos["CTPAZ2euJ2Q"].captions is None


@needs_shared
def test_tasks_by_their_titles(tmp_path):
    titles = read_task_names(ANNOTATIONS / "task_ids.csv")
    assert titles["52907"] == "Choose a Motorcycle" and len(titles) == 4
    assert task_ids(["make iced tea", "52907"], titles) == ["25938", "52907"]
    with pytest.raises(InputError, match="no task 'Make Ice Tea'; did you mean 'Make Iced Tea'"):
        task_ids(["Make Ice Tea"], titles)
    (tmp_path / "t.csv").write_text("no tab\n")
    with pytest.raises(InputError, match="has 1 columns, not 2"):
        read_task_names(tmp_path / "t.csv")


def test_without_captions_and_with_wrong_files(tmp_path):
    table = tmp_path / "a.csv"
    table.write_text("video_id,category_1,category_2,rank,task_id\nabc,Food,,1,9\n")
    (video,) = read_howto100m(table)
    assert (video.category_2, video.captions) == (None, None)
    table.write_text("video_id,category_1\nabc,Food\n")
    with pytest.raises(InputError, match=r"it lacks .*category_2, rank, task_id"):
        list(read_howto100m(table))
    table.write_text("video_id,category_1,category_2,rank,task_id\nabc,Food,,first,9\n")
    with pytest.raises(InputError, match="line 2: the rank 'first' is not a number"):
        list(read_howto100m(table))
    table.write_text("video_id,category_1,category_2,rank,task_id\nabc,Food,,99999999999,9\n")
    with pytest.raises(InputError, match="line 2: the rank '99999999999' is not a whole number of 32 bits"):
        list(read_howto100m(table))
    table.write_text("video_id,category_1,category_2,rank,task_id\nabc,Food,,1,9\n")
    (tmp_path / "c.json").write_text('{"abc": {"start": [1], "end": [], "text": []}}')
    with LargeObject(tmp_path / "c.json") as captions, pytest.raises(InputError, match="captions of abc"):
        list(read_howto100m(table, captions))


_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)),
    max_leaves=8,
)


@given(
    content=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), _JSON, max_size=8),
    chunk=st.integers(1, 40),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 1]),
)
@settings(max_examples=150, deadline=None)
def test_any_object_is_read_by_its_parts_whatever_the_window(tmp_path_factory, content, chunk, ascii_only, indent):
    path = tmp_path_factory.mktemp("json") / "a.json"
    text = json.dumps(content, ensure_ascii=ascii_only, indent=indent)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    before, jsonfile.CHUNK = jsonfile.CHUNK, chunk
    try:
        with LargeObject(path) as large:
            assert len(large) == len(content)
            assert {key: large.get(key) for key in content} == content
            assert "no such key" not in large and large.get("no such key") is None
    finally:
        jsonfile.CHUNK = before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "expected { at byte 0"),
        ("", "ends early"),
        ('{"a": [1, 2', "not JSON after byte|ends early"),
        ('{"a": 1', "ends early"),
        ('{"a": 1 "b": 2}', "expected , or } at byte 8"),
        ('{"a": nonsense}', "not JSON"),
    ],
)
def test_a_damaged_file_is_an_input_error(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=message):
        LargeObject(tmp_path / "a.json")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        LargeObject(tmp_path / "a.json")


def test_progress_reaches_the_end(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"a": 1, "b": [2]}))
    seen = []
    LargeObject(tmp_path / "a.json", seen.append)
    assert seen == sorted(seen) and seen[-1] == (tmp_path / "a.json").stat().st_size - 1
