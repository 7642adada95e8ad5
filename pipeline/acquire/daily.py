"""What came in the last 24 hours."""

from __future__ import annotations

from collections import deque
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.acquire.ledger import now

DAY = timedelta(days=1)


class LastDay:
    """Bytes of the last 24 hours: those of earlier runs, and of this one as it goes on, however long it lasts.

    Args:
        rows: of the ledger.
        stage: whose rows count.
    """

    def __init__(self, rows: pa.Table, stage: str) -> None:
        recent = pc.and_(pc.equal(rows["stage"], stage), pc.greater(rows["at"], pa.scalar(now() - DAY)))
        found = rows.filter(recent).select(["at", "bytes"]).sort_by("at").to_pydict()
        came = [(at, size or 0) for at, size in zip(found["at"], found["bytes"], strict=True)]
        self._came = deque(came)
        self._sum = sum(size for _, size in came)
        self._of_run = 0

    def bytes(self, of_run: int) -> int:
        """Bytes of the last 24 hours.

        Args:
            of_run: all bytes of this run so far.
        """
        if of_run > self._of_run:
            self._came.append((now(), of_run - self._of_run))
            self._sum += of_run - self._of_run
            self._of_run = of_run
        while self._came and self._came[0][0] <= now() - DAY:
            self._sum -= self._came.popleft()[1]
        return self._sum
