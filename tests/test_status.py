import json
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.acquire.ledger import Ledger, LedgerRow
from pipeline.datasets.table import Manifest, write_manifest
from pipeline.errors import InputError
from pipeline.status import main
from pipeline.types import Video

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "m.parquet"
    write_manifest(path, [Video(f"v{n}", category_1="Food" if n < 6 else "Cars") for n in range(10)])
    return Manifest(path)


def record(manifest, video_id, outcome, reason=None, stage="download", hour=0):
    at = BEGIN + timedelta(hours=hour)
    Ledger(manifest.ledger).append([LedgerRow(video_id, stage, outcome, reason, "", 2, 1000, 1.0, "h", at)])


def status(manifest, capsys, *options):
    main([str(manifest.path), *options])
    return capsys.readouterr().out


def test_counts_for_programs(manifest, capsys):
    for number in range(4):
        record(manifest, f"v{number}", "done", hour=number)
    record(manifest, "v4", "failed", "network")
    record(manifest, "v5", "failed", "private")
    record(manifest, "v6", "failed", "private")
    record(manifest, "v6", "done", hour=24)
    record(manifest, "elsewhere", "done")
    record(manifest, "v0", "done", stage="extract")
    record(manifest, "v1", "failed", "corrupt", stage="extract")
    found = json.loads(status(manifest, capsys, "--json"))
    download = found["stages"]["download"]
    assert (download["done"], download["failed"], download["untried"]) == (5, {"network": 1, "private": 1}, 3)
    assert (download["failed_for_good"], download["failed_for_now"], download["bytes"]) == (1, 1, 7000)
    assert found["stages"]["extract"]["failed"] == {"corrupt": 1}
    assert found["rerun"] == {"download": 4, "extract": 3}
    assert found["categories"] == [
        {"category": "Food", "total": 6, "download": 4, "extract": 1},
        {"category": "Cars", "total": 4, "download": 1, "extract": 0},
    ]
    assert sum(videos for _, videos, _ in download["per_hour"]) == 5
    assert download["per_hour"][0][1] == 1 and download["per_hour"][-1][1] == 1


def test_tables_for_people(manifest, capsys):
    record(manifest, "v0", "done")
    record(manifest, "v1", "failed", "members_only")
    said = status(manifest, capsys)
    assert "m: 10 videos" in said and "10.0%" in said and "members_only" in said
    assert "asks for 8 videos (8 for the first time, 0 again) and leaves 1 alone" in said
    assert "extract has 1 to do" in said


def test_extraction_that_failed_for_now_is_tried_again(manifest, capsys):
    for name, reason in (("v0", "timeout"), ("v1", "corrupt")):
        record(manifest, name, "done")
        record(manifest, name, "failed", reason, stage="extract")
    said = status(manifest, capsys)
    assert "a rerun of extract has 1 to do and leaves 1 alone" in said
    assert "tries again" in said and "leaves it; --retry" in said


def test_before_anything_was_done(manifest, capsys):
    assert json.loads(status(manifest, capsys, "--json"))["rerun"] == {"download": 10, "extract": 0}
    assert "asks for 10 videos" in status(manifest, capsys)


def test_no_manifest(tmp_path):
    with pytest.raises(InputError, match="there is no manifest"):
        main([str(tmp_path / "x.parquet")])
