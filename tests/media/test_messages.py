"""What is read from FFmpeg's own words about a decode."""

import itertools
import os

from hypothesis import given
from hypothesis import strategies as st

from pipeline.media.pipes import MESSAGE_BYTES, Decoded, Messages

SAID = b"""[h264 @ 0x7f8a40] [verbose] Reinit context to 160x128, pix_fmt: yuv420p
[h264 @ 0x7f8a40] [error] Invalid NAL unit size (0 > 1136).
[vist#0:0/h264 @ 0x55fc] [dec:h264 @ 0x55fd] [error] Error submitting packet to decoder
[vost#0:0/rawvideo @ 0x55fe] [error] No filtered frames for output stream, trying to initialize anyway.
    Last message repeated 3 times
[out#1/s16le @ 0x55ff] [fatal] Nothing was written into output file
[in#0/mov,mp4 @ 0x56] [verbose]   Input stream #0:0 (video): 500 packets read (711720 bytes); 451 frames decoded; \
49 decode errors;
[in#0/mov,mp4 @ 0x56] [verbose]   Input stream #0:2 (audio): 314 packets read (124546 bytes); 283 frames decoded; \
30 decode errors (289280 samples);
[fatal] Conversion failed!"""
OLDER = b"[verbose]   Input stream #0:1 (audio): 9 packets read (99 bytes); 8 frames decoded (8192 samples); \n"


def read(text: bytes, cuts: list[int]) -> Messages:
    messages = Messages(-1)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for start, end in itertools.pairwise(places):
        if start < end:
            take(messages, text[start:end])
    assert take(messages, b"")
    return messages


def take(messages: Messages, data: bytes) -> bool:
    messages.descriptor, write = os.pipe()
    os.write(write, data)
    os.close(write)
    ended = messages.read()[1]
    os.close(messages.descriptor)
    return ended


@given(cuts=st.lists(st.integers(0, len(SAID)), max_size=6))
def test_complaints_and_counts_wherever_the_reads_cut_them(cuts: list[int]) -> None:
    messages = read(SAID, cuts)
    assert messages.complaints == [
        "[h264] Invalid NAL unit size (0 > 1136).",
        "[vist#0:0/h264] [dec:h264] Error submitting packet to decoder",
        "Conversion failed!",
    ]
    assert messages.decoded == {0: Decoded(451, 49, 0), 2: Decoded(283, 30, 289_280)}


def test_an_older_ffmpeg_counts_no_errors() -> None:
    assert read(OLDER, []).decoded == {1: Decoded(8, 0, 8192)}


@given(text=st.binary(max_size=200))
def test_anything_may_come(text: bytes) -> None:
    assert read(text, []).decoded == {}


def test_only_so_much_is_kept_but_the_counts_at_the_end_are_read() -> None:
    messages = read(b"[aac @ 0x1] [error] it is broken\n" * 1000 + OLDER, [65_000 * part for part in range(9)])
    assert 0 < sum(map(len, messages.complaints)) < 2 * MESSAGE_BYTES
    assert messages.decoded[1].frames == 8
