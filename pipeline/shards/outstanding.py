"""What there is to extract: of a manifest's videos those that are there, in no shard and have not failed for good."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.acquire.layout import find_video
from pipeline.acquire.ledger import Ledger, LedgerRow
from pipeline.acquire.reasons import is_temporary
from pipeline.datasets.table import Manifest
from pipeline.shards.extraction import ORPHAN_SECONDS, STAGE, Job, job_of
from pipeline.shards.recovery import completed_ids, wait_for_writers


def settled_before(
    manifest: Manifest, ledger: Ledger, folder: Path, recipe: str, retry: Sequence[str]
) -> tuple[set[str], set[str]]:
    """The videos that are in a shard, and those that failed for good and whose reason is not to be tried again.

    What failed under other settings than those of the fingerprint ``recipe`` is not among the latter: a silent video is
    of no use to a recipe of sound alone, but to one of pictures. Videos that are in a shard but, since a run was
    killed, not in the ledger, are added to it.

    Raises:
        InputError: another process writes these shards.
    """
    wait_for_writers(folder, ORPHAN_SECONDS)
    done, latest = completed_ids(folder), ledger.latest(STAGE)
    failed = {
        video_id
        for video_id, row in latest.items()
        if row.outcome == "failed"
        and not is_temporary(row.reason)
        and row.reason not in retry
        and row.recipe in (None, recipe)
    }
    recorded = {video_id for video_id, row in latest.items() if row.outcome == "done"}
    missing = sorted(done.intersection(manifest.ids()) - recorded)
    ledger.append([LedgerRow(video_id, STAGE, "done", message="found in a shard") for video_id in missing])
    return done, failed - done


class Work:
    """The videos of a manifest that there are to extract.

    Args:
        manifest: what is wanted.
        videos: the folder of the videos.
        skip: ids that are not wanted any more.
    """

    def __init__(self, manifest: Manifest, videos: Path, skip: set[str]) -> None:
        # absolute, since the workers of a cluster have another working directory
        self._manifest, self._videos = manifest, videos.resolve()
        wanted = [video_id for video_id in manifest.ids() if video_id not in skip]
        paths = ((video_id, find_video(self._videos, video_id)) for video_id in wanted)
        self._paths = {video_id: path for video_id, path in paths if path is not None}
        self.total = len(self._paths)
        self.missing = len(wanted) - self.total
        """Videos that are not there to extract."""

    def jobs(self) -> Iterator[Job]:
        """The videos to extract, in the manifest's order."""
        for video in self._manifest:
            path = self._paths.get(video.video_id)
            if path is not None:
                yield job_of(video, path, self._videos)
