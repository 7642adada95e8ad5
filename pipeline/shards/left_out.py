"""Videos that are damaged and left out, where the settings allow that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.config import ClipSettings
from pipeline.shards.files import ShardError
from pipeline.shards.reader import ShardSet
from pipeline.shards.sample import Sample


class LeftOut:
    """Notes what is damaged, where ``clips.damaged`` is ``skip``; else the first damage is an error."""

    def __init__(self, settings: ClipSettings):
        self._fatal = settings.damaged == "fatal"
        self.messages: list[str] = []
        """What is wrong with each video that was left out."""

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Ends the block, not the work, where a video turns out to be damaged; raises ShardError if that is fatal."""
        try:
            yield
        except ShardError as error:
            if self._fatal:
                raise
            self.messages.append(str(error))

    def samples(self, shards: ShardSet, split: str | None) -> Iterator[tuple[int, Sample]]:
        """The videos of a split (None: all), by their numbers in the shards, without arrays; damaged ones are noted."""
        for number, (video_id, found) in enumerate(zip(shards.ids, shards.table["split"].to_pylist(), strict=True)):
            if split in (None, found):
                sample = None
                with self.allowed():
                    sample = shards.read(video_id, arrays=False)
                if sample is not None:
                    yield number, sample

    def some(self, found: object) -> None:
        """Raises ShardError where damage left nothing of what was looked for."""
        if self.messages and not found:
            raise ShardError(f"all videos are damaged: {self.messages[0]}")

    def note(self) -> str:
        """How many, to be said behind a count of those that are left; empty where there are none."""
        return f" ({len(self.messages):,} damaged left out)" if self.messages else ""
