"""What there is to extract."""

from pathlib import Path

import pytest

from pipeline.acquire.layout import video_path
from pipeline.datasets.table import Manifest, write_manifest
from pipeline.shards.outstanding import Work
from pipeline.types import Video


def test_workers_with_another_working_directory_get_paths_that_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_manifest(Path("m.parquet"), [Video("v"), Video("gone")])
    video_path("videos", "v", "mp4").parent.mkdir(parents=True)
    video_path("videos", "v", "mp4").write_bytes(b"video")
    work = Work(Manifest(Path("m.parquet")), Path("videos"), skip=set())
    assert [job.path for job in work.jobs()] == [video_path(tmp_path / "videos", "v", "mp4")]
    assert (work.total, work.missing) == (1, 1)
