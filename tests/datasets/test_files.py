"""How official files are read that are not in UTF-8."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.datasets.crosstask import read_crosstask, read_tasks
from pipeline.datasets.files import open_text, read_lines
from pipeline.datasets.howto100m import read_howto100m, read_task_names
from pipeline.datasets.lsmdc import read_lsmdc
from pipeline.datasets.msrvtt import read_msrvtt
from pipeline.errors import InputError

_WINDOWS = "’é…ü–"
"""What official lists have in Windows-1252; none is UTF-8, whatever ASCII is beside it."""


@given(
    lines=st.lists(st.tuples(st.text("cut it" + _WINDOWS, max_size=9), st.booleans()), max_size=9), mark=st.booleans()
)
@settings(max_examples=100, deadline=None)
def test_each_line_is_read_in_its_own_encoding(tmp_path_factory, lines, mark):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    # ASCII between: two characters of Windows-1252 can by chance be one of UTF-8
    texts = [" ".join(text) for text, _ in lines]
    encoded = [text.encode("cp1252" if old else "utf-8") for text, (_, old) in zip(texts, lines, strict=True)]
    path.write_bytes(b"\xef\xbb\xbf" * mark + b"\r\n".join(encoded))
    with open_text(path) as file:
        assert file.read() == "\r\n".join(texts)


def test_a_byte_that_is_in_no_encoding_costs_a_character(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\x81\n")
    assert read_lines(tmp_path / "a.txt", "the authors") == ["caf\ufffd"]


@pytest.mark.parametrize("content", ["id\nname\n".encode("utf-16"), b"PK\x03\x04\x14\x00\x06\x00"])
def test_what_is_no_text_is_said(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.txt: not a text file; .* UTF-8"):
        read_lines(tmp_path / "a.txt", "the authors")


def test_windows_names_in_the_lists_of_each_dataset(tmp_path):
    row = "\t".join(["film_00.00.01.000-00.00.02.000", "a", "b", "c", "d", "She’s in the café."])
    (tmp_path / "lsmdc.csv").write_bytes(row.encode("cp1252"))
    (video,) = read_lsmdc({"train": tmp_path / "lsmdc.csv"})
    assert [caption.text for caption in video.captions or []] == ["She’s in the café."]

    (tmp_path / "tasks_primary.txt").write_bytes("7\nMake Crème\nhttp://x\n2\ncut,sauté\n\n".encode("cp1252"))
    (tmp_path / "videos_val.csv").write_bytes(b"7,abc,http://x\n")
    assert read_tasks(tmp_path / "tasks_primary.txt")["7"].steps == ("cut", "sauté")
    assert [video.category_1 for video in read_crosstask(tmp_path)] == ["Make Crème"]

    (tmp_path / "task_ids.csv").write_bytes("7\tMake Crème\n".encode("cp1252"))
    assert read_task_names(tmp_path / "task_ids.csv") == {"7": "Make Crème"}
    table = "video_id,category_1,category_2,rank,task_id\nabc,Café,,1,7\n"
    (tmp_path / "howto.csv").write_bytes(table.encode("cp1252"))
    assert [video.category_1 for video in read_howto100m(tmp_path / "howto.csv")] == ["Café"]

    clip = {"video_id": "v", "start time": 0, "end time": 9, "split": "test", "category": 1}
    (tmp_path / "msrvtt.json").write_text(json.dumps({"sentences": [], "videos": [clip]}))
    (tmp_path / "test.csv").write_bytes("video_id,sentence\nv,a café\n".encode("cp1252"))
    (video,) = read_msrvtt(tmp_path / "msrvtt.json", tmp_path / "test.csv")
    assert [caption.text for caption in video.captions or []] == ["a café"]
