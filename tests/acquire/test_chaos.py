"""Three hundred videos, a server with every fault, and thirty processes killed."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.acquire.layout import find_video
from pipeline.acquire.ledger import Ledger
from pipeline.datasets.table import Manifest, write_manifest
from pipeline.demo.mirror import Fault, Mirror
from pipeline.types import Video

ROOT = Path(__file__).resolve().parents[2]
COUNT = 300
DRIVER_KILLS = 3
WORKER_KILLS = 27

# by number of the video modulo 25: how it fails, and the reason if that lasts
SCHEDULE: dict[int, tuple[tuple[Fault, ...], str | None]] = {
    0: ((Fault("status", status=404),), "not_found"),
    1: ((Fault("status", times=2, status=503),), None),
    2: ((Fault("cut", times=1, after=50_000),), None),
    3: ((Fault("status", times=1, status=429, retry_after="0"),), None),
    4: ((Fault("stall", times=1, after=40_000, seconds=5),), None),
    5: ((Fault("flip", after=100),), "corrupt"),
    6: ((Fault("cut", times=1, after=20_000), Fault("no_ranges", times=1)), None),
    7: ((Fault("html"),), "unsupported"),
    8: ((Fault("status", times=1, status=500),), None),
    9: ((Fault("status", times=1, status=403),), None),
    10: ((Fault("long", times=1, after=1000),), None),
    11: ((Fault("redirect", times=1),), None),
    12: ((Fault("drip", times=1, after=60, seconds=0.2),), None),
    13: ((Fault("status", status=410),), "not_found"),
    14: ((Fault("cut", times=3, after=30_000),), None),
    15: ((Fault("status", times=1, status=416),), None),
    16: ((Fault("short", after=100_000),), "corrupt"),
    17: ((Fault("cut", times=1, after=0),), None),
}


def make_corpus(folder, video):
    """The same small video so many times, each made different and larger by a box that players skip."""
    rng = random.Random(5)
    for number in range(COUNT):
        filling = rng.randbytes(100_000 + rng.randrange(40_000))
        box = (len(filling) + 8).to_bytes(4, "big") + b"free" + filling
        # before the table of contents, which is last: no offset in it changes, and a cut file lacks it
        before = video.index(b"moov") - 4
        (folder / f"v{number:03d}.mp4").write_bytes(video[:before] + box + video[before:])


@pytest.fixture
def small_video(tmp_path_factory):
    import imageio_ffmpeg

    path = tmp_path_factory.mktemp("small") / "small.mp4"
    source = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=5"]
    coding = ["-t", "2", "-c:v", "libx264", "-preset", "ultrafast"]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *source, *coding, str(path)], check=True)
    return path.read_bytes()


def workers_of(driver):
    """Process ids of the actors that belong to a driver; looks only at its descendants."""
    parents, actors = {}, []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if (entry / "cmdline").read_bytes().startswith(b"ray::Fetcher"):
                    actors.append(int(entry.name))
            except OSError:
                continue

    def belongs(pid):
        while pid in parents and pid != driver:
            pid = parents[pid]
        return pid == driver

    return [pid for pid in actors if belongs(pid)]


def start(manifest, mirror):
    options = {"backoff": 0.05, "timeout": 1.0, "pause": 0.1, "concurrency": 4, "give_up_after": 100}
    settings = [text for name, value in options.items() for text in (f"--download.{name}", str(value))]
    command = [sys.executable, "-m", "pipeline.download", str(manifest.path), "--recipe", "demo"]
    places = ["--videos", str(manifest.path.parent / "videos"), "--template", mirror.url + "/{video_id}.mp4"]
    return subprocess.Popen([*command, *places, *settings], cwd=ROOT, stderr=subprocess.DEVNULL)


def files_done(manifest):
    return sum(1 for _ in (manifest.path.parent / "videos").glob("v*/v*.mp4"))


def run_with_kills(manifest, mirror, kills):
    """Runs until all kills are dealt, each after some progress or some time; returns the kills that hit nothing."""
    driver = start(manifest, mirror)
    seen, waited = files_done(manifest), time.monotonic()
    while kills:
        time.sleep(0.05)
        if driver.poll() is not None:
            return kills
        if files_done(manifest) < seen + 3 and time.monotonic() < waited + 20:
            continue
        targets = [driver.pid] if kills[0] == "driver" else workers_of(driver.pid)
        if targets:
            os.kill(targets[0], signal.SIGKILL)
            kill = kills.pop(0)
            seen, waited = files_done(manifest), time.monotonic()
            if kill == "driver":
                driver.wait()
                driver = start(manifest, mirror)
    driver.wait(timeout=400)
    return kills


@pytest.mark.slow
def test_every_video_ends_whole_or_with_its_reason(tmp_path, small_video):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    make_corpus(corpus, small_video)
    names = [f"v{number:03d}" for number in range(COUNT)]
    write_manifest(tmp_path / "m.parquet", map(Video, names))
    manifest = Manifest(tmp_path / "m.parquet")
    plans = {number: SCHEDULE.get(number % 25, ((), None)) for number in range(COUNT)}
    faults = {f"v{number:03d}.mp4": plan for number, (plan, _) in plans.items() if plan}
    kills = ["worker"] * WORKER_KILLS + ["driver"] * DRIVER_KILLS
    random.Random(3).shuffle(kills)
    with Mirror(corpus, faults, bytes_per_second=1_200_000) as mirror:
        left = run_with_kills(manifest, mirror, kills)
        for _ in range(3):  # what failed for now is tried again, as a user would
            start(manifest, mirror).wait(timeout=400)
            latest = Ledger(manifest.ledger).latest("download")
            if len(latest) == COUNT and not any(
                row.reason in ("network", "timeout", "unknown") for row in latest.values()
            ):
                break
        sent = mirror.bytes_sent
    assert not left
    for number, name in enumerate(names):
        expected = plans[number][1]
        path = find_video(tmp_path / "videos", name)
        row = latest[name]
        assert (row.reason, row.outcome) == (expected, "failed" if expected else "done"), (name, row)
        assert (path is None) == (expected is not None)
        if path is not None:
            original = corpus / f"{name}.mp4"
            assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(original.read_bytes()).digest()
    hidden = [path for path in (tmp_path / "videos").rglob(".*") if path.is_file() and not path.name.endswith("lock")]
    assert hidden == []
    size = sum(path.stat().st_size for path in corpus.iterdir())
    assert sent <= 1.15 * size, f"{sent / size:.3f}"
