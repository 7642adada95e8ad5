"""The manifest: one Parquet row per video, written as a stream and read by columns.

Every dataset ends in this one table (``docs/formats.md``), so that nothing after it knows where a video came from.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.datasets.caption_columns import CAPTIONS, first_incomplete, from_column, to_column
from pipeline.datasets.identity import is_video_id
from pipeline.errors import InputError
from pipeline.replacing import replace_file
from pipeline.types import LATEST_TIME, Caption, Video, without_surrogates

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
    start: which of the two times is wrong nobody knows. The file is there once it is complete.

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

    def write(part: Path) -> None:
        with pq.ParquetWriter(part, SCHEMA, compression="zstd", write_page_checksum=True) as writer:
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

    replace_file(path, write, path.with_name(f".{path.name}.part"))
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
    return pa.Table.from_arrays([*columns, to_column([video.captions for video in videos])], schema=SCHEMA)


class Manifest:
    """A manifest on disk.

    Raises:
        InputError: the file is missing or is no manifest; when it is read also: it is damaged, or a caption lacks its
            text or a time.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"there is no manifest {self.path}; write one with: python -m pipeline.manifest build ...")
        try:
            self._file = pq.ParquetFile(self.path, page_checksum_verification=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(
                f"{self.path}: not a readable Parquet file ({_cause(error)}); of a list make a manifest with: "
                f"python -m pipeline.manifest build table {self.path} --out NEW.parquet"
            ) from None
        missing = [name for name in SCHEMA.names if name not in self._file.schema_arrow.names]
        if missing:
            raise InputError(
                f"{self.path}: not a manifest, it lacks {', '.join(missing)}; "
                f"make one of it with: python -m pipeline.manifest build table {self.path} --out NEW.parquet"
            )
        for field_ in SCHEMA:
            found = self._file.schema_arrow.field(field_.name).type
            if not (found.equals(field_.type) or (pa.types.is_string(field_.type) and pa.types.is_large_string(found))):
                raise InputError(
                    f"{self.path}: not a manifest, its {field_.name} is {found}, not {field_.type}; "
                    f"make one of it with: python -m pipeline.manifest build table {self.path} --out NEW.parquet"
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
            table = self._row_group(group, _PLAIN)
            rows = [row for row, name in enumerate(table.column("video_id").to_pylist()) if name not in skip]
            if not rows:
                continue
            known = self._row_group(group, [_IF_CAPTIONED]).column("captions").is_valid().to_pylist()
            for row, values in zip(rows, table.take(rows).to_pylist(), strict=True):
                yield Video(**values), known[row]

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Whole columns, for counting."""
        with self._damage_named():
            return _checked(self._file.read(columns=list(columns)))

    def batches(self, columns: Sequence[str], rows: int = ROW_GROUP) -> Iterator[pa.RecordBatch]:
        """Columns, so many rows at a time; ``captions.list.element.end`` names a part of the captions."""
        with self._damage_named():
            for batch in self._file.iter_batches(batch_size=rows, columns=list(columns)):
                yield _checked(batch)

    def videos(self, with_captions: bool = True, skip: Container[str] = ()) -> Iterator[Video]:
        """The rows in order but for the ids in ``skip``.

        Without captions, ``captions`` is None and the file is read much faster.
        """
        # Captions are long: few rows at a time bound the memory of a row group of 4,096 videos.
        columns, rows = (SCHEMA.names, 256) if with_captions else (_PLAIN, ROW_GROUP)
        for batch in self.batches(columns, rows):
            plain = [batch.column(name).to_pylist() for name in _PLAIN]
            captions = self._captions(plain[0], batch.column("captions")) if with_captions else [None] * len(batch)
            for values, own in zip(zip(*plain, strict=True), captions, strict=True):
                if values[0] not in skip:
                    yield Video(**dict(zip(_PLAIN, values, strict=True)), captions=own)

    def captions(self, video_ids: Iterable[str]) -> dict[str, list[Caption] | None]:
        """Captions of some videos (None: not known); ids that the manifest does not have are absent."""
        if not self._row_group_of:
            for group in range(self._file.num_row_groups):
                ids = self._row_group(group, ["video_id"]).column(0).to_pylist()
                self._row_group_of.update(dict.fromkeys(ids, group))
        wanted = set(video_ids)
        found: dict[str, list[Caption] | None] = {}
        for group in sorted({self._row_group_of[video_id] for video_id in wanted if video_id in self._row_group_of}):
            table = self._row_group(group, ["video_id", "captions"])
            rows = [row for row, name in enumerate(table.column(0).to_pylist()) if name in wanted]
            chosen = table.take(pa.array(rows)).combine_chunks()
            names = chosen.column(0).to_pylist()
            found.update(zip(names, self._captions(names, chosen.column(1).combine_chunks()), strict=True))
        return found

    def _row_group(self, group: int, columns: Sequence[str]) -> pa.Table:
        with self._damage_named():
            return _checked(self._file.read_row_group(group, columns=list(columns)))

    def _captions(self, video_ids: Sequence[str], column: Any) -> list[list[Caption] | None]:
        incomplete = first_incomplete(column)
        if incomplete is not None:
            row, place = incomplete
            raise InputError(
                f"{self.path}: caption {place + 1} of video {video_ids[row]} lacks its text, or a time of a video: "
                f"{column[row][place].as_py()}; mend what it was made of, or make a manifest of it with: "
                f"python -m pipeline.manifest build table {self.path} --out NEW.parquet"
            )
        return from_column(column)

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        """Damage behind the end of a Parquet file, which tells what is in it, shows only when that is read."""
        try:
            yield
        except (pa.ArrowException, OSError, IndexError) as error:
            raise InputError(
                f"{self.path}: damaged ({_cause(error)}); write it again with: python -m pipeline.manifest build ..."
            ) from None


def _checked(columns: Any) -> Any:
    """The same columns; raises pa.ArrowInvalid where a text is not in UTF-8, as other programs may write it."""
    columns.validate(full=True)
    return columns


def _cause(error: Exception) -> str:
    return str(error).partition(".")[0].splitlines()[0]
