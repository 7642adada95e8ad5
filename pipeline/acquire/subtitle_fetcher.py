"""Getting the subtitles that a site has of a video."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline.acquire.layout import find_captions, incoming_path, video_path
from pipeline.acquire.pacing import COMPLAINTS, Pacer, SourceClosed, wait_before
from pipeline.acquire.reasons import RETRIED_AT_ONCE, Failure
from pipeline.acquire.site import Information, Refused, Site
from pipeline.acquire.sources import Place
from pipeline.acquire.subtitles import choose_subtitles
from pipeline.config import DownloadSettings
from pipeline.media.captions import read_captions
from pipeline.media.errors import MediaError
from pipeline.types import Video

LARGEST_CAPTIONS = 20_000_000
"""Bytes of a file of captions, at most."""


class SubtitleFetcher:
    """Fetches subtitles at a pace of their own. What goes wrong is a note: it never costs a video.

    Args:
        settings: the recipe's section.
        folder: the folder of all videos.
        pacer: of the node.
        site: asks and reads.
        sleep: waits between tries.
    """

    def __init__(
        self, settings: DownloadSettings, folder: Path, pacer: Pacer, site: Site, sleep: Callable[[float], None]
    ) -> None:
        self._settings, self._folder, self._pacer, self._site, self._sleep = settings, folder, pacer, site, sleep

    def fetch(self, video: Video, place: Place, information: Information) -> str:
        """Stores the site's subtitles beside the video; returns what there is to note.

        Args:
            video: a manifest's row.
            place: where the video is had from.
            information: what the site says of it.
        """
        language = self._settings.subtitles
        if language is None or find_captions(self._folder, video.video_id) is not None:
            return ""
        chosen = choose_subtitles(information, language)
        if chosen is None:
            return f"no subtitles in {language}"
        beside = incoming_path(self._folder, video.video_id, f"{chosen.language}.{chosen.ending}")
        for attempt in itertools.count(1):
            try:
                since = self._pacer.enter(_subtitles_of(place))
            except SourceClosed as closed:
                return f"no subtitles: {closed}"
            failure, retry_after = self._read(chosen.url, beside)
            self._pacer.report(_subtitles_of(place), failure.reason if failure else None, since, retry_after)
            if failure is None:
                break
            if attempt >= self._settings.attempts or failure.reason not in RETRIED_AT_ONCE:
                return f"no subtitles: {failure.reason}: {failure.message}"
            if failure.reason not in COMPLAINTS:
                self._sleep(wait_before(attempt, self._settings.backoff, retry_after))
        beside.replace(video_path(self._folder, video.video_id, f"{chosen.language}.{chosen.ending}"))
        return f"subtitles: {chosen.language}, {chosen.kind}"

    def fetch_alone(self, video: Video, places: Iterable[Place]) -> str:
        """The same for a video that is there, of which the first of its places that is a site is asked anew."""
        place = next((place for place in places if place.url is not None), None)
        if place is None or place.url is None or find_captions(self._folder, video.video_id) is not None:
            return ""
        try:
            since = self._pacer.enter(_subtitles_of(place))
            try:
                information = self._site.describe(video, place.url)
            except Refused as refused:
                self._pacer.report(_subtitles_of(place), refused.failure.reason, since, refused.retry_after)
                return f"no subtitles: {refused.failure.reason}: {refused.failure.message}"
        except SourceClosed as closed:
            return f"no subtitles: {closed}"
        return self.fetch(video, place, information)

    def _read(self, url: str, target: Path) -> tuple[Failure | None, float | None]:
        """Stores subtitles that can be read, or says why not, and how long the site wants to be left alone."""
        try:
            target.write_bytes(self._site.read(url, LARGEST_CAPTIONS))
            read_captions(target)
        except Refused as refused:
            return refused.failure, refused.retry_after
        except MediaError as error:
            return Failure("corrupt", error.message), None
        return None, None


def _subtitles_of(place: Place) -> str:
    """A source of its own to the pacer: where subtitles are refused, videos may be had all the same."""
    return f"{place.source} (subtitles)"
