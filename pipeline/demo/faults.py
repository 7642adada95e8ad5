"""How the demo's server misbehaves: always the same way, as the net does."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.demo.corpus import Script
from pipeline.demo.mirror import Fault


def demo_faults(scripts: Sequence[Script]) -> dict[str, Fault | Sequence[Fault]]:
    """A fault for some of the training videos, by path on the server.

    Six answer 503 at first, one more than once; three connections are cut in the middle of the file; one file is
    gone, and one is damaged.
    """
    paths = [f"{script.video.video_id}.mp4" for script in scripts if script.video.split == "train"]
    faults: dict[str, Fault | Sequence[Fault]] = {path: Fault("status", times=1) for path in paths[3:36:6]}
    faults[paths[3]] = Fault("status", times=2)
    faults |= {path: Fault("cut", times=1, after=60_000) for path in paths[5:50:20]}
    faults[paths[8]] = Fault("status", status=404)
    faults[paths[19]] = Fault("flip", after=20_000)
    return faults
