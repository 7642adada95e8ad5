import math
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.shards.index import IndexRow, journal_line, read_journal
from pipeline.shards.sample import Sample, decode_json, encode, member_key
from pipeline.types import Caption
from tests.shards.samples import make_sample


@pytest.mark.parametrize("video_id", ["", ".hidden", "a/b", "a b", "é", "x" * 65, "a\n"])
def test_an_id_that_is_no_file_name_is_refused(video_id):
    with pytest.raises(ValueError, match="cannot be a video's id"):
        member_key(video_id)


@settings(max_examples=100, deadline=None)
@given(
    text=st.lists(st.text(), max_size=5),
    notes=st.lists(st.text(max_size=20), max_size=2),
    duration=st.floats(0, 1e6),
)
def test_json_comes_back_as_it_went_in(text, notes, duration):
    captions = [Caption(float(number), number + 0.5, words) for number, words in enumerate(text)]
    sample = Sample("v", duration, captions, notes=notes, extra={"a": [1, None]})
    data, row = encode(sample)
    assert decode_json(data[row.json_offset : row.json_offset + row.json_size]) == sample


@pytest.mark.parametrize(
    ("name", "array", "why"),
    [
        ("2d", np.zeros(3), "time, features"),
        ("2d", np.full((3, 2), np.nan), "float16 cannot"),
        ("audio", np.full((3, 2), 1e6), "float16 cannot"),
        ("text", np.zeros((3, 2), np.int32), r"\[words\]"),
        ("text", np.zeros(3, np.int32), "caption_words"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_what_a_shard_cannot_hold_is_refused_by_name(name, array, why):
    sample = make_sample("vid")
    sample.arrays[name] = array
    with pytest.raises(ValueError, match=f"vid: .*{why}"):
        encode(sample)


def test_a_rate_is_needed():
    sample = make_sample("vid")
    sample.rates = {"2d": 1.0}
    with pytest.raises(ValueError, match="vid: 3d: its rate"):
        encode(sample)


@pytest.mark.parametrize(("start", "duration"), [(math.nan, 9.0), (-math.inf, 9.0), (1.0, math.inf), (1.0, math.nan)])
def test_a_time_that_is_no_number_is_refused(start, duration):
    with pytest.raises(ValueError, match="vid: its duration, or a caption's time, is not a finite number"):
        encode(Sample("vid", duration, [Caption(start, 2.0, "x")]))


@pytest.mark.parametrize("value", [1e9, -1e9])
def test_a_time_that_readers_take_for_damage_is_refused(value):
    with pytest.raises(ValueError, match=r"vid: a caption's time is -?1e\+09 s, but no video has 1e\+09 s"):
        encode(Sample("vid", 9.0, [Caption(min(value, 1.0), max(value, 2.0), "x")]))


def test_words_of_captions_need_the_text_that_they_count():
    sample = Sample("vid", 9.0, [Caption(1.0, 2.0, "x")], caption_words=[0, 0])
    with pytest.raises(ValueError, match=r"vid: caption_words is \[0, 0\] without text; it must be \[0\]"):
        encode(sample)
    sample.arrays["text"] = np.zeros(0, np.int32)
    assert list(encode(sample)[1].members) == ["text"]


def test_half_a_surrogate_pair_costs_a_character_and_not_the_video():
    sample = Sample("vid", 9.0, [Caption(1.0, 2.0, "flip \ud83d it")], notes=["\udcff"])
    data, row = encode(sample)
    found = decode_json(data[row.json_offset : row.json_offset + row.json_size])
    assert (found.captions, found.notes) == ([Caption(1.0, 2.0, "flip \ufffd it")], ["\ufffd"])


@pytest.mark.parametrize(
    ("name", "shape"), [("audio", (0, 40)), ("audio", (7, 0)), ("2d", (0, 6)), ("2d", (4, 0)), ("2d", (0,))]
)
def test_an_empty_array_is_an_absent_member(name, shape):
    sample = make_sample("vid")
    sample.arrays[name] = np.zeros(shape, np.float16)
    _, row = encode(sample)
    assert set(row.members) == {"text", "2d", "3d", "audio"} - {name}


def test_a_journal_gives_back_its_rows(tmp_path):
    rows: list[IndexRow] = []
    for video_id in ("one", "two"):
        _, row = encode(make_sample(video_id))
        rows.append(row.moved(rows[-1].end if rows else 0))
    lines = [journal_line(None), *map(journal_line, rows)]
    (tmp_path / "journal").write_bytes(b"".join(lines))
    assert read_journal(tmp_path / "journal") == (rows, list(accumulate(map(len, lines))))
