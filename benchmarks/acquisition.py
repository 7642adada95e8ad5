"""Acquisition against the plain way: one yt-dlp process per file, a bare HTTP client, and the sizes of HowTo100M.

    python benchmarks/acquisition.py                       # all parts but `manifest`
    python benchmarks/acquisition.py small dispatch --json acquisition.json
    python benchmarks/acquisition.py manifest --folder /large/disk

small: small files per second, of threads that share nothing but the process as in a node's worker, against one yt-dlp
process per file, as many at once. Ours decodes both ends of every file, the baseline does not.
large: one large file, against `requests` that streams it to disk; both end with fsync.
start: from start to the first job for 1.24 million videos, half of them done, in a process of its own.
dispatch: no-op downloads per second through Ray, and the driver's memory over time.
manifest: building HowTo100M's manifest from files of its size (made up; 6 GB, ten minutes of a processor), and `show`.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.acquire.client import Downloader
from pipeline.acquire.ledger import Ledger, LedgerRow
from pipeline.acquire.session import Job, Session
from pipeline.config import DownloadSettings
from pipeline.datasets.table import Manifest, write_manifest
from pipeline.media.ffmpeg import ffmpeg_binary
from pipeline.types import Caption, Video

VIDEOS = 1_238_911
Row = tuple[str, str, str]


def make_video(path: Path, size: int) -> None:
    """A playable file of about so many bytes: two seconds of pictures, and a box that players skip."""
    source = ["-f", "lavfi", "-i", "testsrc2=size=160x120:rate=10", "-t", "2", "-c:v", "libx264"]
    subprocess.run([ffmpeg_binary(), "-v", "error", "-y", *source, "-preset", "ultrafast", str(path)], check=True)
    video = path.read_bytes()
    before = video.index(b"moov") - 4
    filling = max(size - len(video) - 16, 0)
    with path.open("wb") as file:
        file.write(video[:before] + (1).to_bytes(4, "big") + b"free" + (filling + 16).to_bytes(8, "big"))
        for start in range(0, filling, 1 << 20):
            file.write(os.urandom(min(1 << 20, filling - start)))
        file.write(video[before:])


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The mirror in a process of its own."""
    command = [sys.executable, "-m", "pipeline.demo.mirror", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait()


def in_threads(work: Callable[[str], None], names: list[str], threads: int) -> float:
    """Seconds that the work takes on so many threads."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in names:
        waiting.put(name)

    def run() -> None:
        while True:
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                return
            work(name)

    workers = [threading.Thread(target=run) for _ in range(threads)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - started


def measure_small(folder: Path, count: int = 200, baseline_count: int = 16, threads: int = 4) -> list[Row]:
    corpus = folder / "small"
    corpus.mkdir()
    make_video(corpus / "s0.mp4", 30_000)
    for number in range(1, count):
        (corpus / f"s{number}.mp4").write_bytes((corpus / "s0.mp4").read_bytes())
    own = threading.local()
    with served(corpus) as url:
        settings = DownloadSettings(template=url + "/{video_id}.mp4")

        def fetch(name: str) -> None:
            if not hasattr(own, "downloader"):
                own.downloader = Downloader(settings, folder / "ours")
            assert own.downloader.fetch(Video(name)).outcome == "done"

        def plain(name: str) -> None:
            place = ["-o", str(folder / "plain" / "%(id)s.%(ext)s"), f"{url}/{name}.mp4"]
            subprocess.run([sys.executable, "-m", "yt_dlp", "-q", *place], check=True)

        ours = count / in_threads(fetch, [f"s{number}" for number in range(count)], threads)
        baseline = baseline_count / in_threads(plain, [f"s{number}" for number in range(baseline_count)], threads)
    return [
        ("small files, ours", f"{ours:.1f} files/s", ""),
        ("small files, a yt-dlp process each", f"{baseline:.1f} files/s", ""),
        ("ratio", f"{ours / baseline:.1f}", "2"),
    ]


def measure_large(folder: Path, size: int = 1_000_000_000, repeats: int = 3) -> list[Row]:
    import requests

    corpus = folder / "large"
    corpus.mkdir()
    make_video(corpus / "big.mp4", size)
    ours, bare = [], []
    with served(corpus) as url:
        downloader = Downloader(DownloadSettings(template=url + "/{video_id}.mp4"), folder / "ours")
        for _ in range(repeats):
            started = time.perf_counter()
            assert downloader.fetch(Video("big")).outcome == "done"
            ours.append(time.perf_counter() - started)
            (folder / "ours" / "bi" / "big.mp4").unlink()
            started = time.perf_counter()
            with (
                requests.get(f"{url}/big.mp4", stream=True, timeout=20) as response,
                (folder / "bare").open("wb") as out,
            ):
                for piece in response.iter_content(1 << 20):
                    out.write(piece)
                out.flush()
                os.fsync(out.fileno())
            bare.append(time.perf_counter() - started)
            (folder / "bare").unlink()
    return [
        ("a large file, ours (median)", f"{size / 1e6 / sorted(ours)[repeats // 2]:.0f} MB/s", ""),
        ("a large file, requests (median)", f"{size / 1e6 / sorted(bare)[repeats // 2]:.0f} MB/s", ""),
        ("ratio", f"{sorted(bare)[repeats // 2] / sorted(ours)[repeats // 2]:.0%}", "85%"),
    ]


def make_howto100m(folder: Path, videos: int, captions: int = 107) -> tuple[Path, Path]:
    """A list and a caption file as HowTo100M's; captions repeat after 2,000 videos, and every 50th video has none."""
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghilmnoprstu", k=rng.randint(2, 9))) for _ in range(5000)]

    def track() -> str:
        begins = [round(4.5 * number + rng.random(), 2) for number in range(max(int(rng.gauss(captions, 40)), 1))]
        texts = [" ".join(rng.choices(words, k=rng.randint(2, 6))) for _ in begins]
        return json.dumps({"start": begins, "end": [round(begin + 4, 2) for begin in begins], "text": texts})

    tracks = [track() for _ in range(2000)]
    table, content = folder / "HowTo100M_v1.csv", folder / "caption.json"
    with table.open("w") as rows, content.open("w") as texts:
        rows.write("video_id,category_1,category_2,rank,task_id\n")
        texts.write('{"none": {"start": [], "end": [], "text": []}')
        for number in range(videos):
            name = f"v{number:07d}_-A"
            rows.write(f"{name},category {number % 19},part {number % 150},{number % 200},{number % 23611}\n")
            if number % 50:
                texts.write(f', "{name}": {tracks[number % 2000]}')
        texts.write("}")
    return table, content


def measure_manifest(folder: Path, videos: int = VIDEOS) -> list[Row]:
    table, captions = make_howto100m(folder, videos)
    out = folder / "howto100m.parquet"
    files = ["--csv", str(table), "--captions", str(captions), "--out", str(out)]
    built = cost_of([sys.executable, "-m", "pipeline.manifest", "build", "howto100m", *files])
    shown = cost_of([sys.executable, "-m", "pipeline.manifest", "show", str(out)])
    size = captions.stat().st_size / 1e9
    return [
        (f"manifest of {videos:,} videos and {size:.1f} GB of captions", f"{built[0]:.0f} CPU s", ""),
        ("memory of it", f"{built[1]:.2f} GB", "2 GB"),
        ("manifest show of it", f"{shown[0]:.1f} CPU s, {shown[1]:.2f} GB", ""),
    ]


def cost_of(command: list[str]) -> tuple[float, float]:
    """Seconds of the processor and the most memory, in GB, that a command takes."""
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise subprocess.CalledProcessError(status, command)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1e6


def measure_start(folder: Path) -> list[Row]:
    path = folder / "big.parquet"
    names = [f"{number:011d}" for number in range(VIDEOS)]
    spoken = [Caption(4.0 * number, 4.0 * number + 3, "boil water") for number in range(10)]
    videos = (Video(name, category_1=f"category {int(name) % 19}", rank=1, captions=spoken) for name in names)
    write_manifest(path, videos)
    ledger, begin = Ledger(Manifest(path).ledger), datetime.now(UTC) - timedelta(days=30)
    for start in range(0, VIDEOS // 2, 20_000):
        ledger.append(
            [
                LedgerRow(
                    name, "download", "done", None, "", 1, 9_000_000, 3.0, "host", begin + timedelta(seconds=int(name))
                )
                for name in names[start : min(start + 20_000, VIDEOS // 2)]
            ]
        )
    run = subprocess.run(
        [sys.executable, __file__, "first-job", "--folder", str(path)], check=True, capture_output=True, text=True
    )
    seconds, memory = run.stdout.split()
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pipeline.status", str(path), "--json"], check=True, stdout=subprocess.DEVNULL
    )
    return [
        ("start to first job, 1.24 M rows, half done", f"{float(seconds):.1f} s", "15 s"),
        ("memory of it", f"{float(memory):.2f} GB", "1.5 GB"),
        ("status of it, the whole command", f"{time.perf_counter() - started:.1f} s", "5 s"),
    ]


def first_job(path: Path) -> None:
    """The part of download before the first dispatch, Ray's own start included; run in a process of its own."""
    from pipeline import ray_pool

    started = time.perf_counter()
    manifest = Manifest(path)
    session = Session(manifest, Ledger(manifest.ledger), DownloadSettings(), path.parent / "videos")
    ray_pool.start(num_cpus=2)
    next(session.jobs())
    print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
    ray_pool.stop()


class Nothing:
    """An actor whose downloads do nothing."""

    def fetch(self, job: Job) -> LedgerRow:
        """Done at once."""
        return LedgerRow(job.video.video_id, "download", "done")


def measure_dispatch(_: Path, count: int = 20_000) -> list[Row]:
    import ray

    from pipeline import ray_pool

    ray_pool.start(num_cpus=2)
    actor: Any = ray.remote(Nothing).options(num_cpus=0, max_concurrency=17)
    jobs = (Job(Video(f"v{number}"), False) for number in range(count))
    with ray_pool.ActorPool[Job, LedgerRow](
        lambda _: actor.remote(), 1, "fetch", in_flight=16, item_id=lambda job: job.video.video_id
    ) as pool:
        memory, started = [], 0.0
        for number, _outcome in enumerate(pool.run(jobs)):
            if number == 0:
                started = time.perf_counter()
            if number % (count // 4) == count // 4 - 1:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                memory.append(pages * resource.getpagesize() / 1e6)
        rate = (count - 1) / (time.perf_counter() - started)
    ray_pool.stop()
    quarters = ", ".join(f"{size:.0f}" for size in memory)
    return [
        ("no-op downloads dispatched, 16 in flight", f"{rate:.0f} per s", "500 per s"),
        ("driver's memory after each quarter", f"{quarters} MB", "flat"),
    ]


PARTS: dict[str, Callable[[Path], list[Row]]] = {
    "small": measure_small,
    "large": measure_large,
    "start": measure_start,
    "dispatch": measure_dispatch,
    "manifest": measure_manifest,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = [part for part in PARTS if part != "manifest"]
    parser.add_argument("parts", nargs="*", default=usual, help=f"of {', '.join(PARTS)}; default: all but the last")
    parser.add_argument("--folder", type=Path, help="where the work is done; default: a temporary folder")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.parts == ["first-job"]:
        first_job(arguments.folder)
        return
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for part in arguments.parts:
            rows += PARTS[part](Path(folder))
    table = Table("what", "measured", "goal", title=f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(
            json.dumps([dict(zip(("what", "measured", "goal"), row, strict=True)) for row in rows])
        )


if __name__ == "__main__":
    main()
