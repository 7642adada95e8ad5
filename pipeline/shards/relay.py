"""Between download and extraction where both go on at once, under a budget of the disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

from pipeline.acquire.budget import DiskBudget
from pipeline.acquire.layout import find_video, video_path
from pipeline.acquire.ledger import Ledger, LedgerRow
from pipeline.acquire.reasons import is_temporary
from pipeline.acquire.session import STAGE as DOWNLOAD
from pipeline.acquire.session import Job, Session
from pipeline.acquire.tally import Tally
from pipeline.datasets.table import Manifest
from pipeline.shards import extraction
from pipeline.types import Video

CAPTIONS_AT_ONCE = 256
"""Videos whose captions are read together from the manifest."""


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
        for stage, tally in ((DOWNLOAD, fetched), (extraction.STAGE, extracted))
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
