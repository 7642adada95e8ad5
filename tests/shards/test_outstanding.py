"""What there is to extract."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.acquire.layout import video_path
from pipeline.acquire.ledger import Ledger, LedgerRow
from pipeline.datasets.table import Manifest, write_manifest
from pipeline.shards.outstanding import Work, settled_before
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


def test_what_failed_under_one_recipe_is_tried_under_another(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.parquet", [Video("silent"), Video("broken"), Video("slow")])
    manifest, ledger = Manifest(tmp_path / "m.parquet"), Ledger(tmp_path / "m.ledger")
    silent = LedgerRow("silent", "extract", "failed", "unsupported", recipe="sound")
    broken = LedgerRow("broken", "extract", "failed", "corrupt", recipe="pictures")
    ledger.append([silent, broken, LedgerRow("slow", "extract", "failed", "timeout", recipe="sound")])

    def failed(recipe: str, *retry: str) -> set[str]:
        return settled_before(manifest, ledger, tmp_path / "shards", recipe, retry)[1]

    assert (failed("sound"), failed("pictures"), failed("all")) == ({"silent"}, {"broken"}, set())
    assert failed("sound", "unsupported") == set()


def test_a_failure_from_before_recipes_were_noted_counts_under_all(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.parquet", [Video("v")])
    ledger = Ledger(tmp_path / "m.ledger")
    ledger.append([LedgerRow("v", "extract", "failed", "corrupt")])
    (part,) = ledger.folder.iterdir()
    pq.write_table(pq.read_table(part).drop_columns("recipe"), part)
    assert settled_before(Manifest(tmp_path / "m.parquet"), ledger, tmp_path / "shards", "any", ()) == (set(), {"v"})
