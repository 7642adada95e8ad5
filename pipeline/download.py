"""Fetches the videos of a manifest.

    python -m pipeline.download manifests/howto100m.parquet --videos videos
    python -m pipeline.download manifests/mine.parquet --template 'http://mirror/{video_id}.mp4' --limit 100

Each video ends complete in the folder, or in the ledger beside the manifest with the reason why not. Stop it whenever
you like: the same command continues. What failed for good is not asked for again, unless with --retry REASON.
"""

from __future__ import annotations

import argparse
import errno
import itertools
import queue
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.acquire.ledger import Ledger, LedgerRow
from pipeline.acquire.reasons import REASONS, is_temporary
from pipeline.cli import console, parse_with_recipe, run_verb, verb_parser
from pipeline.config import DownloadSettings, Recipe
from pipeline.datasets.table import Manifest
from pipeline.errors import InputError
from pipeline.types import Video

if TYPE_CHECKING:
    from pipeline.acquire.client import Downloader
    from pipeline.ray_pool import Outcome

STAGE = "download"
LEDGER_SECONDS = 10.0
"""What is known is written to the ledger at least this often."""
GRACE = 5.0
"""Seconds that Ctrl-C leaves to videos that are nearly there."""


class Fetcher:
    """The actor: one for each node, with as many threads as downloads at once."""

    def __init__(self, settings: DownloadSettings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._idle: queue.SimpleQueue[Downloader] = queue.SimpleQueue()

    def fetch(self, video: Video) -> LedgerRow:
        """Gets one video, with a downloader that is kept for the next."""
        from pipeline.acquire.client import Downloader

        try:
            downloader = self._idle.get_nowait()
        except queue.Empty:
            downloader = Downloader(self._settings, self._folder)
        try:
            return downloader.fetch(video)
        finally:
            self._idle.put(downloader)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the verb."""
    parser = verb_parser(__doc__, recipe="mft")
    parser.add_argument("manifest", type=Path, help="the list of videos, from python -m pipeline.manifest")
    parser.add_argument("--videos", type=Path, default=Path("videos"), help="folder for the videos; default: videos")
    parser.add_argument("--template", help="where videos are, with {video_id}; default: YouTube")
    parser.add_argument("--limit", type=int, help="ask for so many videos at most")
    parser.add_argument(
        "--retry", action="append", default=[], metavar="REASON", choices=REASONS, help="try such failures again"
    )
    parser.add_argument("--ray-address", help="a Ray cluster to run on; default: this machine")
    arguments, recipe = parse_with_recipe(parser, argv)
    if arguments.template is not None:
        recipe.download.template = arguments.template
    run(arguments, recipe)


def run(arguments: argparse.Namespace, recipe: Recipe) -> None:
    """Fetches what is not done; raises :class:`InputError` for what stops all of it."""
    manifest = Manifest(arguments.manifest)
    session = Session(manifest, Ledger(manifest.ledger), retry=arguments.retry, limit=arguments.limit)
    if session.total == 0:
        console.print(session.summary(), markup=False, soft_wrap=True)
        return
    from pipeline import ray_pool

    ray_pool.start(arguments.ray_address)
    try:
        # Batch systems end a job with SIGTERM; Ray has a handler of its own, which would lose the ledger's last rows.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        _fetch_all(session, recipe.download, arguments.videos.resolve())
    finally:
        session.flush()
        ray_pool.stop()
        console.print(session.summary(), markup=False, soft_wrap=True)


def _fetch_all(session: Session, settings: DownloadSettings, folder: Path) -> None:
    import ray

    from pipeline import ray_pool

    nodes = ray_pool.alive_nodes()
    # downloads wait for the network: they claim no CPU, so that extraction can run beside them
    options = {"num_cpus": 0, "max_restarts": 0, "max_concurrency": settings.concurrency}
    actor = ray.remote(Fetcher)

    def create(index: int) -> Any:
        node = nodes[index]
        if node not in ray_pool.alive_nodes():
            return None
        return actor.options(**options, **ray_pool.pinned_to(node.node_id)).remote(settings, folder)

    pool: ray_pool.ActorPool[Video, LedgerRow] = ray_pool.ActorPool(
        create, len(nodes), "fetch", in_flight=settings.concurrency, item_id=lambda video: video.video_id
    )
    with pool, _progress() as progress:
        bar = progress.add_task(STAGE, total=session.total, said="")
        try:
            for outcome in pool.run(session.videos()):
                session.record(_as_row(outcome))
                progress.update(bar, completed=session.tried, said=session.state())
        except KeyboardInterrupt:
            progress.update(bar, said="finishing what is nearly there")
            for outcome in pool.drain(GRACE):
                session.record(_as_row(outcome))
            raise


def _as_row(outcome: Outcome[Video, LedgerRow]) -> LedgerRow:
    if isinstance(outcome.error, InputError):
        raise outcome.error
    if outcome.result is not None:
        return outcome.result
    message = f"{type(outcome.error).__name__}: {outcome.error}"
    return LedgerRow(outcome.item.video_id, STAGE, "failed", "unknown", message)


class Session:
    """What one run has to do, what became of it so far, and the rows that the ledger does not have yet.

    Args:
        retry: reasons of failures for good that are tried again all the same.
        limit: videos to ask for at most.
    """

    def __init__(self, manifest: Manifest, ledger: Ledger, retry: Sequence[str] = (), limit: int | None = None) -> None:
        self._manifest, self._ledger = manifest, ledger
        latest = ledger.latest_table(STAGE)
        finished = pc.equal(latest["outcome"], "done")
        settled = [reason for reason in REASONS if not is_temporary(reason) and reason not in retry]
        given_up = pc.is_in(latest["reason"], value_set=pa.array(settled, pa.string()))
        self._skip = set(latest.filter(pc.or_(finished, given_up))["video_id"].to_pylist())
        done = set(latest.filter(finished)["video_id"].to_pylist())
        listed = self._skip.intersection(manifest.ids())
        self.done_before = len(done & listed)
        self.failed_before = len(listed) - self.done_before
        left = len(manifest) - len(listed)
        self.total = left if limit is None else min(left, limit)
        self.counts: Counter[str] = Counter()
        self._rows: list[LedgerRow] = []
        self._bytes = 0
        self._started = self._flushed = time.monotonic()

    @property
    def tried(self) -> int:
        """Videos of this run that are settled."""
        return self.counts.total()

    def videos(self) -> Iterator[Video]:
        """What there is to fetch, in the manifest's order."""
        return itertools.islice(self._manifest.videos(with_captions=False, skip=self._skip), self.total)

    def record(self, row: LedgerRow) -> None:
        """Takes a row for the ledger; it is written within :data:`LEDGER_SECONDS`.

        Raises:
            OSError: the disk is full, which the next video would find as well.
        """
        self._rows.append(row)
        self.counts[row.reason or row.outcome] += 1
        self._bytes += row.bytes
        if row.reason == "disk_full":
            raise OSError(errno.ENOSPC, row.message)
        if time.monotonic() - self._flushed > LEDGER_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes the rows so far to the ledger."""
        self._ledger.append(self._rows)
        self._rows, self._flushed = [], time.monotonic()

    def state(self) -> str:
        """What happened so far, for the progress bar."""
        seconds = time.monotonic() - self._started
        failed = self.tried - self.counts["done"]
        return f"{self.counts['done']:,} done, {failed:,} failed, {self._bytes / 1e6 / seconds:.1f} MB/s"

    def summary(self) -> str:
        """One line for people."""
        seconds = time.monotonic() - self._started
        before = f"before: {self.done_before:,} done, {self.failed_before:,} failed for good"
        if not self.tried:
            return f"download: nothing to do; {before}"
        failures = Counter({reason: count for reason, count in self.counts.items() if reason != "done"})
        listed = ", ".join(f"{reason} {count:,}" for reason, count in failures.most_common())
        again = sum(count for reason, count in failures.items() if is_temporary(reason))
        return (
            f"download: {self.counts['done']:,} done, {failures.total():,} failed{f' ({listed})' if listed else ''}, "
            f"{self._bytes / 1e6:,.1f} MB in {seconds:.0f} s; "
            f"{f'the same command tries {again:,} again; ' if again else ''}{before}"
        )


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
    )
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)


if __name__ == "__main__":
    run_verb(main)
