"""Bytes of the last 24 hours, over runs that last longer."""

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.acquire import daily
from pipeline.acquire.daily import LastDay
from pipeline.acquire.ledger import Ledger, LedgerRow

START = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.fixture
def clock(monkeypatch):
    """Sets the hours since the start."""
    hours = {"now": 0.0}
    monkeypatch.setattr(daily, "now", lambda: START + timedelta(hours=hours["now"]))
    return lambda now: hours.update(now=now)


def _ledger(folder, *came):
    ledger = Ledger(folder)
    ledger.append([
        LedgerRow(video_id=f"video-{number}", stage=stage, outcome="done", bytes=size, at=START - timedelta(hours=age))
        for number, (stage, size, age) in enumerate(came)
    ])  # fmt: skip
    return ledger.rows()


def test_what_came_a_day_ago_counts_no_more(tmp_path, clock):
    rows = _ledger(tmp_path, ("download", 100, 30), ("download", 10, 20), ("download", 5, 1), ("extract", 1000, 1))
    last_day = LastDay(rows, "download")
    assert last_day.bytes(0) == 15
    clock(3.9)
    assert last_day.bytes(7) == 22
    clock(4)
    assert last_day.bytes(7) == 12
    clock(27)
    assert last_day.bytes(8) == 8
    clock(27.9)
    assert last_day.bytes(8) == 1
    clock(60)
    assert last_day.bytes(8) == 0


def test_a_first_run_has_nothing_yet(tmp_path, clock):
    assert LastDay(Ledger(tmp_path).rows(), "download").bytes(3) == 3
