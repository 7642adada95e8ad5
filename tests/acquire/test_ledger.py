import threading
from collections import Counter
from datetime import UTC, datetime, timedelta

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.acquire import ledger as module
from pipeline.acquire.ledger import SCHEMA, Ledger, LedgerRow
from pipeline.errors import InputError

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def row(video_id, outcome="done", at=0, stage="download", **more):
    reason = None if outcome == "done" else more.pop("reason", "network")
    return LedgerRow(video_id, stage, outcome, reason, at=NOON + timedelta(seconds=at), **more)


def test_what_is_appended_is_read_and_the_latest_counts(tmp_path):
    ledger = Ledger(tmp_path / "m.ledger")
    assert ledger.latest("download") == {} and not ledger.folder.exists()
    first = row("a", "failed", 0, message="reset", attempts=4, bytes=10, seconds=1.5, host="h")
    ledger.append([first, row("b", at=1)])
    ledger.append([row("c", "failed", 2, reason="not_found"), row("a", at=3, stage="extract")])
    assert ledger.latest("download") == {
        "a": first,
        "b": row("b", at=1),
        "c": row("c", "failed", 2, reason="not_found"),
    }
    ledger.append([row("a", at=5)])
    assert Ledger(ledger.folder).latest("download")["a"] == row("a", at=5)
    assert ledger.latest("extract") == {"a": row("a", at=3, stage="extract")}
    parts = sorted(ledger.folder.iterdir())
    assert len(parts) == 3 and all(pq.read_schema(part).equals(SCHEMA) for part in parts)


def test_nothing_to_append_writes_nothing(tmp_path):
    Ledger(tmp_path / "m.ledger").append([])
    assert not (tmp_path / "m.ledger").exists()


_ROWS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["done", "failed"]), st.integers(0, 5)), min_size=1, max_size=12
)


@given(_ROWS, st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_latest_is_what_a_loop_would_find(tmp_path_factory, rows, size):
    ledger = Ledger(tmp_path_factory.mktemp("ledger"))
    made = [row(name, outcome, at, attempts=number) for number, (name, outcome, at) in enumerate(rows)]
    for start in range(0, len(made), size):
        ledger.append(made[start : start + size])
    expected = {}
    for one in made:
        if one.video_id not in expected or one.at >= expected[one.video_id].at:
            expected[one.video_id] = one
    assert ledger.latest("download") == expected


def test_many_parts_are_merged_without_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MANY_PARTS", 5)
    ledger = Ledger(tmp_path)
    for number in range(23):
        ledger.append([row(f"v{number}", at=number), row("again", at=number, attempts=number)])
    assert len(list(tmp_path.glob("*.parquet"))) <= 6
    latest = ledger.latest("download")
    assert len(latest) == 24 and latest["again"].attempts == 22
    assert ledger.rows().num_rows == 46


def test_a_killed_merge_leaves_rows_twice_which_changes_nothing(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path)
    for number in range(4):
        ledger.append([row(f"v{number}", at=number)])
    before = ledger.latest("download")
    monkeypatch.setattr(module.Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ledger._merge()
    monkeypatch.undo()
    assert ledger.latest("download") == before
    (tmp_path / ".half.parquet.part").write_bytes(b"PAR1")
    assert ledger.latest("download") == before


def test_two_writers_and_a_reader_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MANY_PARTS", 3)
    done = threading.Event()
    seen = []

    def write(writer):
        ledger = Ledger(tmp_path)
        for number in range(15):
            ledger.append([row(f"{writer}-{number}")])

    def read():
        while not done.is_set():
            seen.append(len(Ledger(tmp_path).latest("download")))

    writers = [threading.Thread(target=write, args=(name,)) for name in "xy"]
    reader = threading.Thread(target=read)
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert Counter(name[0] for name in Ledger(tmp_path).latest("download")) == {"x": 15, "y": 15}
    assert seen == sorted(seen)


def test_a_damaged_part_is_named(tmp_path):
    Ledger(tmp_path).append([row("a")])
    (tmp_path / "00.parquet").write_bytes(b"not parquet")
    with pytest.raises(InputError, match="cannot be read"):
        Ledger(tmp_path).latest("download")


def test_half_a_surrogate_pair_in_a_message_costs_a_character(tmp_path):
    ledger = Ledger(tmp_path / "m.ledger")
    ledger.append([row("a"), row("b", "failed", message="gone \ud83d")])
    assert ledger.latest("download")["b"].message == "gone \ufffd"
