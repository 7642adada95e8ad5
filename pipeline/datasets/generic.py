"""Any list of videos: CSV, TSV, JSON lines, Parquet or plain lines, with a column of ids, URLs or paths."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.datasets.identity import id_from_path, id_from_url, id_of_name, is_video_id
from pipeline.errors import InputError
from pipeline.types import Caption, Video, without_surrogates
from pipeline.wording import counted

csv.field_size_limit(1 << 30)  # captions of a video may be in one cell

ID_COLUMNS = ("video_id", "youtube_id", "vid", "id", "video", "key")
URL_COLUMNS = ("url", "video_url", "link", "webpage_url")
PATH_COLUMNS = ("path", "video_path", "file", "filename")
_FIELDS = ("start", "end", "text")
_EXPECTED = 'expected is [{"start": 0.0, "end": 4.2, "text": "cut it"}, ...] with times in seconds'
_FEATURES = (".npy", ".npz")
"""Files that come from a video: lists of those name videos too, but not where these are."""
_LINES = (".txt", ".lst", ".list")
_NO_DELIMITER = "\x1f"
"""A character of no name."""


def read_table(path: Path | str, id_column: str | None = None, url_column: str | None = None) -> Iterator[Video]:
    """Streams the videos of a list.

    The columns of :class:`~pipeline.types.Video` are taken where they are there under these names, whatever their case.
    Where there is no column of ids, the ids are those in the URLs or paths, or made of the files' names. A path that is
    not merely the id and an ending becomes the URL: the file's place in a local folder.

    Args:
        path: ``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``, or ``.txt`` with an id, URL or path on each line.
        id_column: the column of ids, when its name is none of the usual ones.
        url_column: the same for URLs.

    Raises:
        InputError: the file is missing, is not what its name says, or has no such column.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is a folder, not a list" if path.is_dir() else f"there is no list {path}")
    for number, row in enumerate(_rows(path, {id_column, url_column}), start=1):
        try:
            plain = {_plain(str(name)): value for name, value in row.items()}
            yield _to_video({**row, **plain}, id_column, url_column)
        except KeyError as error:
            raise InputError(
                f"{path}: no column {error.args[0]} (there are: {', '.join(map(str, row))}); "
                "name yours with --id-column or --url-column"
            ) from None
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: row {number} cannot be read ({error})") from None


def _rows(path: Path, named: Collection[str | None]) -> Iterator[Mapping[str, Any]]:
    kind = path.suffix.lower()
    if kind in (".jsonl", ".ndjson"):
        yield from _json_rows(path)
    elif kind == ".parquet":
        yield from _parquet_rows(path)
    elif kind in (".csv", ".tsv", *_LINES):
        yield from _text_rows(path, {*ID_COLUMNS, *URL_COLUMNS, *PATH_COLUMNS, *named})
    else:
        raise InputError(f"{path}: unknown kind of list; known are .csv, .tsv, .jsonl, .parquet and .txt")


def _json_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise InputError(f"{path}: line {number} is not JSON ({error})") from None
                if not isinstance(row, dict):
                    raise InputError(f"{path}: line {number} is not an object with a video's id or URL")
                yield row
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8 ({error}); save it as one") from None


def _parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256):
            yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None


def _text_rows(path: Path, known: Collection[str | None]) -> Iterator[Mapping[str, Any]]:
    """Rows of a delimited file; without a header that we know, its first column is of ids, URLs or paths."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            first = lines.readline()
            lines.seek(0)
            reader = csv.reader(lines, delimiter=delimiter_of(first, path.suffix.lower()))
            names = next(reader, [])
            if not any(name in known or _plain(name) in known for name in names):
                one_each = path.suffix.lower() in _LINES
                if len(names) > 1 and not (one_each and _meaning(first) == "path"):
                    raise InputError(
                        f"{path}: its first line names no column of ids, URLs or paths ({', '.join(names)[:200]}); "
                        f"known are {', '.join((*ID_COLUMNS, *URL_COLUMNS, *PATH_COLUMNS))}"
                    )
                lines.seek(0)
                # a name may hold commas, where no line has columns
                reader = csv.reader(lines, delimiter=_NO_DELIMITER if one_each else ",")
                names = [_meaning(first) if names else ""]
            for cells in reader:
                if any(cells):
                    yield dict(zip(names, cells, strict=False))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8 ({error}); save it as one") from None
    except csv.Error as error:
        raise InputError(f"{path}: not a table that can be read ({error})") from None


def delimiter_of(header: str, suffix: str = "") -> str:
    """What separates the columns of a file with this first line (some copies of a list use ``;``)."""
    if suffix == ".tsv":
        return "\t"
    return max(",;\t", key=header.count) if header else ","


def _plain(name: str) -> str:
    """A column's name as it is looked up: ``Video ID`` is ``video_id``."""
    return name.strip().lower().replace(" ", "_")


def _meaning(cell: str) -> str:
    if "://" in cell:
        return "url"
    return "path" if "/" in cell or cell.count(".") == 1 else "video_id"


def _to_video(row: Mapping[str, Any], id_column: str | None, url_column: str | None) -> Video:
    """The row as a video; raises KeyError with the name of the column that is missing."""
    # NaN is what pandas makes of an empty cell
    given = {name: value for name, value in row.items() if value not in (None, "") and value == value}
    url = _pick(given, row, url_column, URL_COLUMNS)
    video_id = _pick(given, row, id_column, ID_COLUMNS)
    path = _pick(given, row, None, PATH_COLUMNS)
    if video_id is None:
        if url is None and path is None:
            if any(name in row for name in (id_column, url_column, *ID_COLUMNS, *URL_COLUMNS, *PATH_COLUMNS)):
                raise ValueError("it has no id, URL or path")
            raise KeyError(" or ".join(("video_id", "url", "path")))
        video_id = id_from_url(url) if url is not None else _id_of_file(str(path))
    elif url is None and "://" in video_id:
        url, video_id = video_id, id_from_url(video_id)
    if url is None and path is not None and _tells_where(path, video_id):
        url = path
    return Video(
        video_id,
        url,
        split=str(given.get("split", "train")),
        category_1=_text(given.get("category_1")),
        category_2=_text(given.get("category_2")),
        task_id=_text(given.get("task_id")),
        rank=rank_of(given.get("rank")),
        captions=captions_of(row.get("captions")),
    )


def _id_of_file(path: str) -> str:
    """The id in a path; what a video's name has that no id may have, such as spaces, is replaced."""
    found = id_from_path(path)
    return found if not found or is_video_id(found) or path.endswith(_FEATURES) else id_of_name(found)


def _tells_where(path: str, video_id: str) -> bool:
    """Whether a path says more of where a video is than that the file is called by its id, as is looked for anyway."""
    place = PurePosixPath(path)
    return place.suffix not in _FEATURES and (len(place.parts) > 1 or place.stem != video_id)


def _pick(given: Mapping[str, Any], row: Mapping[str, Any], named: str | None, usual: Sequence[str]) -> str | None:
    if named is not None and named not in row:
        raise KeyError(named)
    names = (named,) if named is not None else usual
    return next((str(given[name]).strip() for name in names if name in given), None)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def rank_of(value: Any) -> int | None:
    """A search rank; None, and an empty text: there is none. ``27.0`` is 27, as pandas writes where some have none.

    Raises:
        ValueError: it is no whole number, or none that a manifest can hold.
    """
    if value in (None, ""):
        return None
    try:
        rank = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"the rank {_shown(value)} is not a number") from None
    if not rank.is_integer() or abs(rank) >= 2**31:
        raise ValueError(f"the rank {_shown(value)} is not a whole number of 32 bits; is this the right column?")
    return int(rank)


def captions_of(value: Any) -> list[Caption] | None:
    """Captions from a list of ``{start, end, text}``, from HowTo100M's three lists, or from JSON text of either.

    A time that is missing (null) becomes NaN, with which :func:`~pipeline.datasets.table.write_manifest` leaves the
    caption out and counts it. A text that is missing, null or NaN (what pandas makes of the word "null"), is empty.
    Half of a surrogate pair, which JSON can spell and UTF-8 cannot, becomes U+FFFD: else no file could hold the text.

    Raises:
        ValueError: it is none of these; the message says which caption is wrong, and what is expected.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"captions: not JSON ({error}); {_EXPECTED}") from None
    try:
        rows = _caption_rows(value)
        return [Caption(_time(start), _time(end), without_surrogates(_words(text))) for start, end, text in rows]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(f"captions: {_wrong_caption(value)}; {_EXPECTED}") from None


def _caption_rows(value: Any) -> list[tuple[Any, Any, Any]]:
    if isinstance(value, Mapping):
        return list(zip(value["start"], value["end"], value["text"], strict=True))
    return [(one["start"], one["end"], one["text"]) for one in value]


def _time(value: Any) -> float:
    return math.nan if value is None else float(value)


def _words(value: Any) -> str:
    return "" if value is None or value != value else str(value)


def _wrong_caption(value: Any) -> str:
    """What is wrong with captions that are none: looked for only then, since a list may have millions."""
    if isinstance(value, Mapping):
        missing = [name for name in _FIELDS if not isinstance(value.get(name), Sequence)]
        if missing:
            return f"no list {missing[0]!r}"
        if len({len(value[name]) for name in _FIELDS}) > 1:
            return f"{', '.join(f'{counted(len(value[name]), name)}' for name in _FIELDS)}, and not as many of each"
        value = [dict(zip(_FIELDS, row, strict=True)) for row in _caption_rows(value)]
    if not isinstance(value, Sequence):
        return f"{_shown(value)} is no list"
    for number, one in enumerate(value, start=1):
        if not isinstance(one, Mapping):
            return f"number {number} is {_shown(one)}"
        for name in _FIELDS:
            if name not in one:
                return f"number {number} has no {name!r}"
            if name != "text" and not _is_number(one[name]):
                return f"the {name} of number {number} is {_shown(one[name])}"
    return f"{_shown(value)} cannot be read"


def _is_number(value: Any) -> bool:
    try:
        _time(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _shown(value: Any) -> str:
    return " ".join(repr(value).split())[:40]
