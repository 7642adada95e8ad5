"""Reading a tar without its index: what the bytes themselves say."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.shards.files import NewerFormatError, ShardError, one_line
from pipeline.shards.index import MODALITIES, NUMBERS, IndexRow, Member, check_version
from pipeline.shards.sample import Sample, caption_times, decode_json, member_key
from pipeline.types import Modality

_BLOCK = tarfile.BLOCKSIZE
_NO_MEMBER = (tarfile.HeaderError, UnicodeDecodeError, OSError)
"""What reading a member from a file raises where there is none, or none that the disk gives."""

NO_SAMPLE = (ValueError, KeyError, TypeError, AttributeError)
"""What :func:`describe` raises where bytes are not one whole sample: JSON may hold anything in any place."""
_ZEROS = bytes(1 << 20)


class _Part(NamedTuple):
    """A member of a tar: its name in the sample, and where its data are."""

    key: str
    suffix: str
    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.offset + self.size + -self.size % _BLOCK


def describe(data: bytes | bytearray, checksum: int | None = None) -> IndexRow:
    """The index row that a sample's bytes deserve, with offsets from their start.

    Members of other names than the format's are passed over.

    Args:
        data: all bytes of the sample.
        checksum: of ``data``, where it is known; None: it is computed, which takes most of the time.

    Raises:
        NO_SAMPLE: the bytes are not one whole sample; the message says what is wrong.
        ShardError: its JSON is of no version, or of a newer one.
    """
    parts = list(_parts(data))
    if not parts or parts[0].suffix != "json":
        raise ValueError("it does not begin with a JSON member")
    first = parts[0]
    values = json.loads(data[first.offset : first.offset + first.size])
    if any(part.key != member_key(values["video_id"]) for part in parts):
        raise ValueError(f"a member does not belong to {values['video_id']}")
    check_version(str(values["format"]), Path(f"{first.key}.json"))
    members: dict[Modality, Member] = {}
    times_offset = None
    for part in parts[1:]:
        if part.suffix == "times.npy":
            times_offset = _times_offset(data, part, decode_json(data[first.offset : first.offset + first.size]))
        for modality in MODALITIES:
            if part.suffix == f"{modality}.npy":
                members[modality] = _member(data, part, float(values["rates"].get(modality, 0.0)))
    expected = {*values["rates"], *(["text"] if len(values["caption_words"]) > 1 else [])}
    if expected - set(members):
        raise ValueError(f"{values['video_id']} lacks its {', '.join(sorted(expected - set(members)))}")
    if not math.isfinite(values["duration"]) or not isinstance(values["split"], str):
        raise ValueError(f"{values['video_id']}: its duration is not a finite number, or its split no text")
    return IndexRow(
        video_id=values["video_id"],
        offset=0,
        size=len(data),
        checksum=zlib.crc32(data) if checksum is None else checksum,
        json_offset=first.offset,
        json_size=first.size,
        duration=values["duration"],
        captions=len(values["captions"]["start"]),
        split=values["split"],
        members=members,
        times_offset=times_offset,
    )


def scan(path: Path) -> Iterator[IndexRow | str]:
    """The rows of a tar's samples, found without an index, and what is wrong with what is between them.

    Where no member can be read, be it that the disk fails, it goes on at the next one that begins a sample.

    Raises:
        NewerFormatError: a newer version wrote a sample.
    """
    with path.open("rb") as file:
        start = 0
        while True:
            try:
                end = _sample_end(file.fileno(), start)
                if end == start:
                    if _is_empty(file.fileno(), start):
                        return
                    raise tarfile.HeaderError("an empty block")
            except _NO_MEMBER as error:
                end = _next_json(file.fileno(), start + _BLOCK)
                yield f"cannot be read from byte {start} to {end} ({error})"
                start = end
                continue
            try:
                yield describe(os.pread(file.fileno(), end - start, start)).moved(start)
            except NewerFormatError:
                raise
            except (*NO_SAMPLE, OSError, ShardError) as error:
                yield f"has no sample at byte {start} ({error})"
            start = end


def difference(row: IndexRow, found: IndexRow) -> str | None:
    """In what an index row and what the bytes say differ; None: they agree."""
    found = found.moved(row.offset)
    names = [field.name for field in dataclasses.fields(row)]
    different = [name for name in names if getattr(row, name) != getattr(found, name)]
    return f"its index has another {', '.join(different)}" if different else None


def _header(data: bytes | bytearray, offset: int) -> _Part | None:
    """The member at ``offset``; None: an empty block, the end of the tar."""
    block = bytes(data[offset : offset + _BLOCK])
    if block == bytes(_BLOCK):
        return None
    member = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    key, _, suffix = member.name.partition(".")
    return _Part(key, suffix, offset + _BLOCK, member.size)


def _parts(data: bytes | bytearray) -> Iterator[_Part]:
    offset = 0
    while offset < len(data):
        try:
            part = _header(data, offset)
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise ValueError(f"there is no member at byte {offset} of it ({error})") from None
        if part is None or part.end > len(data):
            raise ValueError(f"it ends within the member at byte {offset} of it")
        yield part
        offset = part.end


def _sample_end(descriptor: int, start: int) -> int:
    """Where the sample at ``start`` ends: before a member of another key, the end of the tar, or what is no member."""
    key, offset = "", start
    size = os.fstat(descriptor).st_size
    while offset < size:
        try:
            part = _header(os.pread(descriptor, _BLOCK, offset), 0)
        except _NO_MEMBER:
            if offset == start:
                raise
            return offset
        if part is None or (key and part.key != key):
            return offset
        key = part.key
        offset += part.end
        if offset > size:
            raise tarfile.HeaderError("it ends within a member")
    return offset


def _is_empty(descriptor: int, offset: int) -> bool:
    """Whether nothing but zeros follows: the end of a tar, not a block that was lost between samples."""
    while data := os.pread(descriptor, len(_ZEROS), offset):
        if data != _ZEROS[: len(data)]:
            return False
        offset += len(data)
    return True


def _next_json(descriptor: int, offset: int) -> int:
    """The first member from ``offset`` on that begins a sample; else the end of the file."""
    size = os.fstat(descriptor).st_size
    while offset < size:
        with contextlib.suppress(*_NO_MEMBER):
            part = _header(os.pread(descriptor, _BLOCK, offset), 0)
            if part is not None and part.suffix == "json":
                return offset
        offset += _BLOCK
    return size


def _member(data: bytes | bytearray, part: _Part, rate: float) -> Member:
    npy = io.BytesIO(data[part.offset : part.offset + min(part.size, 256)])
    shape, fortran, dtype = _npy_header(npy, part)
    size = npy.tell() + math.prod(shape) * dtype.itemsize
    if fortran or len(shape) not in (1, 2) or min(shape) < 0 or size != part.size or dtype.kind not in NUMBERS:
        raise ValueError(f"{part.suffix} does not hold an array of shape {list(shape)}")
    if not 0 <= rate < math.inf:
        raise ValueError(f"{part.suffix} has {rate} steps per second")
    return Member(part.offset + npy.tell(), shape[0], shape[1] if len(shape) == 2 else 0, dtype.name, rate)


def _npy_header(npy: io.BytesIO, part: _Part) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(npy)
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(npy)
    except Exception as error:  # the header is Python's text, and each way of being none has an error of its own
        raise ValueError(f"the npy header of {part.suffix} cannot be read ({one_line(error)})") from None
    raise ValueError(f"{part.suffix} is an npy file of version {version}")


def _times_offset(data: bytes | bytearray, part: _Part, sample: Sample) -> int:
    """Where the captions' times begin; they are to be those of the JSON."""
    member = _member(data, part, 0.0)
    expected = caption_times(sample)
    found = (member.dtype, (member.length, member.width))
    if (
        found != (expected.dtype.name, expected.shape)
        or data[member.offset : member.offset + expected.nbytes] != expected.tobytes()
    ):
        raise ValueError(f"{sample.video_id}: its times are not those of its captions")
    return member.offset
