"""The run verb: real files over real HTTP, real Ray processes, and kills."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.acquire.ledger import Ledger
from pipeline.datasets.table import write_manifest
from pipeline.demo.mirror import Fault, Mirror
from pipeline.shards.reader import ShardSet
from pipeline.shards.recovery import completed_ids
from pipeline.types import Caption, Video
from tests.test_extract import draw

COUNT = 16
BUDGET, LARGEST = 1_800_000, 300_000
"""Bytes: of all videos at once, less than half of what there is, and of one."""
FAULTS = {
    "video-02": Fault("status", status=404),
    "video-05": Fault("cut", times=1, after=50_000),
    "video-08": Fault("status", times=1, status=503),
    "video-11": Fault("flip", after=100),
}
LOST = {("download", "video-02"): "not_found", ("download", "video-11"): "corrupt", ("extract", "broken"): "corrupt"}
ALL = {f"video-{number:02d}" for number in range(COUNT)} | {"broken", "early"}


class Place:
    """A folder with a manifest, a few videos that are there already, and the command on it."""

    def __init__(self, folder: Path, served: Path) -> None:
        self.manifest, self.videos, self.shards = folder / "m.parquet", folder / "videos", folder / "shards"
        captions = [Caption(0.0, 1.0, "take this"), Caption(1.0, 2.0, "turn it round")]
        write_manifest(self.manifest, [Video(name, captions=captions) for name in sorted(ALL)])
        for name, content in (("broken", b"no video" * 1000), ("early", (served / "video-00.mp4").read_bytes())):
            path = self.videos / name[:2] / f"{name}.mp4"
            path.parent.mkdir(parents=True)
            path.write_bytes(content)

    def command(self, mirror: Mirror, *more: str) -> list[str]:
        command = [sys.executable, "-m", "pipeline.run", str(self.manifest), "--videos", str(self.videos)]
        command += ["--shards", str(self.shards), "--template", mirror.url + "/{video_id}.mp4", "--recipe", "demo"]
        command += ["--disk-gigabytes", str(BUDGET / 1e9), "--download.max_bytes", str(LARGEST)]
        return [*command, "--download.backoff", "0.05", "--extract.shard_bytes", "200000", "--workers", "1", *more]

    def start(self, mirror: Mirror) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(mirror), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
        )

    def finish(self, process: subprocess.Popen[str]) -> str:
        """Waits for the end and returns what it said, on one line."""
        said = " ".join(process.communicate(timeout=200)[1].split())
        assert process.returncode == 0, said
        return said

    def assert_complete(self) -> None:
        """Each video is in one shard once, or has its reason in the ledger; none is left on the disk."""
        rows = {(stage, name): row for stage in ("download", "extract") for name, row in self.latest(stage).items()}
        assert {key: row.reason for key, row in rows.items() if row.outcome == "failed"} == LOST
        shards = ShardSet(self.shards)
        assert set(shards.ids) == ALL - {name for _, name in LOST} and len(shards.ids) == COUNT - 1
        assert shards.repeated == 0 and not list(self.shards.glob("*.journal"))
        assert {name for (stage, name), row in rows.items() if (stage, row.outcome) == ("extract", "done")} == set(
            shards.ids
        )
        assert [path for path in self.videos.rglob("*") if path.is_file()] == []

    def latest(self, stage: str) -> dict:
        return Ledger(self.manifest.with_suffix(".ledger")).latest(stage)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of 200 to 280 kB: three different ones, each made larger by a box that players skip."""
    folder, chance = tmp_path_factory.mktemp("served"), random.Random(7)
    for number in range(3):
        draw(folder / f"{number}.mp4", number)
    for number in range(COUNT):
        video = (folder / f"{number % 3}.mp4").read_bytes()
        filling = bytes(chance.randint(200_000, 280_000) - len(video))
        (folder / f"video-{number:02d}.mp4").write_bytes(
            video + (len(filling) + 8).to_bytes(4, "big") + b"free" + filling
        )
    return folder


@pytest.fixture
def mirror(served: Path) -> Iterator[Mirror]:
    with Mirror(served, {f"{name}.mp4": fault for name, fault in FAULTS.items()}, bytes_per_second=400_000) as mirror:
        yield mirror


def total(served: Path) -> int:
    return sum(file.stat().st_size for file in served.glob("video-*"))


@contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """Looks at the bytes in a folder all the time."""
    seen, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            sizes = []
            for path in folder.rglob("*"):
                try:
                    sizes.append(path.stat().st_size if path.is_file() else 0)
                except FileNotFoundError:
                    continue
            seen.append(sum(sizes))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


@pytest.mark.slow
def test_all_ends_in_a_shard_or_the_ledger_within_the_budget(tmp_path: Path, served: Path, mirror: Mirror) -> None:
    place = Place(tmp_path, served)
    with watched(place.videos) as seen:
        said = place.finish(place.start(mirror))
    assert max(seen) <= BUDGET and len(seen) > 20
    assert total(served) > 2 * BUDGET
    place.assert_complete()
    assert "run: 15 extracted; failed: " in said and "not_found 1 (download)" in said and "corrupt 1 (extract)" in said
    assert "of 1.8 MB on the disk" in said
    requests = mirror.requests.copy()
    assert "nothing to do; before: 15 in shards, 3 failed for good" in place.finish(place.start(mirror))
    assert mirror.requests == requests


@pytest.mark.slow
def test_killed_midway_the_same_command_ends_with_the_same(tmp_path: Path, served: Path, mirror: Mirror) -> None:
    place = Place(tmp_path, served)
    with watched(place.videos) as seen:
        for kind in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            process = place.start(mirror)
            wait_for_more(place, process, 3)
            process.send_signal(kind)
            said = " ".join(process.communicate(timeout=60)[1].split())
            assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 130}[kind], said
            if kind == signal.SIGTERM:
                assert "the same command continues" in said and "Traceback" not in said
        place.finish(place.start(mirror))
    assert max(seen) <= BUDGET
    place.assert_complete()
    # what came before a kill is not fetched again: neither what was extracted and deleted, nor parts
    assert mirror.bytes_sent <= 1.2 * total(served)


def wait_for_more(place: Place, process: subprocess.Popen[str], count: int) -> None:
    """Until ``count`` further samples count."""
    before = len(completed_ids(place.shards))
    deadline = time.monotonic() + 120
    while len(completed_ids(place.shards)) < before + count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "nothing was extracted"
        time.sleep(0.05)


def test_a_budget_without_room_for_one_download_is_refused(tmp_path: Path, served: Path, mirror: Mirror) -> None:
    place = Place(tmp_path, served)
    command = place.command(mirror, "--disk-gigabytes", "0.0005")
    process = subprocess.run(command, capture_output=True, text=True, timeout=100)
    said = " ".join(process.stderr.split())
    assert process.returncode == 2 and "no room for one download, which may take 0.000877 GB" in said
    assert "download.max_bytes (now 300,000)" in said and not place.shards.exists()
