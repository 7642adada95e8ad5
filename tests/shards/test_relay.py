"""Videos move through a relay by hand, within a budget."""

from __future__ import annotations

from pathlib import Path

from pipeline.acquire.budget import DiskBudget
from pipeline.acquire.layout import incoming_path
from pipeline.acquire.ledger import Ledger, LedgerRow
from pipeline.acquire.session import Session
from pipeline.config import DownloadSettings
from pipeline.datasets.table import Manifest, write_manifest
from pipeline.shards.relay import Relay
from pipeline.types import Caption, Video


class Hand:
    """Moves videos of 100 bytes through a relay by hand: a budget of 350 bytes, of which a download reserves 150."""

    def __init__(self, folder: Path, count: int = 4, there: int = 0) -> None:
        self.folder, names = folder / "videos", [f"v{number}" for number in range(count)]
        write_manifest(folder / "m.parquet", [Video(name, captions=[Caption(0, 1, name)]) for name in names])
        for name in names[:there]:
            self.put(name)
        manifest, self.ledger = Manifest(folder / "m.parquet"), Ledger(folder / "m.ledger")
        self.budget = DiskBudget(self.folder, 350)
        session = Session(manifest, self.ledger, DownloadSettings(min_free_gigabytes=0), self.folder, had=names[:there])
        self.relay = Relay(session, self.ledger, manifest, self.budget, 150, set(names[:there]), (0, 0))
        self.feed, self.work = self.relay.to_fetch(), self.relay.to_extract()

    def put(self, name: str, ending: str = "mp4") -> Path:
        path = self.folder / name[:2] / f"{name}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(100))
        return path

    def ask(self) -> str | None:
        job = next(self.feed)
        return job and job.video.video_id

    def fetched(self, name: str, reason: str | None = None) -> None:
        if reason is None:
            self.put(name)
        self.relay.session.tally.record(LedgerRow(name, "download", "failed" if reason else "done", reason))

    def extracted(self, reason: str | None = None) -> str:
        job = next(self.work)
        assert job is not None and job.path.exists() and job.video.captions == [Caption(0, 1, job.video.video_id)]
        self.relay.tally.record(LedgerRow(job.video.video_id, "extract", "failed" if reason else "done", reason))
        return job.video.video_id


def test_downloads_wait_for_room_and_a_sample_makes_it(tmp_path: Path) -> None:
    hand = Hand(tmp_path)
    assert [hand.ask(), hand.ask(), hand.ask()] == ["v0", "v1", None]
    assert next(hand.work) is None
    hand.fetched("v1")  # 100 bytes instead of 150, and 150 for v0: no room for 150 more
    assert hand.ask() is None and hand.budget.used == 250
    assert hand.extracted() == "v1" and not (hand.folder / "v1" / "v1.mp4").exists()
    assert hand.ask() == "v2" and hand.ask() is None
    hand.fetched("v0", "not_found")
    assert hand.ask() == "v3"
    hand.fetched("v2")
    hand.fetched("v3")
    assert next(hand.feed, "over") == "over"
    hand.relay.all_fetched = True
    assert [hand.extracted("corrupt"), hand.extracted()] == ["v2", "v3"] and next(hand.work, "over") == "over"
    assert hand.ledger.latest("extract")["v2"].reason == "corrupt"  # written before the video was deleted
    assert hand.budget.used == 0 and hand.budget.peak <= 350
    assert "not_found 1 (download), corrupt 1 (extract)" in hand.relay.summary()[0]


def test_what_is_there_comes_first_and_what_failed_for_now_stays(tmp_path: Path) -> None:
    hand = Hand(tmp_path, count=4, there=3)
    assert hand.ask() is None
    assert [hand.extracted("timeout") for _ in range(3)] == ["v0", "v1", "v2"]
    assert (hand.folder / "v0" / "v0.mp4").exists() and hand.budget.used == 300
    assert next(hand.feed, "over") == "over"  # nothing moves any more that could make room
    assert "stopped early" in hand.relay.summary()[-1] and "--disk-gigabytes" in hand.relay.summary()[-1]


def test_parts_of_failed_downloads_give_way_when_nothing_else_can(tmp_path: Path) -> None:
    hand = Hand(tmp_path, count=4, there=1)
    parts = []
    for name in ("v1", "v2"):
        assert hand.ask() == name
        parts.append(hand.put(name).rename(incoming_path(hand.folder, name, "mp4.part")))
        hand.fetched(name, "network")
    assert hand.budget.used == 300 and hand.ask() is None and all(part.exists() for part in parts)
    assert hand.extracted("timeout") == "v0"
    assert hand.ask() is None and not any(part.exists() for part in parts)
    assert hand.ask() == "v3" and (hand.folder / "v0" / "v0.mp4").exists()


def test_a_run_that_got_nothing_is_told_from_one_that_did(tmp_path: Path) -> None:
    hand = Hand(tmp_path, count=3)
    assert not hand.relay.got_nothing
    assert hand.ask() == "v0"
    hand.fetched("v0", "not_found")
    assert (hand.relay.settled, hand.relay.got_nothing) == (1, True)
    assert hand.ask() == "v1"
    hand.fetched("v1")
    hand.extracted("corrupt")
    assert (hand.relay.settled, hand.relay.got_nothing) == (2, True)
    assert hand.ask() == "v2"
    hand.fetched("v2")
    hand.extracted()
    assert (hand.relay.settled, hand.relay.got_nothing) == (3, False)
