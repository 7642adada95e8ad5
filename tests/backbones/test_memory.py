"""Memory stays bounded, however long a video is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.media.clips import H264, make, pictures, tone

PROGRAM = """
import json, sys
from pathlib import Path
import torch
from pipeline.backbones.extractor import FeatureExtractor
from pipeline.config import ExtractSettings

def megabytes(field):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024

torch.set_num_threads(1)
extractor = FeatureExtractor(ExtractSettings(video_2d="seeded_2d", video_3d="seeded_3d"))
extractor.extract(sys.argv[1])
before = megabytes("VmRSS")
features = extractor.extract(sys.argv[2])
print(json.dumps({"growth": megabytes("VmHWM") - before, "rows": {k: len(v) for k, v in features.arrays.items()}}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_half_an_hour_takes_little_more_than_half_a_minute(tmp_path: Path) -> None:
    short = make(tmp_path / "short.mkv", *pictures(30, "64x48", 2), *tone(30), *H264, "-g", "2", "-c:a", "flac")
    long = make(tmp_path / "long.mkv", "-stream_loop", "59", "-i", str(short), "-c", "copy")
    command = [sys.executable, "-c", PROGRAM, str(short), str(long)]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert result["rows"]["2d"] == pytest.approx(1800, abs=5)
    assert result["rows"]["3d"] == pytest.approx(2700, abs=5)
    assert result["rows"]["audio"] == pytest.approx(180_000, abs=500)
    # whole it would be 290 MB of frames and 58 MB of samples; what may wait at once is about 100 MB
    assert result["growth"] < 220
