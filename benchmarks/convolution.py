"""DAVEnet's convolutions through a transform against convolutions as defined, layer by layer.

    OMP_NUM_THREADS=1 python benchmarks/convolution.py --width 32 --clips 128
    OMP_NUM_THREADS=1 python benchmarks/convolution.py --width 32 --clips 128 --precision bfloat16
    python benchmarks/convolution.py --device cuda --clips 2240

Forward and backward, from and to the order in memory that each way has. The last column tells which one the network
takes; on a GPU, if ``train.tune`` finds the transform to be faster.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import now
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pipeline.models import davenet
from pipeline.models.davenet import MEL_BANDS, Davenet, TimeConvolution
from pipeline.training.memory import keep_freed_memory


def layers(width: int, frames: int) -> Iterator[tuple[TimeConvolution, int]]:
    """Every kind of convolution over several samples, and how many samples its signals have."""
    network = Davenet("large", width)
    network.take_transforms_on("cpu", "cuda")
    found: dict[tuple[torch.Size, int], tuple[TimeConvolution, int]] = {}

    def note(module: TimeConvolution, inputs: tuple[Tensor], _: Tensor) -> None:
        if module.weight.shape[3] > 1:
            found.setdefault((module.weight.shape, module.stride), (module, inputs[0].shape[2]))

    for module in network.modules():
        if isinstance(module, TimeConvolution):
            module.register_forward_hook(note)
    with torch.no_grad():
        network.eval()(torch.zeros(1, MEL_BANDS, frames))
    yield from found.values()


def time_pass(run: Callable[[Tensor], Tensor], weight: Tensor, signal: Tensor, device: str, repeats: int) -> float:
    """Median seconds of forward and backward; the first of them are not counted."""
    signal = signal.detach().requires_grad_()
    gradient = torch.randn_like(run(signal))
    seconds = []
    for _ in range(repeats + 2):
        weight.grad = signal.grad = None
        start = now(device)
        run(signal).backward(gradient)
        seconds.append(now(device) - start)
    return statistics.median(seconds[2:])


def measure(
    layer: TimeConvolution, samples: int, clips: int, device: str, halves: bool, repeats: int
) -> dict[str, object]:
    """A layer both ways."""
    out_channels, in_channels, _, taps = layer.weight.shape
    layer = layer.to(device)
    dtype = torch.bfloat16 if halves else torch.float32
    time_first = torch.randn(samples, clips, in_channels, device=device, dtype=dtype).permute(1, 2, 0)

    def as_defined(x: Tensor) -> Tensor:
        kernel = layer.weight.view(out_channels, in_channels, taps)
        if device == "cuda":
            kind = {"stride": (1, layer.stride), "padding": (0, taps // 2)}
            return F.conv2d(x.unsqueeze(2), kernel.unsqueeze(2), **kind).squeeze(2)
        return F.conv1d(x, kernel, stride=layer.stride, padding=taps // 2)

    with torch.autocast(device, dtype=torch.bfloat16, enabled=halves):
        chosen = layer.plan(time_first, samples)
        batch_first = time_first.contiguous()
        if device == "cuda":
            batch_first = batch_first.unsqueeze(2).contiguous(memory_format=torch.channels_last).squeeze(2)
        defined = time_pass(as_defined, layer.weight, batch_first, device, repeats)
        costs = davenet.ON_GPU if device == "cuda" else davenet.ON_CPU
        original, davenet._costs = davenet._costs, lambda _: costs._replace(narrowest=1, fewest=1, worth=1e-9)
        transformed = time_pass(layer, layer.weight, time_first, device, repeats)
        davenet._costs = original
    operations = 6 * clips * math.ceil(samples / layer.stride) * out_channels * in_channels * taps
    return {
        "layer": f"{in_channels} → {out_channels}, stride {layer.stride}, {samples} samples",
        "as_defined": defined,
        "transformed": transformed,
        "speed_up": defined / transformed,
        "operations_per_second": operations / transformed,
        "taken": chosen is not None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128, help="channels of the first stage; 128 in all publications")
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--frames", type=int, default=768, help="of the spectrogram")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="default: bfloat16 on a GPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where the numbers go")
    arguments = parser.parse_args()

    device = arguments.device
    halves = (arguments.precision or ("bfloat16" if device == "cuda" else "float32")) == "bfloat16"
    if device == "cpu":
        keep_freed_memory()
    torch.manual_seed(0)
    rows = [
        measure(layer, samples, arguments.clips, device, halves, arguments.repeats)
        for layer, samples in layers(arguments.width, arguments.frames)
    ]
    columns = ("as defined", "transformed", "speed-up", "as if TFLOP/s", "taken")
    table = Table(
        "channels", *columns, title=f"{arguments.clips} clips, {device}, {'bfloat16' if halves else 'float32'}"
    )
    for row in rows:
        table.add_row(
            str(row["layer"]), f"{row['as_defined'] * 1e3:.2f} ms", f"{row['transformed'] * 1e3:.2f} ms",
            f"{row['speed_up']:.2f}x", f"{row['operations_per_second'] / 1e12:.2f}", "yes" if row["taken"] else "no",
        )  # fmt: skip
    Console(width=120).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
