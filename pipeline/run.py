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
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline import download, extract, ray_pool
from pipeline.acquire.budget import DiskBudget, wait_for_others
from pipeline.acquire.layout import find_video, video_path
from pipeline.acquire.ledger import Ledger, LedgerRow
from pipeline.acquire.reasons import is_temporary
from pipeline.acquire.session import Job, Session
from pipeline.acquire.sources import Sources, find_credentials
from pipeline.acquire.tally import Tally
from pipeline.cli import console, parse_with_recipe, positive_float, run_verb, verb_parser
from pipeline.config import DownloadSettings, Recipe
from pipeline.datasets.table import Manifest
from pipeline.errors import InputError
from pipeline.shards import extraction
from pipeline.shards.recovery import seal_leftovers
from pipeline.shards.remote import Destination
from pipeline.types import Video

COPIES = 2.05
"""Pictures and sound may come as two files that are put together into a third, whose container costs a little."""
CAPTIONS_AT_ONCE = 256
"""Videos whose captions are read together from the manifest."""
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
        console.print(f"run: nothing to do; {relay.before}", markup=False, soft_wrap=True)
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
            console.print(line, markup=False, soft_wrap=True)
    if relay.got_nothing:
        raise InputError(
            f"none of the {relay.settled:,} videos came into a shard: python -m pipeline.status {arguments.manifest} "
            "says why"
        )


def _relay(arguments: argparse.Namespace, recipe: Recipe, shards: Path, limit: int, largest: int) -> Relay:
    """What there is to do, after what an earlier run left behind is put in order."""
    manifest, folder = Manifest(arguments.manifest), arguments.videos.resolve()
    ledger, listed = Ledger(manifest.ledger), set(manifest.ids())
    done, failed = (names & listed for names in extract.settled_before(manifest, ledger, shards, arguments.retry))
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
    from pipeline.acquire.client import LARGEST_CAPTIONS
    from pipeline.acquire.site import BLOCK

    captions = settings.subtitles is not None and not manifest.knows_all_captions()
    return int(COPIES * settings.max_bytes) + BLOCK + (LARGEST_CAPTIONS if captions else 0)


class Relay:
    """Hands videos from download to extraction, and holds downloads back while the disk's budget is taken.

    Args:
        session: what there is to fetch.
        ledger: takes the rows of both stages.
        manifest: for captions; not the object that the session reads, since they are used in two threads.
        budget: of the folder of all videos.
        largest: bytes that one download may take at most.
        there: videos that are on the disk and not extracted.
        before: videos that were in shards, and those that had failed for good in extraction, when it began.
    """

    def __init__(
        self,
        session: Session,
        ledger: Ledger,
        manifest: Manifest,
        budget: DiskBudget,
        largest: int,
        there: set[str],
        before: tuple[int, int],
    ) -> None:
        self.session, self.budget, self.total = session, budget, session.total + len(there)
        self.tally = _NotingTally(ledger, self._extracted)
        session.tally = _NotingTally(ledger, self._fetched)
        session.on_left_out = self._left_out
        self.all_fetched = False
        """Whether nothing more comes in."""
        self.before = f"before: {before[0]:,} in shards, {before[1] + session.failed_before:,} failed for good"
        self._manifest, self._largest, self._in_shards = manifest, largest, before[0]
        self._coming: dict[str, Video] = {}
        self._arrived = deque(video for video in manifest.videos(with_captions=False) if video.video_id in there)
        self._under_way = set(there)

    def to_fetch(self) -> Iterator[Job | None]:
        """What to download; None while there is no room for one more."""
        for job in self.session.jobs():
            while not self._make_room(job.video.video_id):
                if "this run" in self.session.stopped:
                    return
                yield None
            self._coming[job.video.video_id] = job.video
            yield job

    def _make_room(self, video_id: str) -> bool:
        nothing_moves = not self._under_way  # asked before: what ends meanwhile may have made room
        self._under_way.add(video_id)
        if self.budget.reserve(video_id, self._largest):
            return True
        self._under_way.discard(video_id)
        if nothing_moves and not self.budget.drop_partial_files():
            self.session.stopped["this run"] = (
                f"{self.budget.used / 1e9:.3g} GB of the budget are taken by files that are no videos of the list, or "
                f"by videos whose extraction failed for now; look at them in {self.budget.folder}, or give more room "
                "with --disk-gigabytes"
            )
        return False

    def _fetched(self, row: LedgerRow) -> None:
        self.budget.settle(row.video_id)
        video = self._coming.pop(row.video_id)
        if row.outcome == "done":
            self._arrived.append(video)
        else:
            self._under_way.discard(row.video_id)

    def _left_out(self, video_id: str) -> None:
        self.budget.settle(video_id)
        self._coming.pop(video_id)
        self._under_way.discard(video_id)

    def to_extract(self) -> Iterator[extraction.Job | None]:
        """What has arrived, with its captions; None while nothing has."""
        while True:
            over = self.all_fetched
            batch = [self._arrived.popleft() for _ in range(min(len(self._arrived), CAPTIONS_AT_ONCE))]
            captions = self._manifest.captions(video.video_id for video in batch)
            for video in batch:
                folder, name = self.budget.folder, video.video_id
                path = find_video(folder, name) or video_path(folder, name, "mp4")
                yield extraction.job_of(replace(video, captions=captions[name]), path, folder)
            if not batch:
                if over:
                    return
                yield None

    def _extracted(self, row: LedgerRow) -> None:
        if row.outcome == "done":
            self.budget.delete(row.video_id)
        elif not is_temporary(row.reason):
            self.tally.flush()  # the reason is on the disk before the video is gone
            self.budget.delete(row.video_id)
        self._under_way.discard(row.video_id)

    @property
    def settled(self) -> int:
        """Videos that are in a shard or have a reason not to be, of this run."""
        failed = self.session.tally.settled - self.session.tally.counts["done"]
        return self.tally.settled + failed

    @property
    def got_nothing(self) -> bool:
        """Whether videos were asked for, and none is in a shard, from this run or an earlier one."""
        return bool(self.settled) and not self.tally.counts["done"] and not self._in_shards

    def summary(self) -> list[str]:
        """Lines for people: what happened, and what ended early."""
        fetched, extracted = self.session.tally, self.tally
        lines = [
            f"run: {extracted.counts['done']:,} extracted; failed: {_failures(fetched, extracted)}; "
            f"{fetched.bytes / 1e6:,.1f} MB fetched, at most {self.budget.peak / 1e6:,.1f} MB of "
            f"{self.budget.limit / 1e6:,.1f} MB on the disk, {extracted.seconds:.0f} s; {self.before}"
        ]
        again = {
            reason
            for tally in (fetched, extracted)
            for reason in tally.counts.keys() - {"done"}
            if is_temporary(reason)
        }
        if again:
            lines.append(f"the same command tries again what failed for now: {', '.join(sorted(again))}")
        return lines + self.session.remarks()


def _failures(fetched: Tally, extracted: Tally) -> str:
    said = [
        f"{reason} {count:,} ({stage})"
        for stage, tally in ((download.STAGE, fetched), (extraction.STAGE, extracted))
        for reason, count in tally.counts.most_common()
        if reason != "done"
    ]
    return ", ".join(said) or "none"


class _NotingTally(Tally):
    """A tally that passes each row on once it is counted."""

    def __init__(self, ledger: Ledger, then: Callable[[LedgerRow], None]) -> None:
        super().__init__(ledger)
        self._then = then

    def record(self, row: LedgerRow) -> None:
        """As :meth:`Tally.record`."""
        super().record(row)
        self._then(row)


if __name__ == "__main__":
    run_verb(main)
