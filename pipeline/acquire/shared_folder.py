"""Whether the machines of a cluster put videos where this one sees them."""

from __future__ import annotations

import time
from pathlib import Path

from pipeline.acquire.layout import find_video
from pipeline.acquire.ledger import LedgerRow
from pipeline.errors import InputError
from pipeline.wording import to_share

CACHE_SECONDS = 90.0
"""How long a file server's client may go on believing that a file is not there (NFS: a minute)."""


class SharedFolder:
    """The folder of all videos, as this machine sees it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sharing: set[str] = set()

    def check(self, row: LedgerRow) -> None:
        """Looks for the first video that each machine says it has fetched.

        Raises:
            InputError: it is not here: the machine has a folder of its own, where all that it fetches would be lost.
        """
        if row.outcome != "done" or row.host in self._sharing:
            return
        deadline = time.monotonic() + CACHE_SECONDS
        while find_video(self._folder, row.video_id) is None:
            if time.monotonic() >= deadline:
                raise InputError(
                    f"{row.host} fetched {row.video_id}, but it is not in {self._folder} here: {to_share('videos')}"
                )
            time.sleep(0.5)
        self._sharing.add(row.host)
