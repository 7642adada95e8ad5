"""Writes the list of videos that there are to get, and says what is in one.

python -m pipeline.manifest build howto100m --csv HowTo100M_v1.csv --captions caption.json
python -m pipeline.manifest build table my-videos.csv --out manifests/mine.parquet
python -m pipeline.manifest show manifests/howto100m.parquet
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.progress import Progress
from rich.table import Table

from pipeline.cli import console, progress_bar, run_verb
from pipeline.datasets.generic import read_table
from pipeline.datasets.howto100m import read_howto100m
from pipeline.datasets.jsonfile import LargeObject
from pipeline.datasets.subset import Subset
from pipeline.datasets.table import Manifest, ManifestSummary, Refused, write_manifest
from pipeline.errors import InputError
from pipeline.types import Video


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the verb."""
    arguments = _parser().parse_args(argv)
    arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True, metavar="build|show")
    build = verbs.add_parser("build", help="write a manifest from a dataset's own files")
    datasets = build.add_subparsers(required=True, dest="dataset", metavar="DATASET")
    howto100m = datasets.add_parser("howto100m", help="HowTo100M_v1.csv, with caption.json")
    howto100m.add_argument("--csv", type=Path, required=True, help="HowTo100M_v1.csv")
    howto100m.add_argument("--captions", type=Path, help="caption.json or raw_caption.json")
    howto100m.set_defaults(read=_read_howto100m)
    table = datasets.add_parser("table", help="any CSV, TSV, JSON lines, Parquet or text file of ids, URLs or paths")
    table.add_argument("file", type=Path)
    table.add_argument("--id-column", help="the column of ids; default: video_id, id, ...")
    table.add_argument("--url-column", help="the column of URLs; default: url, video_url, ...")
    table.set_defaults(read=lambda arguments, *_: read_table(arguments.file, arguments.id_column, arguments.url_column))
    for dataset in datasets.choices.values():
        dataset.add_argument("--out", type=Path, help="the manifest; default: manifests/<dataset or file>.parquet")
        _add_subset_arguments(dataset)
        dataset.set_defaults(run=_build)
    show = verbs.add_parser("show", help="say what is in a manifest")
    show.add_argument("manifest", type=Path)
    show.set_defaults(run=_show)
    return parser


def _add_subset_arguments(parser: argparse.ArgumentParser) -> None:
    keep = parser.add_argument_group("which videos to keep (all conditions that are given must hold)")
    keep.add_argument("--category", action="append", default=[], help="a first or second category; repeatable")
    keep.add_argument("--task", action="append", default=[], help="a task id; repeatable")
    keep.add_argument("--rank", type=int, help="search rank up to which videos are kept")
    keep.add_argument("--split", action="append", default=[], help="a split; repeatable")
    keep.add_argument("--ids", type=Path, help="a file that lists the ids, URLs or paths to keep")
    keep.add_argument("--share", type=float, default=1.0, help="a random part of them, 0 to 1")
    keep.add_argument("--seed", type=int, default=0, help="of --share")
    keep.add_argument("--limit", type=int, help="the first so many")


def _subset(arguments: argparse.Namespace) -> Subset:
    if not 0 < arguments.share <= 1:
        raise InputError(f"--share {arguments.share}: give a part of the videos, more than 0 and at most 1")
    ids = None if arguments.ids is None else {video.video_id for video in read_table(arguments.ids)}
    return Subset(
        arguments.category,
        arguments.task,
        arguments.rank,
        arguments.split,
        ids,
        arguments.share,
        arguments.seed,
        arguments.limit,
    )


def _read_howto100m(arguments: argparse.Namespace, stack: ExitStack, progress: Progress) -> Iterator[Video]:
    captions = None
    if arguments.captions is not None:
        size = arguments.captions.stat().st_size if arguments.captions.is_file() else None
        bar = progress.add_task("captions (MB)", total=size and size / 1e6)
        captions = stack.enter_context(
            LargeObject(arguments.captions, lambda done: progress.update(bar, completed=done / 1e6))
        )
    return read_howto100m(arguments.csv, captions)


def _build(arguments: argparse.Namespace) -> None:
    source = arguments.file.stem if arguments.dataset == "table" else arguments.dataset
    out = arguments.out or Path("manifests") / f"{source}.parquet"
    with ExitStack() as stack, progress_bar() as progress:
        videos = _subset(arguments).of(arguments.read(arguments, stack, progress))
        bar = progress.add_task("videos", total=None)
        summary = write_manifest(out, videos, lambda summary: progress.update(bar, completed=summary.rows))
    console.print(_closing_line(summary), soft_wrap=True, markup=False)
    for what, refused in (("duplicate", summary.duplicates), ("malformed", summary.malformed)):
        if refused.count:
            console.print(f"  left out {_refused_line(what, refused)}", soft_wrap=True, markup=False)


def _closing_line(summary: ManifestSummary) -> str:
    known = summary.rows - summary.without_captions
    captions = f"{summary.captions:,} captions of {known:,} videos" if known else "no captions"
    return f"manifest: {summary.rows:,} videos, {captions} in {summary.path}"


def _refused_line(what: str, refused: Refused) -> str:
    names = ", ".join(repr(name) for name in refused.names)
    more = f" and {refused.count - len(refused.names):,} more" if refused.count > len(refused.names) else ""
    return f"{refused.count:,} {what} ids: {names}{more}"


def _show(arguments: argparse.Namespace) -> None:
    manifest = Manifest(arguments.manifest)
    splits: Counter[str] = Counter()
    categories: Counter[str] = Counter()
    captions = videos_with = urls = 0
    seconds = 0.0
    for video in manifest:
        splits[video.split] += 1
        categories[video.category_1 or "(none)"] += 1
        urls += video.url is not None
        if video.captions:
            videos_with += 1
            captions += len(video.captions)
            seconds += max(caption.end for caption in video.captions)
    table = Table(title=str(manifest.path), show_header=False)
    table.add_row("videos", f"{len(manifest):,} ({urls:,} with their own URL)")
    table.add_row("captions", f"{captions:,} of {videos_with:,} videos")
    if captions:
        table.add_row("hours", f"{seconds / 3600:,.1f}, up to the last caption of each video")
    table.add_row("splits", ", ".join(f"{name} {count:,}" for name, count in splits.most_common()))
    table.add_section()
    for name, count in categories.most_common(30):
        table.add_row(name, f"{count:,}")
    console.print(table)


if __name__ == "__main__":
    run_verb(main)
