"""Extraction the published way: a pass through the video for each output, whole videos in memory, plain networks."""

from __future__ import annotations

import subprocess
from pathlib import Path

import ffmpeg
import numpy as np
import torch
import torchvision
from torch import nn

from pipeline.backbones.base import Normalize, Normalized
from pipeline.backbones.resnet152 import IMAGENET_MEAN, IMAGENET_STD
from pipeline.backbones.resnext101_3d import KINETICS_MEAN, ResNeXt3D
from pipeline.media.decode import FrameFormat
from pipeline.media.ffmpeg import ffmpeg_binary
from pipeline.media.probe import probe


def run_ffmpeg(*arguments: str) -> bytes:
    command = [ffmpeg_binary(), "-nostdin", "-v", "error", *arguments]
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout


def published_frames(path: Path, rate: int, size: int, crop: bool) -> np.ndarray:
    """Frames as HowTo100M's extractor reads them: a pass of their own, whole in memory, as float32."""
    stream = probe(path).video
    assert stream is not None
    width, height = FrameFormat(rate, size).scaled_size(stream.width, stream.height)
    graph = ffmpeg.input(str(path), threads=1).filter("fps", fps=rate).filter("scale", width, height)
    if crop:
        graph = graph.crop((width - size) // 2, (height - size) // 2, size, size)
        width = height = size
    output = graph.output("pipe:", format="rawvideo", pix_fmt="rgb24").global_args("-nostdin")
    raw, _ = output.run(cmd=ffmpeg_binary(), capture_stdout=True, quiet=True)
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3).astype(np.float32)


def published_decode(path: Path) -> None:
    published_frames(path, 1, 224, crop=False)
    published_frames(path, 24, 112, crop=True)
    run_ffmpeg("-i", str(path), "-vn", "-ac", "1", "-ar", "16000", "-f", "wav", "pipe:")


def one_pass_published_filters(path: Path) -> None:
    stream = probe(path).video
    assert stream is not None
    large = "{}:{}".format(*FrameFormat(1, 224).scaled_size(stream.width, stream.height))
    small = "{}:{}".format(*FrameFormat(24, 112).scaled_size(stream.width, stream.height))
    graph = f"[0:v]split=2[a][b];[a]fps=1,scale={large}[x];[b]fps=24,scale={small},crop=112:112[y]"
    outputs = [["-map", place, "-pix_fmt", "rgb24", "-f", "null", "-"] for place in ("[x]", "[y]")]
    sound = ["-map", "0:a", "-ac", "1", "-ar", "16000", "-f", "null", "-"]
    run_ffmpeg("-threads", "1", "-i", str(path), "-filter_complex", graph, *outputs[0], *outputs[1], *sound)


def published_networks() -> dict[str, nn.Module]:
    """The networks as they were published: batch norms apart, memory laid out as PyTorch does by itself."""
    frames, clips = torchvision.models.resnet152(weights=None), ResNeXt3D()
    frames.fc = nn.Identity()
    return {
        "2d": Normalized(frames, Normalize(IMAGENET_MEAN, IMAGENET_STD)).eval(),
        "3d": Normalized(clips, Normalize(KINETICS_MEAN, (1 / 255, 1 / 255, 1 / 255))).eval(),
    }


def published_whole(path: Path, networks: dict[str, nn.Module], device: torch.device | str = "cpu") -> None:
    """A pass for each kind, float32 frames of the whole video, batches of 64, and a pass for the sound."""
    run_ffmpeg("-i", str(path), "-vn", "-ac", "1", "-ar", "16000", "-f", "wav", "pipe:")
    for key, frames in (("2d", published_frames(path, 1, 224, False)), ("3d", published_frames(path, 24, 112, True))):
        if key == "3d":
            missing = -len(frames) % 16
            frames = np.concatenate((frames, np.zeros((missing, *frames.shape[1:]), np.float32)))
            frames = frames.reshape(-1, 16, 112, 112, 3)
        with torch.no_grad():
            for start in range(0, len(frames), 64):
                networks[key](torch.from_numpy(frames[start : start + 64]).to(device)).cpu().numpy()
