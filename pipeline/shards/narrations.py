"""The narration of many videos at once: when captions are spoken, and the ids of their words."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.shards.files import ShardError, one_line
from pipeline.shards.members import MemberColumns, column
from pipeline.shards.sample import TIMES_WIDTH
from pipeline.shards.tars import Read, Tars
from pipeline.types import LATEST_TIME

_aside = memoryview(bytearray(1 << 14))
"""Memory for what is read and not needed."""


class Narrations(NamedTuple):
    """The captions of some videos, one video behind the other, as far as clips need them."""

    starts: NDArray[np.float64]
    """``[captions]`` seconds, ascending within a video."""
    ends: NDArray[np.float64]
    """``[captions]`` seconds."""
    bounds: NDArray[np.int64]
    """``[videos + 1]``: a video's captions are those from ``bounds[video]`` to before ``bounds[video + 1]``."""
    word_bounds: NDArray[np.int64]
    """``[captions + 1]``: likewise a caption's words in ``word_ids``."""
    word_ids: NDArray[np.int32]

    def video(self, captions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Whose captions they are."""
        return np.searchsorted(self.bounds, captions, "right") - 1


def no_narrations(videos: int = 1) -> Narrations:
    """Those of videos in which nobody speaks."""
    nothing = np.zeros(0)
    return Narrations(nothing, nothing, np.zeros(videos + 1, np.int64), np.zeros(1, np.int64), np.zeros(0, np.int32))


class NarrationReader:
    """Reads the narrations of a folder's videos, which are numbered as in the :class:`ShardSet`."""

    def __init__(self, tars: Tars, table: pa.Table, words: int):
        """Takes what it needs of the index.

        Args:
            tars: the folder's.
            table: its indexes.
            words: how many words the ids may stand for.
        """
        self._tars, self._vocabulary = tars, words
        self._shard = column(table, "shard", 0)
        self._captions = column(table, "captions", 0)
        self._json_offset = column(table, "json_offset", 0)
        self._json_size = column(table, "json_size", 0)
        self._times_offset = column(table, "times_offset", -1)
        self._text = MemberColumns(table, "text").members

    def read(self, numbers: NDArray[np.int64]) -> Narrations:
        """The narrations of some videos.

        Raises:
            ShardError: a shard is damaged.
        """
        if not len(numbers):
            return no_narrations(0)
        captions = self._captions[numbers].astype(np.int64)
        words = np.where(captions > 0, self._text.length[numbers], 0)
        bounds, word_firsts = _bounds(captions), _bounds(words)
        times, word_ids = np.empty((bounds[-1], TIMES_WIDTH)), np.empty(word_firsts[-1], np.int32)
        spoken = np.flatnonzero(captions)
        chosen = numbers[spoken]
        places = (
            chosen, self._shard[chosen], self._times_offset[chosen], self._text.offset[chosen],
            bounds[spoken], bounds[spoken + 1], word_firsts[spoken], word_firsts[spoken + 1],
        )  # fmt: skip
        pending: list[tuple[int, Read]] = []
        for number, shard, offset, text, first, stop, word, last in zip(*(v.tolist() for v in places), strict=True):
            reads = _reads(offset, times[first:stop], text, word_ids[word:last])
            if offset < 0:
                self._read_json(number, times[first:stop])
            pending += [(shard, read) for read in self._tars.read_soon(shard, reads)]
        for shard, read in pending:
            self._tars.read_into(shard, read)
        found = _narrations(bounds, word_firsts, times, word_ids)
        # as unsigned numbers, negative ids are too large as well
        known = not len(word_ids) or word_ids.view(np.uint32).max() < self._vocabulary
        if isinstance(found, Narrations) and known:
            return found
        if len(numbers) > 1:
            for place in range(len(numbers)):  # raises what is wrong with the one that is damaged
                self.read(numbers[place : place + 1])
        unknown = f"a word's id is none of the {self._vocabulary:,} of words.parquet"
        raise self._unusable(int(numbers[0]), found if isinstance(found, str) else unknown)

    def texts(self, number: int) -> list[str]:
        """The captions of a video, as they were said; raises ShardError."""
        values = self._json(number)
        try:
            texts = [str(text) for text in values["captions"]["text"]]
            if len(texts) != self._captions[number]:
                raise ValueError("its captions are not as many as the index says")
        except (ValueError, KeyError, TypeError) as error:
            raise self._unusable(number, one_line(error)) from None
        return texts

    def _read_json(self, number: int, times: NDArray[np.float64]) -> None:
        """The times of a sample that was written before samples had ``times.npy``."""
        values = self._json(number)
        try:
            found = values["captions"]
            ends = values["caption_words"][1:] if self._text.offset[number] >= 0 else [0] * len(times)
            if {len(found["start"]), len(found["end"]), len(ends)} != {len(times)}:
                raise ValueError("its captions are not as many starts, ends and word offsets as the index says")
            times[:] = np.array([found["start"], found["end"], ends], np.float64).T
        except (ValueError, KeyError, TypeError) as error:
            raise self._unusable(number, one_line(error)) from None

    def _json(self, number: int) -> Any:
        data = self._tars.read(int(self._shard[number]), int(self._json_offset[number]), int(self._json_size[number]))
        try:
            return json.loads(str(data, "utf-8"))
        except ValueError as error:
            raise self._unusable(number, one_line(error)) from None

    def _unusable(self, number: int, why: str) -> ShardError:
        at = int(self._json_offset[number])
        return self._tars.damaged(int(self._shard[number]), f"the narration at byte {at} is unusable: {why}")


def _reads(offset: int, times: NDArray[np.float64], text: int, word_ids: NDArray[np.int32]) -> list[Read]:
    """What fills a video's times and word ids: one read, where the words come soon after the times."""
    if not len(word_ids):
        return [(offset, times.nbytes, [times])] if offset >= 0 else []
    gap = text - offset - times.nbytes
    if offset >= 0 and 0 < gap <= len(_aside):
        return [(offset, text + word_ids.nbytes - offset, [times, _aside[:gap], word_ids])]
    words: list[Read] = [(text, word_ids.nbytes, [word_ids])]
    return [(offset, times.nbytes, [times]), *words] if offset >= 0 else words


def _narrations(
    bounds: NDArray[np.int64],
    word_firsts: NDArray[np.int64],
    times: NDArray[np.float64],
    word_ids: NDArray[np.int32],
) -> Narrations | str:
    """The narrations of ``times`` ``[captions, 3]``; else why clips would stumble over them.

    A checksum would say more, and would need whole samples.
    """
    starts, ends, words = np.ascontiguousarray(times.T)
    if not np.abs(times).max(initial=0) < LATEST_TIME:  # nor is what is no number
        return "a caption's times are none that a caption can have"
    word_bounds = np.zeros(len(times) + 1, np.int64)
    word_bounds[1:] = words
    word_bounds[1:] += np.repeat(word_firsts[:-1], np.diff(bounds))
    whole = np.array_equal(words, np.trunc(words)) and np.array_equal(word_bounds[bounds], word_firsts)
    if not whole or (np.diff(word_bounds) < 0).any():
        return "its captions' word offsets do not cut its words into captions"
    return Narrations(starts, ends, bounds, word_bounds, word_ids)


def _bounds(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)])
