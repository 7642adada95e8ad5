"""Extraction on a CPU: decoding, the whole way, and memory, each beside named baselines.

    python benchmarks/extraction.py decode      # decode + scale + sound, as a share of bare decoding
    python benchmarks/extraction.py whole       # all of extraction, as a share of the bare networks
    python benchmarks/extraction.py memory      # the peak for a short video and one of 8 hours

Times are CPU seconds of this process and of FFmpeg together, the least of several rounds that alternate between the
ways, so that a busy machine disturbs all of them alike. Networks have random weights, which take as long as real ones.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from published_extraction import (
    one_pass_published_filters,
    published_decode,
    published_networks,
    published_whole,
    run_ffmpeg,
)
from rich.console import Console
from rich.table import Table
from torch import nn

from pipeline.backbones import extractor as extractor_module
from pipeline.backbones.extractor import ClipCutter, FeatureExtractor
from pipeline.backbones.registry import get_backbone
from pipeline.backbones.resnext101_3d import ResNeXt3D
from pipeline.backbones.weights import checkpoint_path
from pipeline.config import ExtractSettings
from pipeline.media.decode import FrameFormat, decode

SOURCE = Path(__file__).resolve().parents[2] / "shared" / "videos" / "flipping_a_pancake.mkv"
SIZES = {"240p": "426:240", "360p": "640:360", "720p": "1280:720"}
FORMATS = {"2d": FrameFormat(rate=1, size=224), "3d": FrameFormat(rate=24, size=112, crop=True)}
console = Console()
Way = Callable[[], object]


def cpu_seconds() -> float:
    """What this process and its ended children have used."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(ways: dict[str, Way], rounds: int) -> dict[str, float]:
    """Least CPU seconds of each way."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            before = cpu_seconds()
            way()
            best[name] = min(best[name], cpu_seconds() - before)
    return best


def video(folder: Path, name: str, source: Path, seconds: int) -> Path:
    """The source, repeated, in one of the sizes, H.264 and stereo AAC."""
    path = folder / f"{name}-{seconds}s.mp4"
    if not path.exists():
        encode = ["-c:v", "libx264", "-preset", "fast", "-crf", "23", "-c:a", "aac", "-ac", "2"]
        loop = ["-stream_loop", "-1", "-i", str(source), "-t", str(seconds), "-vf", f"scale={SIZES[name]}"]
        run_ffmpeg(*loop, *encode, str(path))
    return path


def consume(path: Path) -> None:
    for _ in decode(path, FORMATS, audio=True, timeout=3600):
        pass


def benchmark_decode(arguments: argparse.Namespace) -> dict[str, Any]:
    results = {}
    for name in SIZES:
        path = video(arguments.folder, name, arguments.source, arguments.seconds)
        ways: dict[str, Way] = {
            "bare decode": lambda path=path: run_ffmpeg(
                "-threads", "1", "-i", str(path), "-map", "0:v", "-f", "null", "-"
            ),
            "published: a pass for each output": lambda path=path: published_decode(path),
            "one pass, published filters": lambda path=path: one_pass_published_filters(path),
            "ours": lambda path=path: consume(path),
        }
        results[name] = measure(ways, arguments.rounds)
    table = Table(title=f"Decode, scale and sound of {arguments.seconds} s: CPU seconds (bare decode as a share)")
    table.add_column("")
    for name in results:
        table.add_column(name, justify="right")
    for way in results["360p"]:
        cells = [f"{seconds[way]:.2f} ({seconds['bare decode'] / seconds[way]:.0%})" for seconds in results.values()]
        table.add_row(way, *cells)
    console.print(table)
    return {"seconds_of_video": arguments.seconds, "cpu_seconds": results}


def put_random_weights() -> None:
    """Fills a TORCH_HOME of its own."""
    networks = {"resnet152-394f9c45.pth": torchvision.models.resnet152(weights=None), "resnext101.pth": ResNeXt3D()}
    for file_name, network in networks.items():
        checkpoint_path(file_name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(network.state_dict(), checkpoint_path(file_name))


def benchmark_whole(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    put_random_weights()
    path: Path = arguments.source
    extractor = FeatureExtractor(ExtractSettings())
    networks = {key: backbone.load() for key, backbone in extractor.backbones.items()}
    published = published_networks()
    inputs: dict[str, list[np.ndarray]] = {key: [] for key in networks}
    cutters = {key: ClipCutter(backbone) for key, backbone in extractor.backbones.items()}
    for name, chunk in decode(path, FORMATS, audio=False, timeout=3600):
        inputs[name].extend(cutters[name].push(chunk))
    for name, cutter in cutters.items():
        inputs[name].extend(cutter.finish())

    def bare() -> None:
        with torch.inference_mode():
            for key, items in inputs.items():
                for item in items:
                    networks[key](torch.from_numpy(item[None]))

    seconds = measure(
        {
            "bare networks": bare,
            "published way": lambda: published_whole(path, published),
            "ours": lambda: extractor.extract(path),
        },
        arguments.rounds,
    )
    table = Table(title=f"All of extraction for {path.name}, ResNet-152 and 3D ResNeXt-101: CPU seconds, one thread")
    for column in ("", "CPU seconds", "bare networks as a share", "ours is faster by"):
        table.add_column(column, justify="right" if column else "left")
    for way, spent in seconds.items():
        table.add_row(way, f"{spent:.2f}", f"{seconds['bare networks'] / spent:.1%}", f"{spent / seconds['ours']:.2f}")
    console.print(table)
    return {"video": path.name, "cpu_seconds": seconds, "inputs": {key: len(items) for key, items in inputs.items()}}


class WideFeatures(nn.Module):
    """As wide as the published features and next to no work."""

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 ``[batch, ..., height, width, 3]`` to ``[batch, 2048]``."""
        grid = nn.functional.adaptive_avg_pool2d(frames.flatten(0, -4).movedim(-1, 1)[:1].float(), 8)
        return grid.flatten().repeat(11)[:2048].expand(len(frames), -1)


def eight_hours(folder: Path) -> Path:
    """Little to decode, and as many frames and samples to compute as any video of that length."""
    path, piece = folder / "eight-hours.mkv", folder / "piece.mkv"
    if not path.exists():
        sources = ["-f", "lavfi", "-i", "testsrc2=duration=60:size=160x120:rate=2"]
        sources += ["-f", "lavfi", "-i", "sine=duration=60:sample_rate=16000"]
        run_ffmpeg(*sources, "-c:v", "libx264", "-g", "2", "-pix_fmt", "yuv420p", "-c:a", "flac", str(piece))
        run_ffmpeg("-stream_loop", "479", "-i", str(piece), "-c", "copy", str(path))
    return path


def benchmark_memory(arguments: argparse.Namespace) -> dict[str, Any]:
    results = {}
    paths = {
        "3 minutes, real": video(arguments.folder, "240p", arguments.source, 180),
        "8 hours, generated": eight_hours(arguments.folder),
    }
    for name, path in paths.items():
        # a process of its own: a peak cannot be taken back
        command = [sys.executable, __file__, "peak", "--source", str(path)]
        results[name] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    table = Table(title="Memory beside the networks, MB")
    for column in ("", "this process", "FFmpeg", "together", "features", "seconds"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in results.items():
        together = row["process_mb"] + row["ffmpeg_mb"]
        cells = (row["process_mb"], row["ffmpeg_mb"], together, row["features_mb"], row["seconds"])
        table.add_row(name, *(f"{cell:.0f}" for cell in cells))
    console.print(table)
    return results


@contextmanager
def child_peak() -> Iterator[list[float]]:
    """Collects the peaks of child processes, in MB, while the block runs; a child's ``ru_maxrss`` has its parent's."""
    peaks, done = [0.0], threading.Event()

    def sample() -> None:
        while not done.wait(0.1):
            for children in Path("/proc/self/task").glob("*/children"):
                for child in children.read_text().split():
                    with contextlib.suppress(OSError, StopIteration):
                        lines = Path(f"/proc/{child}/status").read_text().splitlines()
                        peaks.append(int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()


def peak(arguments: argparse.Namespace) -> None:
    """Extracts one file and prints how much memory that took beyond what was there before."""
    torch.set_num_threads(1)
    wide = {name: replace(get_backbone(name), build=WideFeatures) for name in ("resnet152", "resnext101_3d")}
    extractor_module.get_backbone = wide.__getitem__  # type: ignore[assignment]
    extractor = FeatureExtractor(ExtractSettings())
    status = Path("/proc/self/status")

    def resident(field: str) -> float:
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) / 1024

    before, started = resident("VmRSS"), time.monotonic()
    with child_peak() as of_ffmpeg:
        features = extractor.extract(arguments.source)
    print(
        json.dumps(
            {
                "process_mb": resident("VmHWM") - before,
                "ffmpeg_mb": max(of_ffmpeg),
                "features_mb": sum(array.nbytes for array in features.arrays.values()) / 2**20,
                "shapes": {key: array.shape for key, array in features.arrays.items()},
                "seconds": time.monotonic() - started,
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["decode", "whole", "memory", "peak"])
    parser.add_argument("--source", type=Path, default=SOURCE, help="the real video that all inputs are made from")
    parser.add_argument("--folder", type=Path, help="where inputs are kept between runs; default: nowhere")
    parser.add_argument("--seconds", type=int, default=60, help="length of the decoded videos")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the numbers are written")
    arguments = parser.parse_args()
    if arguments.what == "peak":
        peak(arguments)
        return
    with tempfile.TemporaryDirectory() as temporary:
        arguments.folder = arguments.folder or Path(temporary)
        arguments.folder.mkdir(parents=True, exist_ok=True)
        os.environ["TORCH_HOME"] = temporary
        run = {"decode": benchmark_decode, "whole": benchmark_whole, "memory": benchmark_memory}[arguments.what]
        results = run(arguments)
    machine = {
        "machine": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "torch": torch.__version__,
    }
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(
            json.dumps({"benchmark": f"extraction {arguments.what}", **machine, **results}, indent=2)
        )


if __name__ == "__main__":
    main()
