"""Fetches the videos of a manifest.

    python -m pipeline.download manifests/howto100m.parquet --videos videos
    python -m pipeline.download manifests/mine.parquet --template 'http://mirror/{video_id}.mp4' --limit 100

Each video ends complete in the folder, or in the ledger beside the manifest with the reason why not. Stop it whenever
you like: the same command continues. What failed for good is not asked for again, unless with --retry REASON.
"""

from __future__ import annotations

import argparse
import errno
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipeline.acquire.ledger import Ledger, LedgerRow
from pipeline.acquire.pacing import NodeState, Pacer
from pipeline.acquire.reasons import REASONS, classify
from pipeline.acquire.session import STAGE, VANISHED, Job, Session
from pipeline.acquire.shared_folder import SharedFolder
from pipeline.acquire.sources import Credentials, Sources, find_credentials
from pipeline.cli import console, from_anywhere, interruptible, parse_with_recipe, positive_int, run_verb, verb_parser
from pipeline.config import DownloadSettings, Recipe
from pipeline.datasets.table import Manifest
from pipeline.errors import InputError
from pipeline.wording import none_of

if TYPE_CHECKING:
    from pipeline.acquire.client import Downloader
    from pipeline.ray_pool import ActorPool, Outcome

NOT_WRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
GRACE = 5.0
"""Seconds that Ctrl-C leaves to videos that are nearly there."""


class Fetcher:
    """The actor: one for each node, with as many threads as downloads at once."""

    def __init__(self, settings: DownloadSettings, folder: Path, credentials: Credentials | None) -> None:
        self._settings, self._folder, self._credentials = settings, folder, credentials
        self._pacer = Pacer(settings)
        self._idle: queue.SimpleQueue[Downloader] = queue.SimpleQueue()

    def fetch(self, job: Job) -> LedgerRow:
        """Gets one video, with a downloader that is kept for the next."""
        from pipeline.acquire.client import Downloader

        try:
            downloader = self._idle.get_nowait()
        except queue.Empty:
            downloader = Downloader(self._settings, self._folder, self._pacer, self._credentials)
        try:
            return downloader.fetch(job.video, job.with_captions)
        finally:
            self._idle.put(downloader)

    def state(self) -> NodeState:
        """What came so far, and the pace for each source."""
        return self._pacer.state()


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the verb."""
    parser = verb_parser(__doc__, recipe="mft")
    add_arguments(parser)
    arguments, recipe = parse_with_recipe(parser, argv)
    take_sources(arguments, recipe.download)
    run(arguments, recipe)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to fetch, and from where."""
    parser.add_argument("manifest", type=Path, help="the list of videos, from python -m pipeline.manifest")
    parser.add_argument("--videos", type=Path, default=Path("videos"), help="folder for the videos; default: videos")
    parser.add_argument("--template", help="where videos are, with {video_id}; default: YouTube; null: nowhere else")
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        help="a template or local folder to ask before that; repeatable, asked in this order",
    )
    parser.add_argument("--limit", type=positive_int, help="ask for so many videos at most")
    parser.add_argument(
        "--retry",
        action="append",
        default=[],
        metavar="REASON",
        choices=[*REASONS, VANISHED],
        help=f"try such failures again; {VANISHED}: what is done, but neither in the folder any more nor extracted",
    )
    parser.add_argument("--ray-address", help="a Ray cluster to run on; default: this machine")


def take_sources(arguments: argparse.Namespace, settings: DownloadSettings) -> None:
    """Puts the sources of the command line into the settings, and their paths such that every worker finds them."""
    if arguments.template is not None:
        settings.template = None if arguments.template == "null" else arguments.template
    settings.sources = [from_anywhere(source) for source in (*arguments.source, *settings.sources)]
    settings.template = settings.template and from_anywhere(settings.template)
    settings.cookies = settings.cookies and from_anywhere(settings.cookies)


def run(arguments: argparse.Namespace, recipe: Recipe) -> None:
    """Fetches what is not done; raises :class:`InputError` for what stops all of it."""
    manifest = Manifest(arguments.manifest)
    settings = recipe.download
    Sources(settings)  # a mistake in them is said before anything starts
    credentials = find_credentials(settings)
    session = Session(manifest, Ledger(manifest.ledger), settings, arguments.videos, arguments.retry, arguments.limit)
    if session.total == 0:
        _say(session)
        return
    from pipeline import ray_pool

    ray_pool.start(arguments.ray_address)
    try:
        # after Ray's start, whose own handler of SIGTERM would lose the ledger's last rows
        with interruptible() as stop:
            fetch_all(session, session.jobs(), settings, arguments.videos.resolve(), credentials, stop=stop)
    finally:
        session.tally.flush()
        ray_pool.stop()
        _say(session)
    if session.got_nothing:
        raise InputError(
            f"{none_of(session.tally.settled, 'video')} could be had: python -m pipeline.status "
            f"{arguments.manifest} says why"
        )


def _say(session: Session) -> None:
    for line in session.summary():
        console.print(line, soft_wrap=True)


def fetch_all(
    session: Session,
    jobs: Iterable[Job | None],
    settings: DownloadSettings,
    folder: Path,
    credentials: Credentials | None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Fetches on all nodes, and hands each row to the session's tally; Ray has been started.

    Args:
        session: the run's.
        jobs: what to fetch; None among them: nothing now, ask again.
        settings: the recipe's section.
        folder: the folder of all videos.
        credentials: of ``settings.auth_host``.
        progress: where it is shown; None: a display of its own.
        stop: once it is set, what is nearly there is finished and nothing more begun.
    """
    import ray

    from pipeline import ray_pool

    nodes, retired, shared = ray_pool.alive_nodes(), set[int](), SharedFolder(folder)
    # Downloads wait for the network: they claim no CPU, so that extraction can run beside them. One thread more than
    # there are downloads answers for the state.
    options = {"num_cpus": 0, "max_restarts": 0, "max_concurrency": settings.concurrency + 1}
    actor = ray.remote(Fetcher)

    def create(index: int) -> Any:
        node = nodes[index]
        if node not in ray_pool.alive_nodes():
            return None
        placed = actor.options(**options, **ray_pool.pinned_to(node.node_id))
        return placed.remote(settings, folder, credentials)

    pool: ray_pool.ActorPool[Job, LedgerRow] = ray_pool.ActorPool(
        create, len(nodes), "fetch", in_flight=settings.concurrency, item_id=lambda job: job.video.video_id, stop=stop
    )
    display = stage_progress() if progress is None else nullcontext(progress)
    with pool, display as shown, _watching(pool, shown, session) as bar:
        try:
            for outcome in pool.run(session.of_open_sources(jobs)):
                row = _as_row(outcome)
                if row.outcome == "skipped":
                    session.note_closed(nodes[outcome.slot].host, row.message)
                    if len(retired) + 1 < len(nodes):
                        # other nodes, with other addresses, go on
                        retired.add(outcome.slot)
                        pool.retire(outcome.slot)
                        pool.resubmit(outcome.item)
                    else:
                        # the last one goes on with other sources
                        session.closed.add(str(row.closed_source))
                        session.leave_out(row.video_id)
                else:
                    shared.check(row)
                    session.tally.record(row)
                shown.update(bar, completed=session.tally.settled)
        except KeyboardInterrupt:
            console.print("finishing what is nearly there", style="dim")
            _finish(pool, session)
            raise
        _finish(pool, session)
        shown.update(bar, completed=session.tally.settled, said=session.tally.describe(3))


def _finish(pool: ActorPool[Job, LedgerRow], session: Session) -> None:
    """Waits a little for what was begun before the pool was told to stop."""
    for outcome in pool.drain(GRACE):
        row = _as_row(outcome)
        if row.outcome != "skipped":
            session.tally.record(row)


def _as_row(outcome: Outcome[Job, LedgerRow]) -> LedgerRow:
    if isinstance(outcome.error, InputError):
        raise outcome.error
    if outcome.result is not None:
        return outcome.result
    if isinstance(outcome.error, OSError) and outcome.error.errno in NOT_WRITABLE:
        raise outcome.error  # no fault of the video's, and the next would find it as well
    reason = classify(outcome.error).reason if isinstance(outcome.error, OSError) else "unknown"
    message = f"{type(outcome.error).__name__}: {outcome.error}"
    return LedgerRow(outcome.item.video.video_id, STAGE, "failed", reason, message)


@contextmanager
def _watching(pool: ActorPool[Job, LedgerRow], progress: Progress, session: Session) -> Iterator[TaskID]:
    """Asks the nodes for speed and pace every other second, also while nothing is finished."""
    bar, over = progress.add_task(STAGE, total=session.total, said=""), threading.Event()

    def watch() -> None:
        before, at = 0, time.monotonic()
        while not over.wait(2.0):
            states = pool.broadcast("state", timeout=2.0)
            came, now = sum(state.bytes for state in states), time.monotonic()
            speed = max(came - before, 0) / (now - at)
            before, at = came, now
            said = (session.tally.describe(most=3), f"{speed / 1e6:.1f} MB/s", describe_pace(states))
            progress.update(bar, said=", ".join(part for part in said if part) + _complaints(states))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield bar
    finally:
        over.set()
        watcher.join(5.0)


def describe_pace(states: Sequence[NodeState]) -> str:
    """How fast the nodes ask, all together and, of several, the slowest."""
    if not states:
        return ""
    total = f"{sum(state.requests_per_second for state in states):.2g} requests/s"
    if len(states) == 1:
        return total
    slowest = sorted(states, key=lambda state: state.requests_per_second)[:3]
    each = ", ".join(f"{state.host} {state.requests_per_second:.2g}" for state in slowest)
    return f"{total} from {len(states)} nodes ({each}{', ...' if len(states) > 3 else ''})"


def _complaints(states: Sequence[NodeState]) -> str:
    """Which node holds back at which source."""
    said = [
        f"{state.host}: {pace.describe()} at {source}"
        for state in states
        for source, pace in state.paces.items()
        if pace.slowed
    ]
    return f"; {', '.join(said[:3])}{' ...' if len(said) > 3 else ''}" if said else ""


def stage_progress() -> Progress:
    """Progress of stages, each with words of its own in the field ``said``."""
    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
    )
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)


if __name__ == "__main__":
    run_verb(main)
