"""Sealed shards go into a store while their writer goes on."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from pipeline.errors import InputError
from pipeline.shards.remote import Destination, upload

log = logging.getLogger(__name__)


class SealedUploads:
    """Puts the sealed shards of one writer into a store, one at a time, in a thread.

    Nothing has to be remembered: each upload takes all of the writer's shards that are sealed here and not yet there,
    so one that a crash or a store without an answer cut off is made up for by the next, or by the next run.
    """

    def __init__(self, folder: Path, writer: str, destination: Destination):
        """Starts nothing yet."""
        self._folder, self._writer, self._destination = folder, writer, destination
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """A shard was sealed. Waits for the upload of the one before, so that tars do not pile up here."""
        self.close()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Waits for what is under way."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            upload(self._folder, *self._destination, writer=self._writer)
        except (InputError, OSError) as error:
            log.warning("left for later: %s", error)
