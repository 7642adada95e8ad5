"""Looks after shards.

    python -m pipeline.shards verify shards/mft --manifest manifests/howto100m.parquet
    python -m pipeline.shards repair shards/mft
    python -m pipeline.shards repack shards/mft shards/mft-small --drop 3d --audio 8bit
    python -m pipeline.shards stats shards/mft
    python -m pipeline.shards show shards/mft dQw4w9WgXcQ
    python -m pipeline.shards upload shards/mft s3://bucket/mft --remove
    python -m pipeline.shards mount shards/mft s3://bucket/mft

Each can be stopped and started again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli import console, positive_int, progress_bar, run_verb, verb_parser
from pipeline.errors import InputError
from pipeline.wording import counted

if TYPE_CHECKING:
    from pipeline.shards.repack import Repacking
    from pipeline.types import Modality

_MODALITIES: tuple[Modality, ...] = ("text", "2d", "3d", "audio")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the verb."""
    parser = verb_parser(__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    verify = actions.add_parser(
        "verify", help="compare every byte with the indexes; exit code 1 where something is wrong"
    )
    verify.add_argument("--manifest", type=Path, help="also say which of its videos are not there")
    verify.add_argument("--redo", type=Path, help="write the ids of lost and missing videos here, one a line")
    repair = actions.add_parser("repair", help="take out what is damaged or repeated, make indexes again")
    repack = actions.add_parser("repack", help="write the samples into new shards")
    stats = actions.add_parser("stats", help="what the shards hold")
    show = actions.add_parser("show", help="one video's sample")
    upload = actions.add_parser("upload", help="put sealed shards into an object store; can be run again and again")
    mount = actions.add_parser("mount", help="make a folder of shards whose tars stay in an object store")
    for action in (verify, repair, repack, stats, show, upload, mount):
        action.add_argument("folder", type=Path, help="shards/<name>")
    for action in (verify, repair):
        action.add_argument("--workers", type=positive_int, default=4, help="shards looked at at once; default: 4")
    _add_repack_arguments(repack)
    show.add_argument("video_id", help="one that begins with - goes behind --")
    for action in (upload, mount):
        action.add_argument("url", help="s3://bucket/folder, gs://..., https://...")
    upload.add_argument(
        "--remove", action="store_true", help="remove tars here once they are there, and read them there"
    )
    arguments = parser.parse_args(argv)
    if arguments.action != "mount" and not arguments.folder.is_dir():
        from pipeline.shards.files import no_folder

        raise InputError(no_folder(arguments.folder))
    actions_of = {
        "verify": _verify,
        "repair": _repair,
        "repack": _repack,
        "stats": _stats,
        "show": _show,
        "upload": _upload,
        "mount": _mount,
    }
    actions_of[arguments.action](arguments)


def _add_repack_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", type=Path, help="folder of the new shards")
    parser.add_argument("--shard-bytes", type=positive_int, default=1_000_000_000, help="size of a shard; default: 1e9")
    parser.add_argument("--order", choices=["source", "id", "shuffled"], default="source", help="order of the samples")
    parser.add_argument("--split", help="only videos of this split")
    parser.add_argument("--videos", type=Path, help="only the videos whose ids this file lists, one a line")
    parser.add_argument("--drop", nargs="+", choices=_MODALITIES, default=[], help="modalities to leave out")
    parser.add_argument(
        "--add", nargs="+", default=[], metavar="MODALITY=FOLDER", help="take 2d, 3d or audio from other shards"
    )
    parser.add_argument(
        "--audio", choices=["keep", "float16", "8bit"], default="keep", help="how spectrograms are stored"
    )


def _verify(arguments: argparse.Namespace) -> None:
    from pipeline.datasets.table import Manifest
    from pipeline.shards.recovery import unsealed_ids
    from pipeline.shards.verify import sealed_stems, tar_bytes, verify

    wanted = Manifest(arguments.manifest).ids() if arguments.manifest is not None else []
    size = sum(map(tar_bytes, sealed_stems(arguments.folder)))
    with progress_bar() as bar:
        task = bar.add_task("verify", total=size)
        report = verify(arguments.folder, arguments.workers, lambda done: bar.advance(task, done))
    for problem in report.problems:
        print(problem)
    making = _in_the_making(arguments.folder)
    samples = sum(len(shard.ids) for shard in report.shards)
    found = f"{counted(len(report.shards), 'shard')}, {counted(samples, 'sample')}, {size / 1e9:.2f} GB"
    console.print(f"verify: {found}: {counted(len(report.problems), 'problem')}{making}", soft_wrap=True)
    lost = set(report.redo)
    there = report.good | unsealed_ids(arguments.folder)
    missing = [video_id for video_id in wanted if video_id not in there]
    if wanted:
        more = len(there.difference(wanted))
        others = f", and {more:,} that are not in it" if more else ""
        covered = f"{len(wanted) - len(missing):,} of the manifest's {len(wanted):,} videos are there"
        console.print(f"coverage: {covered}{others}", soft_wrap=True)
    if lost:
        console.print(f"lost, to be extracted again after a repair: {_listed(sorted(lost))}", soft_wrap=True)
    if arguments.redo is not None:
        arguments.redo.write_text("".join(f"{video_id}\n" for video_id in sorted(lost.union(missing))))
    if report.problems:
        console.print(_advice(arguments.folder), soft_wrap=True)
        sys.exit(1)


def _advice(folder: Path) -> str:
    """How to mend what :func:`_verify` found."""
    from pipeline.shards.remote import remote_url

    url = remote_url(folder)
    if url is None:
        return f"mend with: python -m pipeline.shards repair {folder}"
    return (
        f"the tars are at {url}: verify the folder that they were uploaded from; where it is whole, remove the shard's "
        "tar and index there and upload it again, else repair it first"
    )


def _repair(arguments: argparse.Namespace) -> None:
    from pipeline.shards.repair import repair

    repairs = repair(arguments.folder, arguments.workers)
    for action in repairs.done:
        print(action)
    console.print(f"repair: {counted(len(repairs.done), 'thing')} done, {counted(len(repairs.redo), 'video')} lost")
    if repairs.redo:
        console.print(
            f"run again what made these shards (pipeline.extract, pipeline.convert), for {_listed(repairs.redo)}",
            soft_wrap=True,
        )


def _repack(arguments: argparse.Namespace) -> None:
    from pipeline.shards.reader import ShardSet
    from pipeline.shards.repack import repack, wanted

    source = ShardSet(arguments.folder)
    changes = _changes(arguments)
    with progress_bar() as bar:
        task = bar.add_task("repack", total=len(wanted(source, changes)))
        result = repack(source, arguments.target, changes, lambda: bar.advance(task))
    for modality, videos in result.lacking.items():
        console.print(f"left without {modality}, which the other shards have not: {counted(videos, 'video')}")
    written = f"{counted(result.written, 'sample')} written, {result.before:,} were there → {arguments.target}"
    console.print(f"repack: {written}{_in_the_making(arguments.folder)}", soft_wrap=True)


def _changes(arguments: argparse.Namespace) -> Repacking:
    from pipeline.shards.reader import ShardSet
    from pipeline.shards.repack import Repacking

    videos = None
    if arguments.videos is not None:
        if not arguments.videos.is_file():
            raise InputError(f"{arguments.videos}: there is no such list of videos")
        videos = arguments.videos.read_text(encoding="utf-8-sig", errors="replace").split()
    changes = Repacking(
        shard_bytes=arguments.shard_bytes,
        order=arguments.order,
        videos=videos,
        split=arguments.split,
        drop=arguments.drop,
        audio=arguments.audio,
    )
    for item in arguments.add:
        name, equals, folder = item.partition("=")
        modality = next((known for known in _MODALITIES if known == name), None)
        if modality is None or not equals:
            raise InputError(f"--add {item}: give it as 2d=shards/other, 3d=... or audio=...")
        changes.add[modality] = ShardSet(Path(folder))
    return changes


def _stats(arguments: argparse.Namespace) -> None:
    from pipeline.shards.reader import ShardSet
    from pipeline.shards.stats import describe_shards

    for line in describe_shards(ShardSet(arguments.folder)):
        print(line)
    if making := _in_the_making(arguments.folder):
        console.print(making.removeprefix("; "))


def _show(arguments: argparse.Namespace) -> None:
    from pipeline.shards.reader import ShardSet
    from pipeline.shards.stats import describe_sample

    shards = ShardSet(arguments.folder)
    if arguments.video_id not in shards:
        raise InputError(f"{arguments.folder}: no shard has a video {arguments.video_id}")
    for line in describe_sample(shards, arguments.video_id):
        print(line)


def _upload(arguments: argparse.Namespace) -> None:
    from pipeline.shards.files import stems
    from pipeline.shards.remote import upload

    size = sum(stem.tar.stat().st_size for stem in stems(arguments.folder, ".tar"))
    with progress_bar() as bar:
        task = bar.add_task("upload", total=size)
        put, there = upload(arguments.folder, arguments.url, arguments.remove, lambda done: bar.advance(task, done))
    console.print(
        f"upload: {counted(put, 'shard')} put and compared, {there:,} were there → {arguments.url}", soft_wrap=True
    )


def _mount(arguments: argparse.Namespace) -> None:
    from pipeline.shards.remote import mount

    shards = mount(arguments.url, arguments.folder)
    console.print(f"mount: {counted(shards, 'shard')} of {arguments.url} → {arguments.folder}", soft_wrap=True)


def _in_the_making(folder: Path) -> str:
    """What is to be said of shards that are not sealed, which only extraction looks at."""
    from pipeline.shards.files import stems

    making = len(stems(folder, ".journal"))
    return f"; not looked at: {counted(making, 'shard')} in the making" if making else ""


def _listed(ids: Iterable[str], most: int = 10) -> str:
    names = list(ids)
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


if __name__ == "__main__":
    run_verb(main)
