"""Writes the list of videos that there are to get, and says what is in one.

python -m pipeline.manifest build howto100m --csv HowTo100M_v1.csv --captions caption.json
python -m pipeline.manifest build table my-videos.csv --out manifests/mine.parquet
python -m pipeline.manifest show manifests/howto100m.parquet
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.progress import Progress, TaskID
from rich.table import Table

from pipeline.cli import console, output_file, positive_float, positive_int, progress_bar, run_verb, verb_parser
from pipeline.datasets.contents import contents_of
from pipeline.datasets.crosstask import read_crosstask
from pipeline.datasets.files import existing
from pipeline.datasets.generic import read_table
from pipeline.datasets.hmdb51 import read_hmdb51
from pipeline.datasets.howto100m import read_howto100m, read_task_names, task_ids
from pipeline.datasets.jsonfile import LargeObject
from pipeline.datasets.lsmdc import read_lsmdc
from pipeline.datasets.mining_youtube import read_mining_youtube
from pipeline.datasets.msrvtt import read_msrvtt
from pipeline.datasets.picklefile import pickle_to_json
from pipeline.datasets.subset import Subset
from pipeline.datasets.table import Manifest, ManifestSummary, Refused, write_manifest
from pipeline.datasets.ucf101 import read_ucf101
from pipeline.datasets.youcook2 import read_youcook2
from pipeline.errors import InputError
from pipeline.types import Video
from pipeline.wording import counted


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the verb."""
    arguments = _parser().parse_args(argv)
    arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = verb_parser(__doc__)
    verbs = parser.add_subparsers(required=True, metavar="build|merge|show")
    build = verbs.add_parser("build", help="write a manifest from a dataset's own files")
    datasets = build.add_subparsers(required=True, dest="dataset", metavar="DATASET")
    _add_datasets(datasets)
    for dataset in datasets.choices.values():
        dataset.add_argument("--out", type=output_file, help="default: manifests/<dataset or file>.parquet")
        _add_subset_arguments(dataset)
        dataset.set_defaults(run=_build)
    merge = verbs.add_parser("merge", help="write one manifest of several; of a video listed twice, the first counts")
    merge.add_argument("manifests", type=Path, nargs="+", help="the more trusted first")
    merge.add_argument("--out", type=output_file, required=True, help="the manifest to write")
    _add_subset_arguments(merge)
    merge.set_defaults(run=_build, read=_read_manifests, dataset="merged")
    show = verbs.add_parser("show", help="say what is in a manifest")
    show.add_argument("manifest", type=Path, help="manifests/<name>.parquet")
    show.set_defaults(run=_show)
    return parser


def _add_datasets(datasets: Any) -> None:
    """One command for each dataset, with the files that its authors publish."""
    howto100m = datasets.add_parser("howto100m", help="HowTo100M_v1.csv, with caption.json")
    howto100m.add_argument("--csv", type=Path, required=True, help="HowTo100M_v1.csv")
    howto100m.add_argument("--captions", type=Path, help="caption.json, raw_caption.json or caption.pickle")
    howto100m.add_argument(
        "--tasks", type=Path, help="task_ids.csv, with which --task takes the title of a task as well"
    )
    howto100m.set_defaults(read=_read_howto100m)
    youcook2 = datasets.add_parser("youcook2", help="youcookii_annotations_trainval.json")
    youcook2.add_argument("annotations", type=Path, help="youcookii_annotations_trainval.json")
    youcook2.set_defaults(read=lambda given, *_: read_youcook2(given.annotations))
    msrvtt = datasets.add_parser("msrvtt", help="MSRVTT_data.json, with the lists of the 1k-A test")
    msrvtt.add_argument("data", type=Path, help="MSRVTT_data.json")
    msrvtt.add_argument("--test", type=Path, help="MSRVTT_JSFUSION_test.csv: the 1k-A test, a sentence for each clip")
    msrvtt.add_argument("--train", type=Path, help="MSRVTT_train.7k.csv or MSRVTT_train.9k.csv")
    msrvtt.add_argument("--from-youtube", action="store_true", help="whole videos instead of the authors' clips")
    msrvtt.set_defaults(read=lambda given, *_: read_msrvtt(given.data, given.test, given.train, given.from_youtube))
    crosstask = datasets.add_parser("crosstask", help="the folder crosstask_release")
    crosstask.add_argument("folder", type=Path, help="crosstask_release")
    crosstask.add_argument(
        "--train-per-task", type=positive_int, default=0, help="so many videos of each primary task are for training, "
        "others for the test; 30 in the authors' program; default: none",
    )  # fmt: skip
    crosstask.add_argument("--draw", type=int, default=0, help="which draw of these; default: 0")
    crosstask.set_defaults(read=lambda given, *_: read_crosstask(given.folder, given.train_per_task, given.draw))
    mining = datasets.add_parser("miningyoutube", help="the repository Mining_YouTube_dataset")
    mining.add_argument("folder", type=Path, help="Mining_YouTube_dataset")
    mining.add_argument("--annotations", type=Path, help="the folder groundTruth, with <video>.txt")
    mining.add_argument(
        "--labels-per-second", type=positive_float, help="lines of a second in these: frames per second, mostly"
    )
    mining.set_defaults(read=_read_mining_youtube)
    lsmdc = datasets.add_parser("lsmdc", help="LSMDC16_annos_training.csv and its like")
    for split in ("train", "validation", "test"):
        lsmdc.add_argument(f"--{split}", type=Path, help="a tab-separated list")
    lsmdc.set_defaults(read=_read_lsmdc)
    for name, read, files in (
        ("ucf101", read_ucf101, "the folder ucfTrainTestlist"),
        ("hmdb51", read_hmdb51, "the folder testTrainMulti_7030_splits"),
    ):
        actions = datasets.add_parser(name, help=files)
        actions.add_argument("folder", type=Path, help=files.removeprefix("the folder "))
        actions.add_argument("--fold", type=int, choices=(1, 2, 3), default=1, help="of the three official; default: 1")
        actions.set_defaults(read=lambda given, *_, read=read: read(given.folder, given.fold))
    table = datasets.add_parser("table", help="any CSV, TSV, JSON lines, Parquet or text file of ids, URLs or paths")
    table.add_argument("file", type=Path, help=".csv, .tsv, .jsonl, .parquet or .txt")
    table.add_argument("--id-column", help="the column of ids; default: video_id, id, ...")
    table.add_argument("--url-column", help="the column of URLs; default: url, video_url, ...")
    table.set_defaults(read=lambda given, *_: read_table(given.file, given.id_column, given.url_column))


def _add_subset_arguments(parser: argparse.ArgumentParser) -> None:
    keep = parser.add_argument_group("which videos to keep (all conditions that are given must hold)")
    keep.add_argument("--category", action="append", default=[], help="a first or second category; repeatable")
    keep.add_argument("--task", action="append", default=[], help="a task id (with --tasks a title too); repeatable")
    keep.add_argument("--rank", type=int, help="search rank up to which videos are kept")
    keep.add_argument("--split", action="append", default=[], help="a split; repeatable")
    keep.add_argument("--ids", type=Path, help="a file that lists the ids, URLs or paths to keep")
    keep.add_argument("--share", type=float, default=1.0, help="a random part of them, 0 to 1")
    keep.add_argument("--seed", type=int, default=0, help="of --share; default: 0")
    keep.add_argument("--limit", type=positive_int, help="the first so many")


def _subset(arguments: argparse.Namespace) -> Subset:
    if not 0 < arguments.share <= 1:
        raise InputError(f"--share {arguments.share}: give a part of the videos, more than 0 and at most 1")
    ids = None if arguments.ids is None else {video.video_id for video in read_table(arguments.ids)}
    named = getattr(arguments, "tasks", None)
    return Subset(
        arguments.category,
        arguments.task if named is None else task_ids(arguments.task, read_task_names(named)),
        arguments.rank,
        arguments.split,
        ids,
        arguments.share,
        arguments.seed,
        arguments.limit,
    )


def _read_mining_youtube(arguments: argparse.Namespace, *_: object) -> Iterator[Video]:
    if arguments.annotations is not None and arguments.labels_per_second is None:
        raise InputError(
            "--annotations needs --labels-per-second: the authors label every frame, and where one counts as a second "
            "all steps lie many times too late; of labels made once a second it is 1"
        )
    return read_mining_youtube(arguments.folder, arguments.annotations, arguments.labels_per_second or 1.0)


def _read_howto100m(arguments: argparse.Namespace, stack: ExitStack, progress: Progress) -> Iterator[Video]:
    path: Path | None = arguments.captions
    if path is None:
        return read_howto100m(arguments.csv)
    existing(path, "the authors' HowTo100M.zip")  # said before there are bars
    if path.suffix in (".pickle", ".pkl"):
        folder = stack.enter_context(TemporaryDirectory(prefix="captions", dir=_out(arguments).parent))
        path = Path(folder) / "captions.json"
        pickle_to_json(arguments.captions, path, _megabytes(progress, "pickle (MB)", arguments.captions))
    captions = stack.enter_context(LargeObject(path, _megabytes(progress, "captions (MB)", path)))
    return read_howto100m(arguments.csv, captions)


def _megabytes(progress: Progress, name: str, path: Path) -> Callable[[int], None]:
    """A bar for a file that is read."""
    size = path.stat().st_size / 1e6 if path.is_file() else None
    bar = progress.add_task(name, total=size)
    return lambda done: progress.update(bar, completed=done / 1e6)


def _read_lsmdc(arguments: argparse.Namespace, *_: object) -> Iterator[Video]:
    given = {split: getattr(arguments, split) for split in ("train", "validation", "test")}
    lists = {split: path for split, path in given.items() if path is not None}
    if not lists:
        raise InputError("no list of LSMDC is given: name one or more with --train, --validation and --test")
    return read_lsmdc(lists)


def _read_manifests(arguments: argparse.Namespace, *_: object) -> Iterator[Video]:
    # all are opened before the first is read, so that a missing one is said at once
    return itertools.chain.from_iterable([Manifest(path) for path in arguments.manifests])


def _build(arguments: argparse.Namespace) -> None:
    out = _out(arguments)
    if arguments.dataset == "table" and out.resolve() == arguments.file.resolve():
        raise InputError(f"{out}: this is the list itself, which would be replaced; name another file with --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack, progress_bar() as progress:
        videos = _subset(arguments).of(arguments.read(arguments, stack, progress))
        bars: list[TaskID] = []

        def show(summary: ManifestSummary) -> None:
            if not bars:  # not before there is a video: errors need no empty bar above them
                bars.append(progress.add_task("videos", total=None))
            if summary.rows % 500 == 0:
                progress.update(bars[0], completed=summary.rows)

        summary = write_manifest(out, videos, show)
        progress.update(bars[0], completed=summary.rows)
    console.print(_closing_line(summary), soft_wrap=True)
    for what, refused in (("duplicate", summary.duplicates), ("malformed", summary.malformed)):
        if refused.count:
            console.print(f"  left out {_refused_line(what, refused)}", soft_wrap=True)
    if summary.captions_left_out:
        left_out = counted(summary.captions_left_out, "caption")
        console.print(f"  left out {left_out} with an end before its start, or no time of a video", soft_wrap=True)


def _out(arguments: argparse.Namespace) -> Path:
    source = arguments.file.stem if arguments.dataset == "table" else arguments.dataset
    return Path(arguments.out or Path("manifests") / f"{source}.parquet")


def _closing_line(summary: ManifestSummary) -> str:
    captions = _captions(summary.captions, summary.captioned) if summary.captioned else "no captions"
    return f"manifest: {counted(summary.rows, 'video')}, {captions} in {summary.path}"


def _captions(captions: int, videos: int) -> str:
    """``videos``: those with one caption or more."""
    return f"{counted(captions, 'caption')} of {counted(videos, 'video')}"


def _refused_line(what: str, refused: Refused) -> str:
    names = ", ".join(repr(name) for name in refused.names)
    more = f" and {refused.count - len(refused.names):,} more" if refused.count > len(refused.names) else ""
    return f"{counted(refused.count, f'{what} id')}: {names}{more}"


def _show(arguments: argparse.Namespace) -> None:
    manifest = Manifest(arguments.manifest)
    found = contents_of(manifest)
    table = Table(title=str(manifest.path), show_header=False)
    table.add_row("videos", f"{found.videos:,} ({found.urls:,} with their own URL)")
    table.add_row("captions", _captions(found.captions, found.captioned))
    if found.captions:
        table.add_row("hours", f"{found.seconds / 3600:,.1f}, up to the last caption of each video")
    table.add_row("splits", ", ".join(f"{name} {count:,}" for name, count in found.splits.most_common()))
    table.add_section()
    for name, count in found.categories.most_common(30):
        table.add_row(name, f"{count:,}")
    console.print(table)


if __name__ == "__main__":
    run_verb(main)
