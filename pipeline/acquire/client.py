"""Getting one video: from which source, how often, and what must hold before a file counts."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.acquire.check import check_video, container_of
from pipeline.acquire.layout import (
    MEDIA_ENDINGS,
    find_video,
    incoming_path,
    lock_path,
    unfinished_files,
    video_path,
)
from pipeline.acquire.ledger import LedgerRow
from pipeline.acquire.locks import only_one
from pipeline.acquire.pacing import COMPLAINTS, Pacer, SourceClosed, wait_before
from pipeline.acquire.reasons import RETRIED_AT_ONCE, Failure, classify, is_temporary
from pipeline.acquire.session import STAGE
from pipeline.acquire.site import Information, Refused, Site, is_merged
from pipeline.acquire.sources import Credentials, Place, Sources, find_in_folder
from pipeline.acquire.subtitle_fetcher import SubtitleFetcher
from pipeline.acquire.transfer import Transfer
from pipeline.config import DownloadSettings
from pipeline.types import Video

OF_THE_VIDEO = frozenset({"too_large", "too_long"})
"""Reasons that another source would give as well."""


class Downloader:
    """Fetches videos into a folder, one at a time; many threads or processes may each have their own.

    Args:
        settings: the recipe's section.
        folder: the folder of all videos.
        pacer: shared by the downloaders of a node; None: its own.
        credentials: of ``settings.auth_host``.
        sleep: waits between tries; another one in tests.
        lock_wait: seconds in which another process that fetches the video may end: the workers of a driver that was
            killed live on for a moment.

    Raises:
        InputError: the settings cannot work for any video.
    """

    def __init__(
        self,
        settings: DownloadSettings,
        folder: Path | str,
        pacer: Pacer | None = None,
        credentials: Credentials | None = None,
        sleep: Callable[[float], None] = time.sleep,
        lock_wait: float = 15.0,
    ) -> None:
        self._settings, self._folder, self._sleep = settings, Path(folder), sleep
        self._lock_wait = lock_wait
        self._sources = Sources(settings)
        self._pacer = pacer if pacer is not None else Pacer(settings, sleep=sleep)
        self._transfer = Transfer(settings, self._pacer.take, self._pacer.request)
        self._site = Site(settings, self._folder, credentials, self._transfer)
        self._subtitles = SubtitleFetcher(settings, self._folder, self._pacer, self._site, sleep)

    def close(self) -> None:
        """Closes the connections that are kept."""
        self._site.close()

    def fetch(self, video: Video, with_captions: bool = False) -> LedgerRow:
        """Gets one video, or the reason why not. Partial files are continued; a complete one is not asked for again.

        Args:
            video: a manifest's row.
            with_captions: whether the site's subtitles are fetched as well.

        Returns:
            a row for the ledger: ``done``, ``failed``, or ``skipped`` where a source is not asked any more.
        """
        started = time.monotonic()
        self._transfer.fetched = 0
        end = _End(0)
        outcome, closed_source = "done", None
        with only_one(lock_path(self._folder, video.video_id), keep=False, wait=self._lock_wait) as mine:
            if not mine:
                end = _End(0, Failure("unknown", "another process is fetching it"))
            elif find_video(self._folder, video.video_id) is None:
                try:
                    end = self._take_unchecked(video, with_captions) or self._ask_sources(video, with_captions)
                except SourceClosed as closed:
                    outcome, end = "skipped", _End(0, Failure(closed.reason, str(closed)))
                    closed_source = closed.source
        if end.failure is not None and outcome == "done":
            outcome = "failed"
        return LedgerRow(
            video.video_id,
            STAGE,
            outcome,
            end.failure.reason if end.failure else None,
            end.failure.message if end.failure else end.note,
            end.attempts,
            self._transfer.fetched,
            time.monotonic() - started,
            closed_source=closed_source,
        )

    def _take_unchecked(self, video: Video, with_captions: bool) -> _End | None:
        """Accepts a file that came whole, but whose check, or whose captions, a kill prevented."""
        for ending in MEDIA_ENDINGS:
            incoming = incoming_path(self._folder, video.video_id, ending)
            if incoming.is_file():
                try:
                    self._check(incoming, None)
                except Refused:
                    continue
                note = self._subtitles.fetch_alone(video, self._sources.of(video)) if with_captions else ""
                self._accept(video, incoming)
                return _End(0, note=note)
        return None

    def _ask_sources(self, video: Video, with_captions: bool) -> _End:
        """Asks one source after the other, as long as they say that they have not got the video."""
        attempts, said = 0, []
        # not for good: the next run may name one
        failure = Failure("unknown", "no source is set for it: give --source FOLDER or --template URL")
        for place in self._sources.of(video):
            end = self._ask(video, place, with_captions)
            attempts += end.attempts
            if end.failure is None:
                return replace(end, attempts=attempts)
            failure = end.failure
            said.append(f"{place.source}: {failure.message}")
            if is_temporary(failure.reason):
                break
            self._discard(video)  # also because another source may have another file
            if failure.reason in OF_THE_VIDEO:
                break
        return _End(attempts, Failure(failure.reason, "; ".join(said) if len(said) > 1 else failure.message))

    def _ask(self, video: Video, place: Place, with_captions: bool) -> _End:
        """Asks one source until it gives the video, or it makes no sense to ask again."""
        known = _Known()
        for attempt in itertools.count(1):
            since = self._pacer.enter(place.source)
            retry_after = None
            try:
                note = self._try_once(video, place, known, with_captions)
                failure = None
            except Refused as refused:
                failure, retry_after = refused.failure, refused.retry_after
            except OSError as error:  # of this machine's disk: yt-dlp's own come as refused
                failure = classify(error)
            self._pacer.report(place.source, failure.reason if failure else None, since, retry_after)
            if failure is None:
                return _End(attempt, note=note)
            if failure.reason == "corrupt" and self._transfer.continued and not known.from_scratch:
                # Parts of two versions may have been joined: what the source has now is fetched once, whole.
                known.from_scratch = True
                self._discard(video)
            elif attempt >= self._settings.attempts or failure.reason not in RETRIED_AT_ONCE:
                return _End(attempt, failure)
            elif failure.reason not in COMPLAINTS:  # after these the source's pace makes the wait
                self._sleep(wait_before(attempt, self._settings.backoff, retry_after))
        raise AssertionError("unreachable")

    def _try_once(self, video: Video, place: Place, known: _Known, with_captions: bool) -> str:
        """Gets the file and accepts it; returns a note. Raises :class:`Refused`."""
        self._transfer.begin(unfinished_files(self._folder, video.video_id))
        if place.url is None:
            incoming = self._copy(video, place)
            self._check(incoming, None)
            self._accept(video, incoming)
            return ""
        if known.information is None:
            known.information = self._site.describe(video, place.url)
        try:
            incoming = self._site.bring(video, known.information)
        except Refused as refused:
            if refused.failure.reason not in ("network", "timeout"):
                known.information = None  # what the site said may have expired with it
            raise
        self._check(incoming, None if is_merged(known.information) else self._transfer.announced)
        # before the video counts: a video that is there is not asked for again
        note = self._subtitles.fetch(video, place, known.information) if with_captions else ""
        self._accept(video, incoming)
        return note

    def _copy(self, video: Video, place: Place) -> Path:
        """The file from a local folder: a second name of it where the disk allows that, else a copy."""
        found = find_in_folder(place.folder, video) if place.folder is not None else None
        if found is None:
            raise Refused(Failure("not_found", f"no file of it in {place.source}"))
        incoming = incoming_path(self._folder, video.video_id, found.suffix.lstrip(".").lower())
        part = incoming.with_name(f"{incoming.name}.part")
        try:
            part.unlink(missing_ok=True)
            try:
                os.link(found.resolve(), part)  # of a link, what it leads to
            except OSError:
                shutil.copyfile(found, part)
            return part.replace(incoming)
        finally:
            part.unlink(missing_ok=True)

    def _check(self, incoming: Path, announced: int | None) -> None:
        failure = check_video(incoming, announced)
        if failure is not None:
            incoming.unlink()
            raise Refused(failure)

    def _accept(self, video: Video, incoming: Path) -> None:
        with incoming.open("rb") as complete:
            os.fsync(complete.fileno())
        ending = incoming.suffix.lstrip(".").lower()
        # a stream of pieces (HLS) comes under the name of what a player would make of it
        found = container_of(incoming)
        ending = ending if ending in MEDIA_ENDINGS and found != "ts" else found
        incoming.replace(video_path(self._folder, video.video_id, ending))
        self._discard(video)

    def _discard(self, video: Video) -> None:
        for path in unfinished_files(self._folder, video.video_id):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _End:
    """How asking for a video ended."""

    attempts: int
    failure: Failure | None = None
    note: str = ""


class _Known:
    """What was learnt about a video in earlier tries."""

    def __init__(self) -> None:
        self.information: Information | None = None
        self.from_scratch = False
