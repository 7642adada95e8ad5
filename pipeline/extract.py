"""Extracts features of the downloaded videos of a manifest into shards.

    python -m pipeline.extract manifests/howto100m.parquet --videos videos --recipe mft
    python -m pipeline.extract --inspect FILE        # what it would make of one file, with a picture

Each worker writes its own shards. It can be stopped or killed at any moment: the same command continues, and every
video is in one shard once, or in the ledger with the reason why it is not.
"""

from __future__ import annotations

import argparse
import errno
import threading
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from rich.progress import Progress

from pipeline import ray_pool
from pipeline.acquire.ledger import Ledger, LedgerRow
from pipeline.acquire.tally import Tally
from pipeline.backbones.names import check_backbones
from pipeline.cli import (
    console,
    from_anywhere,
    interruptible,
    parse_with_recipe,
    positive_int,
    progress_bar,
    run_verb,
    verb_parser,
)
from pipeline.config import ExtractSettings, Recipe
from pipeline.datasets.table import Manifest
from pipeline.errors import InputError
from pipeline.media.errors import MediaError
from pipeline.shards.extraction import STAGE, Job, Worker, row_of
from pipeline.shards.files import WriterLock
from pipeline.shards.outstanding import Work, settled_before
from pipeline.shards.provenance import claim_folder
from pipeline.shards.recovery import completed_ids, seal_leftovers
from pipeline.shards.remote import Destination, upload
from pipeline.text.vocabulary import build_vocabulary, check_kind
from pipeline.text.words import WordVectors
from pipeline.wording import none_of, to_share

COMMON_WORDS = 200_000
"""Words that get a vector although no caption of the manifest has them, where captions come with the videos."""
GRACE = 5.0
"""Seconds that are left to videos that are nearly done when a run is told to stop."""
OUT_OF_REACH_SECONDS = 100.0
"""How long the last worker of a machine that Ray gave up is waited for; a file server frees a dead one's lock in 90."""
MOST_AT_ONCE = 32
"""Videos that one worker with a GPU decodes at the same time, at most: each takes some 0.1 GB."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the verb."""
    parser = verb_parser(__doc__, recipe="mft")
    parser.add_argument("manifest", type=Path, nargs="?", help="the list of videos, from python -m pipeline.manifest")
    parser.add_argument("--inspect", type=Path, metavar="FILE", help="show what is made of one file, and nothing else")
    parser.add_argument("--videos", type=Path, default=Path("videos"), help="folder of the videos; default: videos")
    add_arguments(parser)
    parser.add_argument("--ray-address", help="a Ray cluster to run on; default: this machine")
    parser.add_argument("--retry", action="append", default=[], metavar="REASON", help="try such failures again")
    arguments, recipe = parse_with_recipe(parser, argv)
    if arguments.inspect is not None:
        inspect(arguments.inspect, recipe.extract)
    elif arguments.manifest is not None:
        run(arguments, recipe)
    else:
        parser.error("give a manifest, or a file to --inspect")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the shards go, and who makes them."""
    parser.add_argument("--shards", type=Path, help="folder for the shards; default: shards/<manifest's name>")
    parser.add_argument("--workers", type=positive_int, help="workers; default: one per GPU, else one per two CPUs")
    parser.add_argument("--upload", metavar="URL", help="put each shard there when it is sealed: s3://bucket/folder")
    parser.add_argument(
        "--remove-uploaded", action="store_true", help="remove its tar here once it is there and compared"
    )


def inspect(path: Path, settings: ExtractSettings) -> None:
    """Prints one file's streams and features, and writes its contact sheet into the current folder.

    Raises:
        InputError: the file cannot be used, or there is no such backbone.
    """
    from rich.table import Table

    from pipeline.backbones.inspection import draw, feature_rows, inspect_video, stream_rows

    try:
        inspection = inspect_video(path, settings)
    except MediaError as error:
        raise InputError(str(error)) from None
    table = Table(show_header=False, box=None)
    for row in [*stream_rows(inspection.info), *feature_rows(inspection)]:
        table.add_row(*row)
    console.print(table)
    for note in inspection.notes:
        console.print(f"note: {note}")
    if inspection.missing:
        console.print(f"no features: {inspection.missing}", soft_wrap=True)
    picture = Path(f"{path.stem}.inspect.png")
    draw(inspection, picture)
    console.print(f"frames and spectrogram: {picture}", soft_wrap=True)


def run(arguments: argparse.Namespace, recipe: Recipe) -> None:
    """Extracts what is not done yet; raises :class:`InputError` for what stops all of it."""
    manifest = Manifest(arguments.manifest)
    if not arguments.videos.is_dir():
        raise InputError(f"there is no folder {arguments.videos} of videos: name it with --videos, or download first")
    ledger = Ledger(arguments.manifest.with_suffix(".ledger"))
    folder = arguments.shards or Path("shards") / manifest.name
    destination = destination_of(arguments)
    claim(folder, manifest, recipe)
    done, failed = settled_before(manifest, ledger, folder, recipe.extract.fingerprint(), arguments.retry)
    upload_sealed(folder, destination)
    work, tally = Work(manifest, arguments.videos, skip=done | failed), Tally(ledger)
    there = f"{work.missing} not in {arguments.videos}" if work.missing else "all downloaded"
    if work.total == 0:
        seal_leftovers(folder)
        upload_sealed(folder, destination)
        console.print(f"extract: nothing to do; {len(done)} done, {len(failed)} failed before, {there}")
        return
    ray_pool.start(arguments.ray_address)
    try:
        # after Ray's start, whose own handler of SIGTERM would lose the ledger's last rows
        with interruptible() as stop:
            extract_all(
                work.jobs(), work.total, tally, arguments.workers, folder, manifest.name, recipe.extract, destination,
                stop=stop,
            )  # fmt: skip
            upload_sealed(folder, destination)
    finally:
        tally.flush()
        ray_pool.stop()
        speed = f"{tally.seconds:.0f} s, {tally.settled / tally.seconds:.2f} videos/s"
        before = f"{len(failed)} failed before (--retry REASON tries them again), " if failed else ""
        console.print(f"extract: {tally.describe()}, {before}{there}; {speed}; shards in {folder}", soft_wrap=True)
    if tally.settled and not tally.counts["done"] and not done:
        raise InputError(
            f"{none_of(tally.settled, 'video')} could be extracted: "
            f"python -m pipeline.status {arguments.manifest} says why"
        )


def destination_of(arguments: argparse.Namespace) -> Destination | None:
    """Where the shards are to go once they are sealed; None: they stay."""
    if arguments.upload is None:
        if arguments.remove_uploaded:
            raise InputError("--remove-uploaded needs --upload: nothing is removed that is nowhere else")
        return None
    return Destination(from_anywhere(arguments.upload), arguments.remove_uploaded)


def upload_sealed(folder: Path, destination: Destination | None) -> None:
    """Makes up for what no worker uploads: shards that were sealed before, by a killed run or without a destination.

    Raises:
        InputError: the store does not answer, or gives back something else than it got.
    """
    if destination is not None:
        put, there = upload(folder, *destination)
        if put or there:
            console.print(f"upload: {put + there:,} shards are there and whole → {destination.url}", soft_wrap=True)


def extract_all(
    jobs: Iterable[Job | None],
    total: int,
    tally: Tally,
    workers: int | None,
    folder: Path,
    name: str,
    settings: ExtractSettings,
    destination: Destination | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Extracts with all workers, and hands each row to the tally once its sample is on disk; Ray has been started.

    Args:
        jobs: what to extract; None among them: nothing now, ask again.
        total: how many there will be, at most.
        tally: takes the rows.
        workers: how many; None: one per GPU, else one per two CPUs.
        folder: the shards' folder, with the words that :func:`prepare_words` puts there.
        name: the data set's.
        settings: the recipe's section.
        destination: where each shard goes when it is sealed; None: it stays.
        progress: where it is shown; None: a display of its own.
        stop: once it is set, what is quick is finished and nothing more begun.
    """
    import ray

    share = ray_pool.shared_out(ray_pool.alive_nodes(), workers, total)
    names = [f"w{index:03d}" for index in range(share.actors)]
    seal_leftovers(folder, except_writers=names)
    # A GPU waits for the decoder: each of its workers decodes several videos at once. A CPU has no time to spare.
    at_once = min(share.threads, MOST_AT_ONCE) if share.gpus else 1
    # the pool replaces actors that die
    claims = {"num_cpus": share.cpus, "num_gpus": share.gpus}
    actor = ray.remote(Worker).options(max_restarts=0, max_concurrency=at_once, **claims)

    def create(index: int) -> Any:
        device = "cuda" if share.gpus else "cpu"
        return actor.remote(settings, folder.resolve(), name, names[index], device, share.threads, destination)

    def counted(index: int, lost: list[Job]) -> set[str]:
        # a machine that is merely out of reach works on, and may still add one of them
        WriterLock(folder, name, names[index], OUT_OF_REACH_SECONDS).release()
        return completed_ids(folder, writer=names[index])

    pool: ray_pool.ActorPool[Job, LedgerRow] = ray_pool.ActorPool(
        create,
        share.actors,
        "extract",
        in_flight=at_once + 1,
        item_id=lambda job: job.video.video_id,
        on_replaced=counted,
        stop=stop,
    )
    sharing: set[str] = set()
    with pool, progress_bar() if progress is None else nullcontext(progress) as shown:
        bar = shown.add_task(STAGE, total=total, said="")
        for outcome in chain(pool.run(jobs), pool.drain(GRACE)):
            tally.record(row_to_keep(outcome, sharing))
            shown.update(bar, completed=tally.settled, said=tally.describe(most=3))
        if complete := not pool.flying:
            pool.broadcast("close")
    if complete:
        # of an earlier run's writers, whose successors had not come up when all was done
        seal_leftovers(folder)


def row_to_keep(outcome: ray_pool.Outcome[Job, LedgerRow], sharing: set[str]) -> LedgerRow:
    """What the ledger gets of an outcome; raises what is no fault of the video's and would stop the others too.

    Args:
        outcome: of a video.
        sharing: gets the machines that have found a video: they see the folder.
    """
    if outcome.result is not None:
        return _of_what_is_there(outcome.item, outcome.result, sharing)
    if outcome.error is None:
        return row_of(outcome.item, "done", None, "its worker died after the sample was on disk")
    full = isinstance(outcome.error, OSError) and outcome.error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or isinstance(outcome.error, InputError):  # no fault of the video's, and the next would find it as well
        raise outcome.error
    return row_of(outcome.item, "failed", "unknown", f"{type(outcome.error).__name__}: {outcome.error}")


def _of_what_is_there(job: Job, row: LedgerRow, sharing: set[str]) -> LedgerRow:
    """A worker's row; a file that it does not find is no fault of the video's, and nothing to give it up for."""
    if row.reason != "not_found":
        sharing.add(row.host)
        return row
    if job.path.is_file() and row.host not in sharing:
        raise InputError(f"{job.path} is here, but not on {row.host}: {to_share('videos')}")
    return replace(row, reason="unknown")


def claim(folder: Path, manifest: Manifest, recipe: Recipe) -> None:
    """Makes the folder of the shards, with what they are made with, and the words.

    Raises:
        InputError: a setting is wrong, or the folder holds shards of others.
    """
    check_backbones(recipe.extract)  # before the folder is given to a name that is mistyped
    claim_folder(folder, recipe)
    prepare_words(folder, manifest, recipe.extract)


def prepare_words(folder: Path, manifest: Manifest, settings: ExtractSettings) -> None:
    """The data set's vocabulary, made once: ids in shards refer to it.

    Raises:
        InputError: it cannot be had, or that of other shards is there.
    """
    path = folder / "words.parquet"
    if path.exists():
        check_kind(path, settings.words)
        return
    trained = settings.words == "corpus"
    # vectors that are trained here must not have seen what is held out
    splits = {"train"} & set(manifest.table(["split"])["split"].to_pylist()) if trained else set()
    texts = (
        caption.text for video in manifest for caption in video.captions or [] if not splits or video.split in splits
    )
    common = 0 if manifest.knows_all_captions() else COMMON_WORDS
    words = build_vocabulary(settings.words, texts, settings.word_dim, common)
    if isinstance(words, WordVectors) and not words.words and trained:
        console.print(
            f"note: {manifest.path} has no captions to train word vectors on, so no words are stored; where they "
            "come with the videos, name published vectors: --extract.words word2vec-google-news-300",
            soft_wrap=True,
        )
    words.save(path)


if __name__ == "__main__":
    run_verb(main)
