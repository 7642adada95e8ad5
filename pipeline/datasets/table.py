"""The manifest: one Parquet row per video, written as a stream and read by columns.

Every dataset ends in this one table (``docs/formats.md``), so that nothing after it knows where a video came from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.types import LATEST_TIME, Caption, Video, without_surrogates

CAPTIONS = pa.list_(pa.struct([("start", pa.float32()), ("end", pa.float32()), ("text", pa.string())]))
SCHEMA = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        ("url", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        ("category_1", pa.string()),
        ("category_2", pa.string()),
        ("task_id", pa.string()),
        ("rank", pa.int32()),
        ("captions", CAPTIONS),
    ]
)
ROW_GROUP = 4096
NAMED = 20
"""Refused ids that a summary names; the others are counted."""
_IF_CAPTIONED = "captions.list.element.start"
"""One leaf of the captions tells whether they are there, at a fraction of their bytes."""
_PLAIN = [name for name in SCHEMA.names if name != "captions"]
LONGEST_ID = 64
"""Characters of an id."""
_ID = re.compile(rf"[A-Za-z0-9_-][A-Za-z0-9_.-]{{0,{LONGEST_ID - 1}}}")


def is_video_id(text: str) -> bool:
    """Whether ``text`` can be a video's id: a name that is no path, hidden file or too long for a file system."""
    return _ID.fullmatch(text) is not None


@dataclass
class Refused:
    """Ids that were left out for one reason: how many, and the first of them by name."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Counts an id, and keeps its name while there are few."""
        self.count += 1
        if len(self.names) < NAMED:
            self.names.append(name)


@dataclass
class ManifestSummary:
    """What :func:`write_manifest` wrote and what it refused."""

    path: Path
    rows: int = 0
    captions: int = 0
    captioned: int = 0
    """Rows with one caption or more."""
    captions_left_out: int = 0
    """Captions that end before they start, or whose times are of no video."""
    duplicates: Refused = field(default_factory=Refused)
    malformed: Refused = field(default_factory=Refused)


def write_manifest(
    path: Path | str, videos: Iterable[Video], on_row: Callable[[ManifestSummary], None] | None = None
) -> ManifestSummary:
    """Writes a manifest as the videos come; memory holds one row group and the ids seen.

    Rows with an id that was there before or that is malformed are left out, and so are captions that end before they
    start: which of the two times is wrong nobody knows. The file is written beside ``path`` and
    renamed once complete.

    Args:
        path: the manifest, by custom ``manifests/<name>.parquet``.
        videos: the rows.
        on_row: called after each row, for progress.

    Raises:
        InputError: no row was left.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    summary = ManifestSummary(path)
    unfinished = path.with_name(f".{path.name}.part")
    try:
        with pq.ParquetWriter(unfinished, SCHEMA, compression="zstd") as writer:
            group: list[Video] = []
            for video in _accepted(videos, summary):
                group.append(video)
                if len(group) == ROW_GROUP:
                    writer.write_table(_to_table(group), row_group_size=ROW_GROUP)
                    group.clear()
                if on_row is not None:
                    on_row(summary)
            if group:
                writer.write_table(_to_table(group), row_group_size=ROW_GROUP)
        if not summary.rows:
            raise InputError(
                f"{path}: not one video was found ({summary.malformed.count} malformed ids"
                f"{', such as ' + repr(summary.malformed.names[0]) if summary.malformed.names else ''}); "
                "is this the right file and column?"
            )
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return summary


def _accepted(videos: Iterable[Video], summary: ManifestSummary) -> Iterator[Video]:
    seen: set[str] = set()
    for video in videos:
        if not is_video_id(video.video_id):
            summary.malformed.add(video.video_id)
        elif video.video_id in seen:
            summary.duplicates.add(video.video_id)
        else:
            seen.add(video.video_id)
            summary.rows += 1
            if video.captions:
                possible = [one for one in video.captions if -LATEST_TIME < one.start <= one.end < LATEST_TIME]
                if len(possible) < len(video.captions):
                    summary.captions_left_out += len(video.captions) - len(possible)
                    video = replace(video, captions=possible)
                summary.captions += len(possible)
                summary.captioned += bool(possible)
            yield video


def _to_table(videos: Sequence[Video]) -> pa.Table:
    try:
        return _as_table(videos)
    except UnicodeEncodeError:  # rare, and looking at each text beforehand would take as long as all the rest
        return _as_table([_without_surrogates(video) for video in videos])


def _without_surrogates(video: Video) -> Video:
    texts: dict[str, Any] = {
        name: without_surrogates(value) for name, value in vars(video).items() if isinstance(value, str)
    }
    captions = video.captions and [one._replace(text=without_surrogates(one.text)) for one in video.captions]
    return replace(video, **texts, captions=captions)


def _as_table(videos: Sequence[Video]) -> pa.Table:
    columns = [pa.array([getattr(video, name) for video in videos], SCHEMA.field(name).type) for name in _PLAIN]
    return pa.Table.from_arrays([*columns, _captions_array([video.captions for video in videos])], schema=SCHEMA)


def _captions_array(lists: Sequence[Sequence[Caption] | None]) -> pa.Array:
    """Column by column: a dictionary per caption would cost ten times the memory."""
    offsets, total = [], 0
    for captions in lists:
        offsets.append(None if captions is None else total)
        total += len(captions or ())
    flat = [caption for captions in lists for caption in captions or ()]
    fields = [
        pa.array([caption.start for caption in flat], pa.float32()),
        pa.array([caption.end for caption in flat], pa.float32()),
        pa.array([caption.text for caption in flat], pa.string()),
    ]
    structs = pa.StructArray.from_arrays(fields, fields=list(CAPTIONS.value_type))
    return pa.ListArray.from_arrays(pa.array([*offsets, total], pa.int32()), structs, type=CAPTIONS)


class Manifest:
    """A manifest on disk.

    Raises:
        InputError: the file is missing or is no manifest.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"there is no manifest {self.path}; write one with: python -m pipeline.manifest build ...")
        try:
            self._file = pq.ParquetFile(self.path)
        except (pa.ArrowInvalid, OSError) as error:
            cause = str(error).partition(".")[0].splitlines()[0]
            raise InputError(
                f"{self.path}: not a readable Parquet file ({cause}); of a list make a manifest with: "
                f"python -m pipeline.manifest build table {self.path}"
            ) from None
        missing = [name for name in SCHEMA.names if name not in self._file.schema_arrow.names]
        if missing:
            raise InputError(
                f"{self.path}: not a manifest, the columns {', '.join(missing)} are missing; "
                f"make one of it with: python -m pipeline.manifest build table {self.path}"
            )
        for field_ in SCHEMA:
            found = self._file.schema_arrow.field(field_.name).type
            if not (found.equals(field_.type) or (pa.types.is_string(field_.type) and pa.types.is_large_string(found))):
                raise InputError(
                    f"{self.path}: not a manifest, its {field_.name} is {found}, not {field_.type}; "
                    f"make one of it with: python -m pipeline.manifest build table {self.path}"
                )
        self._row_group_of: dict[str, int] = {}

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @property
    def ledger(self) -> Path:
        """The folder of the ledger that belongs to this manifest."""
        return self.path.with_name(f"{self.name}.ledger")

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def __iter__(self) -> Iterator[Video]:
        return self.videos()

    def ids(self) -> list[str]:
        """All video ids, in the manifest's order."""
        return list(self.table(["video_id"]).column(0).to_pylist())

    def knows_all_captions(self) -> bool:
        """Whether there is no video whose captions are not known."""
        return not any(batch.column("captions").null_count for batch in self.batches([_IF_CAPTIONED]))

    def to_fetch(self, skip: Container[str] = ()) -> Iterator[tuple[Video, bool]]:
        """The rows without their captions but for the ids in ``skip``, and whether their captions are known."""
        for group in range(self._file.num_row_groups):
            table = self._file.read_row_group(group, columns=_PLAIN)
            rows = [row for row, name in enumerate(table.column("video_id").to_pylist()) if name not in skip]
            if not rows:
                continue
            known = self._file.read_row_group(group, columns=[_IF_CAPTIONED]).column("captions").is_valid().to_pylist()
            for row, values in zip(rows, table.take(rows).to_pylist(), strict=True):
                yield Video(**values), known[row]

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Whole columns, for counting."""
        return self._file.read(columns=list(columns))

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Columns, a few thousand rows at a time; ``captions.list.element.end`` names a part of the captions."""
        yield from self._file.iter_batches(batch_size=ROW_GROUP, columns=list(columns))

    def videos(self, with_captions: bool = True, skip: Container[str] = ()) -> Iterator[Video]:
        """The rows in order but for the ids in ``skip``.

        Without captions, ``captions`` is None and the file is read much faster.
        """
        # Captions are long: few rows at a time bound the memory of a row group of 4,096 videos.
        columns, rows = (SCHEMA.names, 256) if with_captions else (_PLAIN, ROW_GROUP)
        for batch in self._file.iter_batches(batch_size=rows, columns=columns):
            captions = _read_captions(batch.column("captions")) if with_captions else [None] * len(batch)
            plain = [batch.column(name).to_pylist() for name in _PLAIN]
            for values, own in zip(zip(*plain, strict=True), captions, strict=True):
                if values[0] not in skip:
                    yield Video(**dict(zip(_PLAIN, values, strict=True)), captions=own)

    def captions(self, video_ids: Iterable[str]) -> dict[str, list[Caption] | None]:
        """Captions of some videos (None: not known); ids that the manifest does not have are absent."""
        if not self._row_group_of:
            for group in range(self._file.num_row_groups):
                ids = self._file.read_row_group(group, columns=["video_id"]).column(0).to_pylist()
                self._row_group_of.update(dict.fromkeys(ids, group))
        wanted = set(video_ids)
        found: dict[str, list[Caption] | None] = {}
        for group in sorted({self._row_group_of[video_id] for video_id in wanted if video_id in self._row_group_of}):
            table = self._file.read_row_group(group, columns=["video_id", "captions"])
            rows = [row for row, name in enumerate(table.column(0).to_pylist()) if name in wanted]
            chosen = table.take(pa.array(rows)).combine_chunks()
            lists = _read_captions(chosen.column(1).combine_chunks())
            found.update(zip(chosen.column(0).to_pylist(), lists, strict=True))
        return found


def _read_captions(column: Any) -> list[list[Caption] | None]:
    flat = column.flatten()
    captions = [Caption(*values) for values in zip(*(part.to_pylist() for part in flat.flatten()), strict=True)]
    lengths = column.value_lengths().to_pylist()
    lists: list[list[Caption] | None] = []
    start = 0
    for length in lengths:
        lists.append(None if length is None else captions[start : start + length])
        start += length or 0
    return lists
