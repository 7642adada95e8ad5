"""What a run of a stage has settled so far, counted and handed to the ledger."""

from __future__ import annotations

import errno
import time
from collections import Counter

from pipeline.acquire.ledger import Ledger, LedgerRow

LEDGER_SECONDS = 10.0
"""What is known is written to the ledger at least this often."""


class Tally:
    """Counts of a run, and the rows that the ledger does not have yet."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._rows: list[LedgerRow] = []
        self._started = self._flushed = time.monotonic()
        self.counts: Counter[str] = Counter()
        """Videos by outcome ``done``, or by the reason of the failure."""
        self.bytes = 0
        """Bytes fetched or read."""

    @property
    def settled(self) -> int:
        """Videos of this run that are done or failed."""
        return self.counts.total()

    @property
    def seconds(self) -> float:
        """Time since the run began."""
        return time.monotonic() - self._started

    def record(self, row: LedgerRow) -> None:
        """Takes a row for the ledger; it is written within :data:`LEDGER_SECONDS`.

        Raises:
            OSError: the disk is full, which the next video would find as well.
        """
        self._rows.append(row)
        self.counts[row.reason or row.outcome] += 1
        self.bytes += row.bytes
        if row.reason == "disk_full":
            raise OSError(errno.ENOSPC, row.message)
        if time.monotonic() - self._flushed > LEDGER_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes the rows so far to the ledger."""
        self._ledger.append(self._rows)
        self._rows, self._flushed = [], time.monotonic()

    def describe(self, most: int | None = None) -> str:
        """What happened so far, with the failures by reason; of these the ``most`` frequent, or all."""
        failures = Counter({reason: count for reason, count in self.counts.items() if reason != "done"})
        listed = ", ".join(f"{reason} {count:,}" for reason, count in failures.most_common(most))
        return f"{self.counts['done']:,} done, {failures.total():,} failed{f' ({listed})' if listed else ''}"
