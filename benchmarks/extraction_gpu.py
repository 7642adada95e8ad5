"""Extraction on a GPU: video-hours per hour, beside what the decoder alone and the networks alone would give.

    python benchmarks/extraction_gpu.py --json benchmarks/results/extraction_gpu.json

One call measures everything: bare decoding on all cores, the bare networks, the whole way with several videos at once,
the published way (two passes, float32 frames, one video at a time), the GPU's utilisation, and whether a video's
features are the same bits alone and beside others. And, for the choice of who scales, the ways to get frames and sound:
scaled by the CPU as now, planes as they are through pipes for a GPU to scale, and decoded by the GPU itself (bare, and
scaled there and brought back). Networks have random weights. ``--device cpu`` tries the script out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from extraction import FORMATS, SIZES, SOURCE, consume, put_random_weights, video
from published_extraction import published_networks, published_whole, run_ffmpeg
from rich.console import Console
from rich.table import Table
from torch import nn

from pipeline.backbones.extractor import GPU_BATCH, FeatureExtractor
from pipeline.config import ExtractSettings
from pipeline.media.ffmpeg import ffmpeg_binary
from pipeline.media.graph import middle

SOUND = ["-map", "0:a", "-ar", "16000", "-ac", "1", "-f", "s16le"]
ON_GPU = ["-hwaccel", "cuda", "-hwaccel_output_format", "cuda"]
console = Console()


def elapsed(work: Callable[[], object]) -> float:
    """Seconds of the wall clock."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


def in_parallel(work: Callable[[Path], object], paths: list[Path], threads: int) -> list[Any]:
    """Results of ``work`` on each path."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, paths))


@contextmanager
def gpu_utilisation() -> Iterator[list[float]]:
    """Collects the GPU's utilisation in percent, twice a second, while the block runs."""
    samples: list[float] = []
    done = threading.Event()

    def sample() -> None:
        query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not done.wait(0.5):
            samples.append(float(subprocess.run(query, capture_output=True, check=True, text=True).stdout.split()[0]))

    thread = threading.Thread(target=sample)
    if shutil.which("nvidia-smi"):
        thread.start()
    try:
        yield samples
    finally:
        done.set()
        if thread.ident is not None:
            thread.join()


def network_seconds(extractor: FeatureExtractor, width: int, rounds: int) -> float:
    """Seconds that the networks alone take for one second of video."""
    total = 0.0
    device = extractor.device
    batch_size = GPU_BATCH if device.type == "cuda" else 1
    for backbone in extractor.backbones.values():
        network = backbone.load(device)
        size = backbone.frame_format.size
        clip = () if backbone.clip_length is None else (backbone.clip_length,)
        shape = (batch_size, *clip, size, size if backbone.frame_format.crop else width, 3)
        batch = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
        if device.type == "cuda":
            network = network.to(memory_format=torch.channels_last_3d if clip else torch.channels_last)
        seconds = elapsed_on(device, network, batch, rounds)
        total += seconds / batch_size * backbone.features_per_second
    return total


def elapsed_on(device: torch.device, network: nn.Module, batch: torch.Tensor, rounds: int) -> float:
    """Seconds of one batch, once it is warm."""

    def run(count: int) -> None:
        enabled = device.type == "cuda"
        with torch.inference_mode(), torch.autocast(device.type, torch.float16, enabled=enabled):
            for _ in range(count):
                network(batch)
        if enabled:
            torch.cuda.synchronize()

    run(3 if device.type == "cuda" else 1)
    return elapsed(lambda: run(rounds)) / rounds


def same_alone_and_beside_others(extractor: FeatureExtractor, paths: list[Path], threads: int) -> bool:
    """Whether the first video's features are equal in every bit."""
    alone = extractor.extract(paths[0])
    beside = in_parallel(extractor.extract, paths[: 2 * threads], threads)[0]
    return all(alone.arrays[key].tobytes() == beside.arrays[key].tobytes() for key in alone.arrays)


def read_pipes(before: list[str], path: Path, graph: str) -> None:
    """Reads two outputs of frames, ``[x]`` and ``[y]``, and the sound, as fast as they come, and drops them."""
    ends = [os.pipe() for _ in range(3)]
    frames = [["-map", name, "-pix_fmt", "yuv420p", "-f", "rawvideo"] for name in ("[x]", "[y]")]
    outputs = [[*options, f"pipe:{write}"] for options, (_, write) in zip([*frames, SOUND], ends, strict=True)]
    command = [ffmpeg_binary(), "-nostdin", "-v", "error", *before, "-i", str(path), "-filter_complex", graph]

    def drop(descriptor: int) -> None:
        buffer = bytearray(1 << 20)
        while os.readv(descriptor, [buffer]):
            pass
        os.close(descriptor)

    with subprocess.Popen(
        [*command, *(part for output in outputs for part in output)], pass_fds=[write for _, write in ends]
    ) as process:
        for _, write in ends:
            os.close(write)
        readers = [threading.Thread(target=drop, args=(read,)) for read, _ in ends]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def ways_to_decode(name: str, device: torch.device) -> dict[str, Callable[[Path], object]]:
    """What each does with one file; those on a GPU only where there is one."""
    width, height = (int(side) for side in SIZES[name].split(":"))
    square = ":".join(middle(width, height, FORMATS["3d"].size))
    small, large = (f"w={width * size // height // 2 * 2}:h={size}" for size in (112, 224))
    planes = f"[0:v]split=2[a][b];[a]fps=1[x];[b]fps=24,crop={square}[y]".replace("min(iw,", r"min(iw\,")
    back = "format=yuv420p,hwdownload,format=yuv420p"
    scaled = f"[0:v]split=2[a][b];[a]fps=1,scale_cuda={large}:{back}[x];[b]fps=24,scale_cuda={small}:{back}[y]"
    ways: dict[str, Callable[[Path], object]] = {
        "bare decode, all cores": lambda path: run_ffmpeg(
            "-threads", "1", "-i", str(path), "-map", "0:v", "-f", "null", "-"
        ),
        "frames and sound, scaled by the CPU (ours)": consume,
        "frames as they are through pipes, and sound": lambda path: read_pipes(["-threads", "1"], path, planes),
    }
    if device.type == "cuda":
        ways["bare decode by the GPU"] = lambda path: run_ffmpeg(
            *ON_GPU, "-i", str(path), "-map", "0:v", "-f", "null", "-"
        )
        ways["frames and sound, decoded and scaled by the GPU"] = lambda path: read_pipes(ON_GPU, path, scaled)
    return ways


def decode_rates(
    name: str, paths: list[Path], seconds: float, arguments: argparse.Namespace
) -> dict[str, float | None]:
    """Video-hours per hour of each way; None: this FFmpeg, or this machine, cannot do it."""
    rates: dict[str, float | None] = {}
    for way, work in ways_to_decode(name, torch.device(arguments.device)).items():
        try:
            work(paths[0])
            rates[way] = seconds / elapsed(lambda work=work: in_parallel(work, paths, arguments.threads))
        except subprocess.CalledProcessError as error:
            console.print(f"skipped for {name}: {way} (FFmpeg ended with {error.returncode}: see above)")
            rates[way] = None
    return rates


def measure_size(name: str, arguments: argparse.Namespace, extractor: FeatureExtractor) -> dict[str, Any]:
    """All numbers for one size of video, in video-hours per hour."""
    original = video(arguments.folder, name, arguments.source, arguments.seconds)
    paths = [original.with_name(f"{original.stem}-{copy}.mp4") for copy in range(arguments.videos)]
    for path in paths:
        path.unlink(missing_ok=True)
        os.link(original, path)
    seconds = arguments.seconds * len(paths)
    decode = decode_rates(name, paths, seconds, arguments)
    width, height = (int(side) for side in SIZES[name].split(":"))
    networks = 1 / network_seconds(extractor, width * 224 // height, arguments.rounds)
    extractor.extract(paths[0])  # warm
    with gpu_utilisation() as utilisation:
        whole = elapsed(lambda: in_parallel(extractor.extract, paths, arguments.threads))
    networks_apart = {key: network.to(extractor.device) for key, network in published_networks().items()}
    few = paths[: max(1, len(paths) // 4)]
    published = elapsed(lambda: [published_whole(path, networks_apart, extractor.device) for path in few])
    bare_decode = decode["bare decode, all cores"]
    assert bare_decode is not None
    rates = {
        **decode,
        "bare networks": networks,
        "published way": arguments.seconds * len(few) / published,
        "ours": seconds / whole,
    }
    return {
        "video_hours_per_hour": rates,
        "share_of_the_bound": seconds / whole / min(bare_decode, networks),
        "gpu_utilisation": sum(utilisation) / len(utilisation) if utilisation else None,
        "same_alone_and_beside_others": same_alone_and_beside_others(extractor, paths, arguments.threads),
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def report(results: dict[str, dict[str, Any]]) -> None:
    table = Table(title="Video-hours per hour")
    table.add_column("")
    for name in results:
        table.add_column(name, justify="right")
    for way in next(iter(results.values()))["video_hours_per_hour"]:
        rates = (row["video_hours_per_hour"][way] for row in results.values())
        table.add_row(way, *("skipped" if rate is None else f"{rate:.1f}" for rate in rates))
    table.add_row(
        "ours, of the lower of bare decode and bare networks",
        *(f"{row['share_of_the_bound']:.0%}" for row in results.values()),
    )
    shown = (
        "not measured" if row["gpu_utilisation"] is None else f"{row['gpu_utilisation']:.0f} %"
        for row in results.values()
    )
    table.add_row("GPU utilisation", *shown)
    same = ("yes" if row["same_alone_and_beside_others"] else "NO" for row in results.values())
    table.add_row("same bits alone and beside others", *same)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--source", type=Path, default=SOURCE, help="the real video that all inputs are made from")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--seconds", type=int, default=60, help="length of each video")
    parser.add_argument("--videos", type=int, default=4 * cores())
    parser.add_argument("--threads", type=int, default=cores(), help="videos at once")
    parser.add_argument("--rounds", type=int, default=10, help="batches of the bare networks")
    parser.add_argument("--json", type=Path, help="where the numbers are written")
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda"):
        if not torch.cuda.is_available():
            parser.error("there is no CUDA device here; --device cpu tries the script out")
        if not shutil.which("nvidia-smi"):
            console.print("skipped: the GPU's utilisation, since there is no nvidia-smi")
    else:
        console.print("skipped, without a GPU: decoding by the GPU, its utilisation, mixed precision")
    with tempfile.TemporaryDirectory() as temporary:
        arguments.folder = Path(temporary)
        os.environ["TORCH_HOME"] = temporary
        put_random_weights()
        extractor = FeatureExtractor(ExtractSettings(), arguments.device)
        results = {name: measure_size(name, arguments, extractor) for name in arguments.sizes}
    report(results)
    device = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else "CPU"
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        content = {"benchmark": "extraction on a GPU", "device": device, "cores": cores(), "torch": torch.__version__}
        arguments.json.write_text(json.dumps({**content, "sizes": results}, indent=2))


if __name__ == "__main__":
    main()
