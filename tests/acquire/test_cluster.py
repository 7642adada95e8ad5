"""Two Ray nodes on this machine, one of which is killed midway."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.acquire.layout import find_video
from pipeline.acquire.ledger import Ledger
from pipeline.datasets.table import Manifest, write_manifest
from pipeline.demo.mirror import Mirror
from pipeline.types import Video

ROOT = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
# a token that other Rays on this machine may have made is none of this cluster's business
ENVIRONMENT = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
COUNT = 60


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_node(*options):
    """A node that lives as long as its process; its own group, so that it can be ended without touching other Rays."""
    command = [RAY, "start", "--block", "--num-cpus=1", "--object-store-memory=80000000", *options]
    return subprocess.Popen(
        command,
        env=ENVIRONMENT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def children(pid):
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                    found.append((int(entry.name), (entry / "cmdline").read_bytes()))
            except OSError:
                continue
    return found


def end(node):
    for pid, _ in children(node.pid):
        os.kill(pid, signal.SIGKILL)
    node.kill()
    node.wait()


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_node_is_killed_midway_and_the_run_completes(tmp_path, video_file):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(COUNT):
        (corpus / f"v{number:02d}.mp4").write_bytes(video_file.read_bytes())
    write_manifest(tmp_path / "m.parquet", [Video(f"v{number:02d}") for number in range(COUNT)])
    manifest = Manifest(tmp_path / "m.parquet")
    port = free_port()
    nodes = [start_node("--head", f"--port={port}", "--include-dashboard=false")]
    try:
        wait_for(lambda: _answers(port), 60)
        nodes.append(start_node(f"--address=127.0.0.1:{port}"))
        with Mirror(corpus, bytes_per_second=100_000) as mirror:
            wait_for(lambda: _alive(port) == 2, 90)
            command = [sys.executable, "-m", "pipeline.download", str(manifest.path), "--recipe", "demo"]
            places = ["--videos", str(tmp_path / "videos"), "--template", mirror.url + "/{video_id}.mp4"]
            options = ["--ray-address", f"127.0.0.1:{port}", "--download.backoff", "0.1"]
            run = subprocess.Popen(
                [*command, *places, *options], cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
            )
            # with twice the concurrency of one node at work, both of them are
            wait_for(lambda: _flying(tmp_path / "videos") > 4, 90)
            raylet = next(pid for pid, name in children(nodes[1].pid) if b"raylet" in name.split(b"\0")[0])
            os.kill(raylet, signal.SIGKILL)
            said = run.communicate(timeout=240)[1]
        assert run.returncode == 0, said
        latest = Ledger(manifest.ledger).latest("download")
        assert {row.outcome for row in latest.values()} == {"done"} and len(latest) == COUNT
        for number in range(COUNT):
            path = find_video(tmp_path / "videos", f"v{number:02d}")
            assert path is not None and path.read_bytes() == video_file.read_bytes()
    finally:
        for node in reversed(nodes):
            end(node)


def _answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _alive(port):
    """Nodes that the cluster counts as alive; asked from another process, since one can join only one cluster."""
    code = "import sys; from pipeline import ray_pool as r; r.start(sys.argv[1]); print(len(r.alive_nodes()))"
    asked = subprocess.run(
        [sys.executable, "-c", code, f"127.0.0.1:{port}"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return int(asked.stdout) if asked.stdout.strip().isdigit() else 0


def _flying(videos):
    """Downloads under way: their locks are held."""
    return sum(1 for _ in videos.glob("*/.*~lock"))
