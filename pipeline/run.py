"""Downloads, extracts and deletes in one go, so that the videos of a long list never have to be on the disk at once.

    python -m pipeline.run manifests/howto100m.parquet --disk-gigabytes 50 --recipe mft

Videos are extracted while others come in. One that is in a shard is deleted, also one that was there before, and so is
one that cannot be extracted for good; its reason is in the ledger. Downloads wait while the budget is taken. It can be
stopped or killed at any moment: the same command continues.
"""

from __future__ import annotations

import argparse
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline import download, extract, ray_pool
from pipeline.acquire.budget import DiskBudget, wait_for_others
from pipeline.acquire.ledger import Ledger, LedgerRow
from pipeline.acquire.session import Session
from pipeline.acquire.sources import Sources, find_credentials
from pipeline.cli import console, parse_with_recipe, positive_float, run_verb, verb_parser
from pipeline.config import DownloadSettings, Recipe
from pipeline.datasets.table import Manifest
from pipeline.errors import InputError
from pipeline.shards import extraction
from pipeline.shards.outstanding import settled_before
from pipeline.shards.recovery import seal_leftovers
from pipeline.shards.relay import Relay
from pipeline.shards.remote import Destination
from pipeline.wording import none_of

COPIES = 2.05
"""Pictures and sound may come as two files that are put together into a third, whose container costs a little."""
STEP = 0.2
"""Seconds between two looks at the disk."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the verb."""
    parser = verb_parser(__doc__, recipe="mft")
    download.add_arguments(parser)
    extract.add_arguments(parser)
    parser.add_argument(
        "--disk-gigabytes",
        type=positive_float,
        default=50.0,
        help="bytes of videos on the disk, at most; each download takes 2.05 x download.max_bytes of it until its size "
        "is known; default: 50",
    )
    arguments, recipe = parse_with_recipe(parser, argv)
    download.take_sources(arguments, recipe.download)
    run(arguments, recipe)


def run(arguments: argparse.Namespace, recipe: Recipe) -> None:
    """Fetches and extracts what is not done; raises :class:`InputError` for what stops all of it."""
    manifest = Manifest(arguments.manifest)
    Sources(recipe.download)  # a mistake in them is said before anything starts
    largest = _largest_download(recipe.download, manifest)
    limit = int(arguments.disk_gigabytes * 1e9)
    if largest > limit:
        raise InputError(
            f"--disk-gigabytes {arguments.disk_gigabytes:g} has no room for one download, which may take "
            f"{largest / 1e9:.3g} GB: raise it, or lower download.max_bytes (now {recipe.download.max_bytes:,})"
        )
    shards = arguments.shards or Path("shards") / manifest.name
    destination = extract.destination_of(arguments)
    extract.claim(shards, manifest, recipe)
    relay = _relay(arguments, recipe, shards, limit, largest)
    extract.upload_sealed(shards, destination)
    if not relay.total:
        seal_leftovers(shards)
        extract.upload_sealed(shards, destination)
        console.print(f"run: nothing to do; {relay.before}", soft_wrap=True)
        return
    ray_pool.start(arguments.ray_address)
    # Batch systems end a job with SIGTERM; Ray has a handler of its own, which would lose the ledger's last rows.
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _drive(relay, arguments, recipe, shards, destination)
        extract.upload_sealed(shards, destination)
    finally:
        signal.signal(signal.SIGTERM, handler)
        relay.session.tally.flush()
        relay.tally.flush()
        ray_pool.stop()
        for line in relay.summary():
            console.print(line, soft_wrap=True)
    if relay.got_nothing:
        raise InputError(
            f"{none_of(relay.settled, 'video')} came into a shard: "
            f"python -m pipeline.status {arguments.manifest} says why"
        )


def _relay(arguments: argparse.Namespace, recipe: Recipe, shards: Path, limit: int, largest: int) -> Relay:
    """What there is to do, after what an earlier run left behind is put in order."""
    manifest, folder = Manifest(arguments.manifest), arguments.videos.resolve()
    ledger, listed = Ledger(manifest.ledger), set(manifest.ids())
    settled = settled_before(manifest, ledger, shards, recipe.extract.fingerprint(), arguments.retry)
    done, failed = (names & listed for names in settled)
    wait_for_others(folder, extraction.ORPHAN_SECONDS)
    budget = DiskBudget(folder, limit)
    for video_id in budget.there & (done | failed):
        budget.delete(video_id)
    there = budget.there & listed - done - failed
    # a killed run may not have come to note that it had fetched them
    noted = ledger.latest_table(download.STAGE)["video_id"].to_pylist()
    found = sorted((there | done).difference(noted))
    ledger.append([LedgerRow(name, download.STAGE, "done", message="found, fetched before") for name in found])
    session = Session(
        manifest, ledger, recipe.download, folder, arguments.retry, arguments.limit, had=done | failed | there
    )
    return Relay(session, ledger, Manifest(arguments.manifest), budget, largest, there, (len(done), len(failed)))


def _drive(
    relay: Relay, arguments: argparse.Namespace, recipe: Recipe, shards: Path, destination: Destination | None
) -> None:
    """Runs both stages until all is done, one of them fails or somebody stops them."""
    stop, settings, session = threading.Event(), recipe.download, relay.session
    credentials = find_credentials(settings)

    def fetch() -> None:
        try:
            if session.total:
                download.fetch_all(
                    session, relay.to_fetch(), settings, relay.budget.folder, credentials, progress, stop
                )
        finally:
            relay.all_fetched = True

    def extract_them() -> None:
        jobs, name = relay.to_extract(), arguments.manifest.stem
        extract.extract_all(
            jobs, relay.total, relay.tally, arguments.workers, shards, name, recipe.extract, destination, progress, stop
        )

    with download.stage_progress() as progress:
        _side_by_side((fetch, extract_them), stop, relay.budget.measure)


def _side_by_side(stages: Sequence[Callable[[], None]], stop: threading.Event, look: Callable[[], object]) -> None:
    """Runs stages in threads until all have ended. An error of one, and Ctrl-C, stops the others, and is raised."""
    errors: list[BaseException] = []

    def guarded(stage: Callable[[], None]) -> None:
        try:
            stage()
        except BaseException as error:
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=guarded, args=(stage,), daemon=True) for stage in stages]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            time.sleep(STEP)
            look()
    except KeyboardInterrupt:
        console.print("finishing what is nearly there", style="dim")
        stop.set()
        for thread in threads:
            thread.join(2 * extract.GRACE)
        raise
    if errors:
        raise errors[0]


def _largest_download(settings: DownloadSettings, manifest: Manifest) -> int:
    """Bytes that one download may take at most while it comes in."""
    from pipeline.acquire.site import BLOCK
    from pipeline.acquire.subtitle_fetcher import LARGEST_CAPTIONS

    captions = settings.subtitles is not None and not manifest.knows_all_captions()
    return int(COPIES * settings.max_bytes) + BLOCK + (LARGEST_CAPTIONS if captions else 0)


if __name__ == "__main__":
    run_verb(main)
