"""The extract verb on real files, real Ray processes, and kills."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import webdataset

from pipeline.acquire.ledger import Ledger
from pipeline.datasets.table import write_manifest
from pipeline.demo.mirror import Mirror
from pipeline.media.ffmpeg import ffmpeg_binary
from pipeline.shards.reader import ShardSet
from pipeline.shards.recovery import completed_ids
from pipeline.shards.remote import mount
from pipeline.shards.verify import verify
from pipeline.types import Caption, Video
from tests.conftest import VIDEOS, needs_shared
from tests.processes import descendants, kill, named

pytestmark = pytest.mark.slow


class Place:
    """A folder with a manifest and videos, and the command on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = folder / "manifests" / "tiny.parquet"
        self.videos = folder / "videos"
        self.shards = folder / "shards" / "tiny"
        self.videos.mkdir(parents=True)
        self.manifest.parent.mkdir()

    def path(self, video_id: str, extension: str = "mp4") -> Path:
        target = self.videos / video_id[:2] / f"{video_id}.{extension}"
        target.parent.mkdir(exist_ok=True)
        return target

    def start(self, *more: str, shards: Path | None = None, workers: int = 2) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pipeline.extract", str(self.manifest), "--videos", str(self.videos)]
        command += ["--shards", str(shards or self.shards), "--recipe", "demo", "--workers", str(workers), *more]
        return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    def run(self, *more: str, shards: Path | None = None, workers: int = 2) -> str:
        """Runs the command to its end and returns what it said."""
        process = self.start(*more, shards=shards, workers=workers)
        said = process.communicate(timeout=200)[1]
        assert process.returncode == 0, said
        return said

    def failures(self) -> dict[str, str]:
        rows = Ledger(self.manifest.with_suffix(".ledger")).latest("extract")
        return {video_id: str(row.reason) for video_id, row in rows.items() if row.outcome == "failed"}


def draw(target: Path, number: int, sound: bool = True) -> None:
    """A real video of 2 s whose picture and sound depend on ``number``."""
    inputs = ["-f", "lavfi", "-i", f"testsrc2=s=96x72:r=12:d=2,hue=h={number * 23}"]
    if sound:
        inputs += ["-f", "lavfi", "-i", f"sine=f={200 + 40 * number}:d=2:r=16000"]
    encoding = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac", "-threads", "1"]
    subprocess.run([ffmpeg_binary(), "-v", "error", "-y", *inputs, *encoding, str(target)], check=True)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-eight small videos, one of them broken."""
    folder = tmp_path_factory.mktemp("drawn")
    for number in range(48):
        draw(folder / f"video-{number:02d}.mp4", number, sound=number % 5 != 0)
    (folder / "video-07.mp4").write_bytes(b"no video at all" * 100)
    return folder


@pytest.fixture
def place(tmp_path: Path, drawn: Path) -> Place:
    place = Place(tmp_path)
    videos = []
    for file in sorted(drawn.glob("*.mp4")):
        place.path(file.stem).hardlink_to(file)
        captions = [Caption(0.0, 1.0, f"take the part {file.stem}"), Caption(1.0, 2.0, "turn it round")]
        videos.append(Video(file.stem, captions=captions if file.stem != "video-03" else None))
    write_manifest(place.manifest, videos)
    return place


def contents(shards: Path) -> dict[str, dict[str, bytes]]:
    """The arrays of every sample, and that no tar has a video twice."""
    samples: dict[str, dict[str, bytes]] = {}
    for tar in sorted(shards.glob("*.tar")):
        for sample in webdataset.WebDataset(str(tar), shardshuffle=False).decode():
            assert sample["__key__"] not in samples
            arrays = {key: value for key, value in sample.items() if isinstance(value, np.ndarray)}
            samples[sample["__key__"]] = {key: array.tobytes() for key, array in arrays.items()}
    return samples


def test_killed_at_ten_moments_every_video_is_there_once_with_the_same_features(place: Place, tmp_path: Path) -> None:
    undisturbed = tmp_path / "shards" / "undisturbed"
    place.run(shards=undisturbed)
    expected = contents(undisturbed)
    assert len(expected) == 47

    chance = random.Random(5)
    process = place.start("--extract.shard_bytes", "150000")
    for kill_number in range(10):
        wait_for_more(place, process, chance.randint(1, 4))
        if process.poll() is not None:
            break
        workers = named(descendants(process.pid), "ray::Worker")
        if kill_number % 2 and workers:
            kill(chance.choice(workers))
        else:
            kill(process.pid)
            process.communicate()
            process = place.start("--extract.shard_bytes", "150000")
    process.communicate(timeout=200)
    place.run("--extract.shard_bytes", "150000")
    assert kill_number >= 7, "the run ended before it could be disturbed"

    assert contents(place.shards) == expected
    assert place.failures() == {"video-07": "corrupt"}
    assert not list(place.shards.glob("*.part")) and not list(place.shards.glob("*.journal"))
    indexed = Counter(video_id for video_id in ShardSet(place.shards).ids)
    assert set(indexed) == set(expected) and ShardSet(place.shards).repeated == 0


def wait_for_more(place: Place, process: subprocess.Popen[str], count: int) -> None:
    """Until ``count`` further samples count, or the process ends."""
    before = len(completed_ids(place.shards))
    deadline = time.monotonic() + 120
    while len(completed_ids(place.shards)) < before + count and process.poll() is None:
        assert time.monotonic() < deadline, "nothing was extracted"
        time.sleep(0.05)


def test_the_next_run_extracts_what_came_later_and_other_settings_are_refused(place: Place) -> None:
    late = place.path("video-20")
    hidden = late.rename(late.with_suffix(".hidden"))
    assert f"46 done, 1 failed (corrupt 1), 1 not in {place.videos};" in " ".join(place.run(workers=1).split())
    hidden.rename(late)
    said = " ".join(place.run(workers=1).split())
    assert "1 done, 0 failed, 1 failed before (--retry REASON tries them again), all downloaded" in said
    assert len(contents(place.shards)) == 47
    assert "nothing to do; 47 done, 1 failed before" in " ".join(place.run(workers=1).split())
    process = place.start("--extract.normalize", "true")
    assert "holds shards of other settings" in " ".join(process.communicate(timeout=60)[1].split())
    assert process.returncode == 2

    shards = ShardSet(place.shards)
    silent, mute = shards.read("video-05"), shards.read("video-03")
    assert "audio" not in silent.arrays and {"2d", "3d", "text"} <= set(silent.arrays)
    assert "text" not in mute.arrays and mute.captions == []


def test_sealed_shards_go_to_a_store_and_a_killed_run_is_made_up_for(place: Place, store: str, tmp_path: Path) -> None:
    url = f"{store}/extracted"
    arguments = ("--extract.shard_bytes", "150000", "--upload", url, "--remove-uploaded")
    process = place.start(*arguments)
    wait_for_more(place, process, 12)
    kill(process.pid)
    process.communicate()
    assert f"shards are there and whole → {url}" in " ".join(place.run(*arguments).split())
    assert not list(place.shards.glob("*.tar"))
    mount(url, tmp_path / "mounted")
    assert verify(tmp_path / "mounted").problems == []
    shards = ShardSet(tmp_path / "mounted")
    assert (len(shards), shards.repeated) == (47, 0)
    assert len(shards.stems) > 5
    assert set(shards.ids) == set(ShardSet(place.shards).ids)


@needs_shared
def test_real_files_are_downloaded_and_extracted_or_named_with_a_reason(tmp_path: Path) -> None:
    place = Place(tmp_path)
    files = [file for file in sorted(VIDEOS.rglob("*.*")) if file.suffix in (".mkv", ".mp4", ".mov")]
    assert len(files) == 9
    with Mirror(VIDEOS) as mirror:
        videos = [Video(file.stem, url=f"{mirror.url}/{file.relative_to(VIDEOS)}") for file in files]
        write_manifest(place.manifest, videos)
        command = ["-m", "pipeline.download", str(place.manifest), "--videos", str(place.videos), "--recipe", "demo"]
        subprocess.run([sys.executable, *command], check=True, capture_output=True, timeout=200)
    for file in files:
        assert place.path(file.stem, file.suffix[1:]).read_bytes() == file.read_bytes()
    place.run(workers=1)
    found = contents(place.shards)
    assert set(found) | set(place.failures()) == {video.video_id for video in videos}
    assert set(place.failures().values()) <= {"corrupt"} and set(place.failures()) <= {"corrupted"}
    assert "audio.npy" not in found["av1_video"] and "audio.npy" not in found["h265_10bits"]
    for name in ("flipping_a_pancake", "v_GGSY1Qvo990", "nasa_13013", "two_minutes_1080p"):
        assert {"2d.npy", "3d.npy", "audio.npy"} <= set(found[name])


def test_when_nothing_could_be_extracted_the_command_fails(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.path("broken").write_bytes(b"no video at all" * 100)
    write_manifest(place.manifest, [Video("broken")])
    process = place.start(workers=1)
    said = " ".join(process.communicate(timeout=100)[1].split())
    assert process.returncode == 2
    assert "no video could be extracted: python -m pipeline.status" in said
    assert place.failures() == {"broken": "corrupt"}


def test_a_missing_manifest_is_one_line(tmp_path: Path) -> None:
    said, code = fail(Place(tmp_path))
    assert code == 2 and "tiny.parquet" in said


def test_a_full_disk_is_one_line_and_the_next_run_continues(place: Place, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(small)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    try:
        said, code = fail(place, shards=small / "tiny")
        assert code == 2 and "the disk is full" in said
        assert 0 < len(completed_ids(small / "tiny")) < 47
        subprocess.run(["mount", "-o", "remount,size=100m", str(small)], check=True)
        place.run(shards=small / "tiny", workers=1)
        assert len(contents(small / "tiny")) == 47
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def fail(place: Place, shards: Path | None = None) -> tuple[str, int]:
    """Runs the command that is to fail and returns what it said, on one line, and its exit code."""
    process = place.start(shards=shards, workers=1)
    said = " ".join(process.communicate(timeout=100)[1].split())
    assert "Traceback" not in said and "error: " in said
    return said, process.returncode
