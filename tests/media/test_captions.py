import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.media.captions import read_captions
from pipeline.media.errors import MediaError

ROLLING = """WEBVTT
Kind: captions
Language: en

00:00:00.080 --> 00:00:02.389 align:start position:0%
~
slide<00:00:00.320><c> the</c><00:00:00.480><c> spatula</c>

00:00:02.389 --> 00:00:02.399 align:start position:0%
slide the spatula
~

00:00:02.399 --> 00:00:04.150 align:start position:0%
slide the spatula
under<00:00:02.720><c> the</c><00:00:03.000><c> pancake</c>

00:00:04.150 --> 00:00:04.160 align:start position:0%
under the pancake
~

00:00:04.160 --> 00:00:05.000 align:start position:0%
under the pancake
slowly
""".replace("~", " ")  # a line of one space, as YouTube writes it

WRITTEN = """WEBVTT - made by hand

NOTE a comment
of two lines

1
00:01.000 --> 00:02.500 line:90%
<v Cook>Salt &amp; pepper</v>
to taste

01:00:00.000 --> 01:00:01.000
stir

01:00:02.000 --> 01:00:03.000
stir
"""


def test_rolling_lines_are_taken_once(tmp_path: Path) -> None:
    (tmp_path / "v.en.vtt").write_text(ROLLING)
    assert read_captions(tmp_path / "v.en.vtt") == [
        (0.08, 2.389, "slide the spatula"),
        (2.399, 4.15, "under the pancake"),
        (4.16, 5.0, "slowly"),
    ]


def test_written_captions(tmp_path: Path) -> None:
    (tmp_path / "v.en.vtt").write_text(WRITTEN)
    assert read_captions(tmp_path / "v.en.vtt") == [
        (1.0, 2.5, "Salt & pepper to taste"),
        (3600.0, 3601.0, "stir"),
        (3602.0, 3603.0, "stir"),
    ]


def test_json3(tmp_path: Path) -> None:
    events = [
        {"tStartMs": 0, "dDurationMs": 9000, "id": 1, "wpWinPosId": 1},
        {
            "tStartMs": 2100,
            "dDurationMs": 2800,
            "segs": [{"utf8": "loosen"}, {"utf8": " the edges", "tOffsetMs": 300}],
        },
        {"tStartMs": 2100, "dDurationMs": 10, "aAppend": 1, "segs": [{"utf8": "\n"}]},
        {"tStartMs": 80, "dDurationMs": 2320, "segs": [{"utf8": "slide the\nspatula"}]},
    ]
    (tmp_path / "v.en.json3").write_text(json.dumps({"wireMagic": "pb3", "events": events}))
    captions = read_captions(tmp_path / "v.en.json3")
    assert [caption.text for caption in captions] == ["slide the spatula", "loosen the edges"]
    assert captions[1].start == pytest.approx(2.1) and captions[1].end == pytest.approx(4.9)


def test_recognised_lines_last_from_their_first_word_to_the_next_line(tmp_path: Path) -> None:
    events = [
        {"tStartMs": 0, "dDurationMs": 900_000, "id": 1},
        {"tStartMs": 400, "dDurationMs": 5600, "segs": [{"utf8": "boil"}, {"utf8": " water", "tOffsetMs": 240}]},
        {"tStartMs": 3670, "dDurationMs": 2330, "aAppend": 1, "segs": [{"utf8": "\n"}]},
        {
            "tStartMs": 3680,
            "dDurationMs": 4400,
            "segs": [{"utf8": " ", "tOffsetMs": 0}, {"utf8": "then", "tOffsetMs": 320}],
        },
        {"tStartMs": 20_000, "dDurationMs": 2000, "segs": [{"utf8": "pour"}]},
    ]
    (tmp_path / "v.en.json3").write_text(json.dumps({"events": events}))
    assert read_captions(tmp_path / "v.en.json3") == [
        (0.4, 4.0, "boil water"),
        (4.0, 8.08, "then"),
        (20.0, 22.0, "pour"),
    ]


ABSURD = (
    b'{"events": [{"tStartMs": 1%s, "segs": [{"utf8": "a"}]}]}' % (b"0" * 400),
    b'{"events": [{"tStartMs": 1e14, "segs": [{"utf8": "a"}]}]}',
    b'{"events": [{"tStartMs": NaN, "segs": [{"utf8": "a"}]}]}',
    b"[" * 100_000,
    b"WEBVTT\n\n%s:00:00.000 --> 1:00:01.000\na\n" % (b"9" * 400),
)
"""Times that no video has, and brackets without end."""


def test_json3_has_no_tags_and_may_have_events_without_words(tmp_path: Path) -> None:
    events = [{"segs": None}, {"tStartMs": 1000, "dDurationMs": 500, "segs": [{"utf8": "if a < 3 and b > 4"}]}]
    (tmp_path / "v.en.json3").write_text(json.dumps({"events": events}))
    assert read_captions(tmp_path / "v.en.json3") == [(1.0, 1.5, "if a < 3 and b > 4")]


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"[]", b'{"events": 3}', b'{"events": [4]}', b"\xff\xfe\x00", *ABSURD]
)
def test_what_are_not_captions(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "v.en.json3").write_bytes(content)
    with pytest.raises(MediaError) as caught:
        read_captions(tmp_path / "v.en.json3")
    assert caught.value.reason == "corrupt" and "v.en.json3" in caught.value.message


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="not_found"):
        read_captions(tmp_path / "v.en.vtt")


words = st.lists(st.from_regex(r"[a-z']{1,8}", fullmatch=True), min_size=1, max_size=5).map(" ".join)


@given(st.lists(st.tuples(st.integers(0, 10**8), st.integers(1, 10_000), words), max_size=8))
def test_both_formats_say_the_same(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[int, int, str]]
) -> None:
    def stamp(milliseconds: int) -> str:
        seconds, thousandths = divmod(milliseconds, 1000)
        return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{thousandths:03}"

    folder = tmp_path_factory.mktemp("captions")
    cues = [f"{stamp(start)} --> {stamp(start + length)}\n{text}\n" for start, length, text in entries]
    (folder / "v.vtt").write_text("WEBVTT\n\n" + "\n".join(cues))
    events = [{"tStartMs": start, "dDurationMs": length, "segs": [{"utf8": text}]} for start, length, text in entries]
    (folder / "v.json3").write_text(json.dumps({"events": events}))
    from_vtt, from_json = read_captions(folder / "v.vtt"), read_captions(folder / "v.json3")
    assert [caption.text for caption in from_vtt] == [caption.text for caption in from_json]
    assert [caption.start for caption in from_vtt] == pytest.approx([caption.start for caption in from_json])
    assert sorted(caption.text for caption in from_vtt) == sorted(text for _, _, text in entries)
