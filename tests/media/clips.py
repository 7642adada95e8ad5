"""Small media files, made with FFmpeg for tests."""

import subprocess
from pathlib import Path

from pipeline.media.ffmpeg import ffmpeg_binary


def make(path: Path, *arguments: str) -> Path:
    """Runs FFmpeg with ``arguments`` and the output ``path``; returns it."""
    command = [ffmpeg_binary(), "-nostdin", "-v", "error", "-y", *arguments, str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


def pictures(seconds: float = 2, size: str = "160x120", rate: float = 25, source: str = "testsrc2") -> list[str]:
    """Arguments for an input of moving pictures."""
    return ["-f", "lavfi", "-i", f"{source}=duration={seconds}:size={size}:rate={rate}"]


def tone(seconds: float = 2, rate: int = 16_000, hertz: int = 440) -> list[str]:
    """Arguments for an input of sound."""
    return ["-f", "lavfi", "-i", f"sine=duration={seconds}:sample_rate={rate}:frequency={hertz}"]


H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]
AAC = ["-c:a", "aac"]
VP8 = ["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8"]
LOSSLESS = ["-c:v", "ffv1"]
