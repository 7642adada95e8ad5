"""What one run of download has to do, and what became of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.acquire.daily import LastDay
from pipeline.acquire.layout import videos_in
from pipeline.acquire.ledger import Ledger, now
from pipeline.acquire.reasons import REASONS, is_temporary
from pipeline.acquire.sources import Sources
from pipeline.acquire.tally import Tally
from pipeline.config import DownloadSettings
from pipeline.datasets.table import Manifest
from pipeline.errors import InputError
from pipeline.types import Video
from pipeline.wording import counted

STAGE = "download"
VANISHED = "vanished"
"""Said instead of a reason: the ledger calls a video done, but it is neither in the folder nor extracted."""
OLD_DAYS = 60
"""A yt-dlp that is older is named as a possible cause of failures."""
MAY_BE_OLD = frozenset({"no_formats", "unknown", "forbidden", "bot_check"})
"""Reasons that a site gives to a yt-dlp that it does not know any more."""
DISK_SECONDS = 2.0
"""The room on the disk is looked at this often."""


class Job(NamedTuple):
    """One video to fetch."""

    video: Video
    with_captions: bool
    """Whether the manifest lacks its captions, so that the site's are wanted."""


class Session:
    """The jobs of a run, and what became of them.

    Args:
        settings: the caps for a day and for the disk.
        folder: the folder of all videos.
        retry: reasons of failures for good that are tried again all the same, and :data:`VANISHED`.
        limit: videos to ask for at most.
        had: videos of the manifest that need not be fetched; None: those that the ledger calls done.
    """

    def __init__(
        self,
        manifest: Manifest,
        ledger: Ledger,
        settings: DownloadSettings,
        folder: Path,
        retry: Sequence[str] = (),
        limit: int | None = None,
        had: Collection[str] | None = None,
    ) -> None:
        self._manifest, self._ledger, self._settings, self._folder = manifest, ledger, settings, folder
        repeated = len(manifest) - int(pc.count_distinct(manifest.table(["video_id"])["video_id"]).as_py())
        if repeated:
            raise InputError(
                f"{manifest.path} lists {repeated:,} ids again: python -m pipeline.manifest merge writes each once"
            )
        rows = ledger.rows()
        latest = ledger.latest_of(rows, STAGE)
        finished = pc.equal(latest["outcome"], "done")
        self._vanished: list[str] = []
        if had is not None:
            finished = pc.is_in(latest["video_id"], value_set=pa.array(had, pa.string()))
        elif _count(finished):
            self._vanished = self._gone(latest.filter(finished)["video_id"], rows)
            if VANISHED in retry:
                lost = pc.is_in(latest["video_id"], value_set=pa.array(self._vanished, pa.string()))
                finished, self._vanished = pc.and_not(finished, lost), []
        settled = [reason for reason in REASONS if not is_temporary(reason) and reason not in retry]
        given_up = pc.and_not(pc.is_in(latest["reason"], value_set=pa.array(settled, pa.string())), finished)
        self._skip = {*latest.filter(pc.or_(finished, given_up))["video_id"].to_pylist(), *(had or ())}
        listed = pc.is_in(latest["video_id"], value_set=manifest.table(["video_id"])["video_id"])
        self.done_before = _count(pc.and_(finished, listed)) if had is None else len(had)
        self.failed_before = _count(pc.and_(given_up, listed))
        left = len(manifest) - self.done_before - self.failed_before
        self.total = left if limit is None else min(left, limit)
        self._last_day = LastDay(rows, STAGE)
        self.tally = Tally(ledger)
        self.stopped: dict[str, str] = {}
        """What ended before its time: the node, or the run itself, and why."""
        self.closed: set[str] = set()
        """Sources that no node asks any more."""
        self.left_out = 0
        """Videos that were not asked for because of that."""
        self.on_left_out: Callable[[str], None] = lambda video_id: None
        self._sources = Sources(settings)
        self._looked_at_disk = 0.0

    def _gone(self, done: pa.ChunkedArray, rows: pa.Table) -> list[str]:
        """Which of the done are neither in the folder nor went through extraction, after which ``run`` deletes them."""
        used = self._ledger.latest_of(rows, "extract")["video_id"]
        there = pa.array(list(videos_in(self._folder)), pa.string())
        kept = pc.is_in(done, value_set=pa.chunked_array([*used.chunks, there], pa.string()))
        listed = pc.is_in(done, value_set=self._manifest.table(["video_id"])["video_id"])
        gone: list[str] = done.filter(pc.and_not(listed, kept)).to_pylist()
        return gone

    @property
    def got_nothing(self) -> bool:
        """Whether videos were asked for, and there is none, from this run or an earlier one."""
        return bool(self.tally.settled) and not self.tally.counts["done"] and not self.done_before

    def jobs(self) -> Iterator[Job]:
        """What there is to fetch, in the manifest's order; ends early when a cap is reached."""
        wanted = self._settings.subtitles is not None
        for number, (video, captioned) in enumerate(self._manifest.to_fetch(self._skip)):
            if number >= self.total or self._is_capped():
                return
            yield Job(video, wanted and not captioned)

    def of_open_sources(self, jobs: Iterable[Job | None]) -> Iterator[Job | None]:
        """The jobs but for those of :attr:`closed` sources, which are left for another run."""
        for job in jobs:
            place = next(self._sources.of(job.video), None) if job is not None and self.closed else None
            if job is not None and place is not None and place.source in self.closed:
                self.leave_out(job.video.video_id)
            else:
                yield job

    def note_closed(self, host: str, message: str) -> None:
        """Remembers what a node says of a source that it does not ask any more."""
        said = self.stopped.get(host, message)
        self.stopped[host] = said if message in said else f"{said}; {message}"

    def leave_out(self, video_id: str) -> None:
        """Leaves a video for another run."""
        self.left_out += 1
        self.on_left_out(video_id)

    def _is_capped(self) -> bool:
        daily, floor = self._settings.daily_gigabytes, self._settings.min_free_gigabytes
        if daily is not None and self._last_day.bytes(self.tally.bytes) >= daily * 1e9:
            self.stopped["this run"] = f"{daily:g} GB in 24 hours, as download.daily_gigabytes says; go on tomorrow"
        elif time.monotonic() - self._looked_at_disk > DISK_SECONDS:
            self._looked_at_disk = time.monotonic()
            self._folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self._folder).free < floor * 1e9:
                self.stopped["this run"] = f"less than {floor:g} GB free (download.min_free_gigabytes); make room"
        return "this run" in self.stopped

    def summary(self) -> list[str]:
        """Lines for people: what happened, and what ended early."""
        again = sum(count for reason, count in self.tally.counts.items() if reason in REASONS and is_temporary(reason))
        did = (
            f"{self.tally.describe()}, {self.tally.bytes / 1e6:,.1f} MB in {self.tally.seconds:.0f} s"
            f"{f'; the same command tries {again:,} again' if again else ''}"
        )
        before = f"before: {self.done_before:,} done, {self.failed_before:,} failed for good"
        nothing = "nothing to do" if self.total == 0 else "nothing done"
        lines = [f"download: {did if self.tally.settled else nothing}; {before}"]
        if self._vanished:
            lines.append(
                f"{len(self._vanished):,} of the done are neither in {self._folder} nor extracted (such as "
                f"{self._vanished[0]}): --retry {VANISHED} fetches them again"
            )
        return lines + self.remarks()

    def remarks(self) -> list[str]:
        """What ended before its time, and what may help."""
        lines = [f"stopped early, {who}: {why}" for who, why in self.stopped.items()]
        if self.left_out:
            lines.append(
                f"left for the next run: {counted(self.left_out, 'video')} of sources that are not asked any more"
            )
        days = (now().date() - yt_dlp_date()).days
        if days > OLD_DAYS and MAY_BE_OLD & self.tally.counts.keys():
            lines.append(f"yt-dlp is {days} days old, and sites change: pip install -U yt-dlp may help")
        return lines


def yt_dlp_date() -> date:
    """The day of the installed version, which is its name."""
    return date(*map(int, version("yt-dlp").split(".")[:3]))


def _count(flags: pa.ChunkedArray) -> int:
    return int(pc.sum(flags).as_py() or 0)
