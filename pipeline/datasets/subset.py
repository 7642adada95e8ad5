"""A part of a list of videos: by category, task, rank, split, ids, a seeded share, or the first few."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice

from pipeline.errors import InputError
from pipeline.types import Video
from pipeline.wording import none_of

_NAMED = 20
"""Names of categories, tasks or splits that a message lists."""


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
        """The videos that are kept, in their order.

        Raises:
            InputError: at the end of the list, where a category, task or split is of none of its videos, or no video
                meets all conditions; the message names the conditions, and what the list has that is spelt nearly so.
        """
        return islice(self._kept(videos), self.limit)

    def _kept(self, videos: Iterable[Video]) -> Iterator[Video]:
        wanted = {name.casefold() for name in self.categories}
        there: dict[str, set[str]] = {"category": set(), "task": set(), "split": set()}
        listed = kept = 0
        for video in videos:
            listed += 1
            there["category"].update(name for name in (video.category_1, video.category_2) if name)
            there["task"].add(video.task_id or "")
            there["split"].add(video.split)
            if self._keeps(video, wanted):
                kept += 1
                yield video
        if not listed:
            return  # a list without videos is another mistake, and is told as such
        # a title stands for tasks of which the list may have some only
        self._refuse_unknown(there, () if kept else self.tasks)
        if not kept:
            raise InputError(f"{none_of(listed, 'video')} of the list meets {self._conditions()}: be less strict")

    def _refuse_unknown(self, there: Mapping[str, Collection[str]], tasks: Collection[str]) -> None:
        for kind, names in (("category", self.categories), ("task", tasks), ("split", self.splits)):
            folded = {name.casefold() for name in there[kind]}
            for name in names:
                if name not in there[kind] and (kind != "category" or name.casefold() not in folded):
                    raise InputError(f"--{kind} {name}: no video of the list has it; {_nearest(name, there[kind])}")

    def _conditions(self) -> str:
        """The conditions that are given, as they stand on the command line."""
        several = (("category", self.categories), ("task", self.tasks), ("split", self.splits))
        given = [f"--{kind} {name}" for kind, names in several for name in names]
        given += [f"--rank {self.max_rank}"] if self.max_rank is not None else []
        given += ["--ids"] if self.ids is not None else []
        given += [f"--share {self.share:g}"] if self.share < 1 else []
        return ", ".join(given) if len(given) == 1 else f"all of {', '.join(given)}"

    def _keeps(self, video: Video, wanted: set[str]) -> bool:
        if self.ids is not None and video.video_id not in self.ids:
            return False
        if self.tasks and video.task_id not in self.tasks:
            return False
        if self.splits and video.split not in self.splits:
            return False
        if self.max_rank is not None and (video.rank is None or video.rank > self.max_rank):
            return False
        if wanted and not wanted & {(video.category_1 or "").casefold(), (video.category_2 or "").casefold()}:
            return False
        return self.share >= 1 or _draw(self.seed, video.video_id) < self.share


def _nearest(name: str, known: Collection[str]) -> str:
    """What a message says of names that are there: the nearest, and some or all."""
    names = sorted(one for one in known if one)
    if not names:
        return "its videos have none"
    by_folded = {one.casefold(): one for one in names}
    near = [one for one in names if name.casefold() in one.casefold()]
    near = near or [by_folded[one] for one in get_close_matches(name.casefold(), by_folded, 1)]
    hint = f"did you mean {near[0]!r}? There" if near else "there"
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"{hint} are {', '.join(names[:_NAMED])}{more}"


def _draw(seed: int, video_id: str) -> float:
    """A number in [0, 1) that depends on seed and id alone."""
    digest = hashlib.blake2b(f"{seed}/{video_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
