"""A part of a list of videos: by category, task, rank, split, ids, a seeded share, or the first few."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from pipeline.types import Video


@dataclass(frozen=True)
class Subset:
    """What to keep; a video must meet every condition that is given."""

    categories: Collection[str] = ()
    """Names of first or second categories, whatever their case."""
    tasks: Collection[str] = ()
    """Task ids."""
    max_rank: int | None = None
    """Search rank up to which a video is kept; videos without a rank are not."""
    splits: Collection[str] = ()
    ids: Collection[str] | None = None
    share: float = 1.0
    """Part of the videos, drawn by a hash of seed and id: the same whatever the order, and the share of a larger
    list contains that of a smaller one."""
    seed: int = 0
    limit: int | None = None
    """First so many of what the other conditions leave."""

    def of(self, videos: Iterable[Video]) -> Iterator[Video]:
        """The videos that are kept, in their order."""
        return islice((video for video in videos if self._keeps(video)), self.limit)

    def _keeps(self, video: Video) -> bool:
        if self.ids is not None and video.video_id not in self.ids:
            return False
        if self.tasks and video.task_id not in self.tasks:
            return False
        if self.splits and video.split not in self.splits:
            return False
        if self.max_rank is not None and (video.rank is None or video.rank > self.max_rank):
            return False
        if self.categories:
            wanted = {name.casefold() for name in self.categories}
            if not wanted & {(video.category_1 or "").casefold(), (video.category_2 or "").casefold()}:
                return False
        return self.share >= 1 or _draw(self.seed, video.video_id) < self.share


def _draw(seed: int, video_id: str) -> float:
    """A number in [0, 1) that depends on seed and id alone."""
    digest = hashlib.blake2b(f"{seed}/{video_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
