"""The report page: what it says, and that a browser shows it without asking for anything."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline import report
from pipeline.acquire.ledger import Ledger, LedgerRow
from pipeline.benchmarks.whole_videos import WAYS
from pipeline.config import load_recipe
from pipeline.datasets.table import write_manifest
from pipeline.errors import InputError
from pipeline.shards.reader import ShardSet
from pipeline.shards.sample import Sample
from pipeline.shards.writer import ShardWriter
from pipeline.types import Caption, Video


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A run with its manifest, ledger and shards."""
    manifest = tmp_path / "manifests" / "tiny.parquet"
    names = [f"video-{number}" for number in range(6)]
    write_manifest(manifest, [Video(name, captions=[]) for name in names])
    at = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        LedgerRow(name, stage, "done", None, "", 1, 1_000_000, 2.0, "here", at + timedelta(seconds=number))
        for stage in ("download", "extract")
        for number, name in enumerate(names[:4])
    ]
    rows.append(LedgerRow(names[4], "download", "failed", "not_found", "HTTP Error 404: <gone>", 1, 0, 0.1, "here", at))
    rows.append(LedgerRow(names[5], "extract", "failed", "corrupt", "moov atom not found", 1, 0, 0.1, "here", at))
    Ledger(manifest.with_suffix(".ledger")).append(rows)
    noise = np.random.RandomState(0)
    with ShardWriter(tmp_path / "shards", "tiny", "w000") as writer:
        writer.add(
            Sample(
                names[0], 20.0, [Caption(1.0, 4.0, "cut the <b>bread</b>"), Caption(3.0, 9.0, "toast it")],
                {"2d": noise.standard_normal((20, 4)), "audio": noise.uniform(-80, 0, (2000, 40))},
                {"2d": 1.0, "audio": 100.0}, backbones={"2d": "seeded"}, category_1="Food",
            )
        )  # fmt: skip
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(load_recipe("demo").to_dict()))
    steps = [
        {"step": step, "loss": 5 - step / 10, "loss/tv": 3.0, "clips_per_second": 90.0, "data_wait": 0.1}
        for step in range(20)
    ]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, steps)))
    figures = {"R1": 30.0, "R5": 60.0, "R10": 80.0, "MedR": 4.0}
    retrieval = {"t2v": figures, "t2va": {**figures, "R1": 42.0}}
    chance = {"R1": 1.0, "R5": 5.0, "R10": 10.0}
    (run / "metrics.json").write_text(json.dumps({"retrieval": retrieval, "clips": 100, "chance": chance}))
    return tmp_path


def page(project: Path) -> Path:
    report.main(
        ["--run", f"{project}/run", "--manifest", f"{project}/manifests/tiny.parquet", "--shards", f"{project}/shards",
         "--videos", f"{project}/videos"]
    )  # fmt: skip
    return project / "run" / "report.html"


def test_the_page_says_what_was_got_and_lost_and_how_good_it_is(project: Path) -> None:
    html = page(project).read_text()
    for expected in (
        "42.0 %",
        "42 ×",
        "not_found",
        "HTTP Error 404: &lt;gone&gt;",
        "corrupt",
        "4 of 6",
        "100 clips of split test, held out",
    ):
        assert expected in html
    assert "Seeded stand-ins" in html
    assert "cut the &lt;b&gt;bread&lt;/b&gt;" in html
    assert "text → video + sound" in html


def test_videos_that_the_manifest_does_not_list_any_more_do_not_count(project: Path) -> None:
    manifest = project / "manifests" / "tiny.parquet"
    write_manifest(manifest, [Video(f"video-{number}") for number in (0, 1, 4)])
    html = page(project).read_text()
    assert "2 of 3" in html and "2 (66.7 %)" in html and "not_found" in html
    assert "corrupt" not in html


def test_captions_stay_within_their_video(tmp_path: Path) -> None:
    captions = [Caption(-2.0, 5.0, "early"), Caption(8.0, 30.0, "late"), Caption(400.0, 402.0, "behind")]
    with ShardWriter(tmp_path, "tiny", "w000") as writer:
        writer.add(Sample("video", 10.0, captions, {}, {}))
    html = report.sample_section(ShardSet(tmp_path), tmp_path).body
    assert re.findall(r"left:([\d.-]+)%;width:([\d.]+)%", html) == [("0.00", "50.00"), ("80.00", "20.00")]


def test_a_model_that_sums_embeddings_is_judged_by_their_sum(project: Path) -> None:
    path = project / "run" / "metrics.json"
    metrics = json.loads(path.read_text())
    figures = metrics["retrieval"]["t2va"]
    path.write_text(json.dumps({**metrics, "retrieval": {"t2v": figures, "t2v+a": {**figures, "R1": 43.0}}}))
    html = page(project).read_text()
    assert "43 ×" in html and "text → video + sound (summed), R@1" in html


def test_figures_of_weights_from_elsewhere_claim_less(project: Path) -> None:
    path = project / "run" / "metrics.json"
    metrics = json.loads(path.read_text())
    path.write_text(json.dumps({**metrics, "total": 130}))
    (project / "run" / "metrics.jsonl").unlink()
    html = page(project).read_text()
    assert "Recall at 1 on 100 clips of split test; 30 more are missing and count as misses." in html
    assert "held out" not in html and "<h2>Training</h2>" not in html


def test_the_page_refers_to_nothing_outside_itself(project: Path) -> None:
    html = page(project).read_text()
    addresses = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')>]{0,20})", html)
    assert addresses and all(address.startswith("data:image/") for address in addresses)
    assert "<script" not in html and "@import" not in html and "<link" not in html


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no run"):
        report.main(["--run", str(tmp_path / "none")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"config\.yaml is not there"):
        report.main(["--run", str(tmp_path / "empty")])


def test_other_results_of_the_run_are_there(project: Path) -> None:
    run = project / "run"
    recalls = {"R1": 11.5, "R5": 22.5, "R10": 33.5}
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["whole_videos"] = {"direction": "t2va", "videos": 30, **dict.fromkeys(WAYS, recalls)}
    (run / "metrics.json").write_text(json.dumps(metrics))
    figures = {"recall": 41.25, "recall_of_videos": 42.0, "recall_by_second": 43.0, "mAP": 44.0}
    steps = {"tasks": {"7": {"title": "Toast & cut", "videos": 3, **figures}}, "groups": {"all": figures}}
    (run / "localization.json").write_text(json.dumps(steps))
    classes = {"videos": 9, "classes": ["a", "b"], "top1": 61.5, "chance": 50.0, "top5": 100.0, "nmi": 1.0}
    (run / "classes.json").write_text(json.dumps({**classes, "accuracy": 70.0, "entropy": 0.25, "purity": 80.0}))
    html = page(project).read_text()
    for expected in ("Whole videos", "33.5", "Toast &amp; cut", "41.2", "mean: all"):
        assert expected in html
    for expected in ("9 videos of 2 classes", "61.5", "0.25"):
        assert expected in html


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("localization.json", "[]", r"localization\.json: not what python -m pipeline\.localize writes"),
        ("classes.json", "", r"classes\.json: not what python -m pipeline\.classify writes"),
        ("metrics.json", '{"retr', r"metrics\.json: not what python -m pipeline\.evaluate writes"),
        ("metrics.json", '{"steps": {}}', r"metrics\.json: not what python -m pipeline\.evaluate writes"),
        ("config.yaml", "a: [", r"config\.yaml: not valid YAML"),
    ],
)
def test_damaged_files_are_named(project: Path, name: str, content: str, said: str) -> None:
    (project / "run" / name).write_text(content)
    with pytest.raises(InputError, match=said):
        page(project)


def test_a_checkpoint_that_was_only_evaluated_has_a_page(project: Path) -> None:
    run = project / "run"
    settings = yaml.safe_load((run / "config.yaml").read_text())
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps({**metrics, "settings": settings}))
    for name in ("config.yaml", "metrics.jsonl"):
        (run / name).unlink()
    report.main(["--run", str(run), "--out", str(project / "pages" / "released.html")])
    assert "42.0 %" in (project / "pages" / "released.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_page(project: Path, scheme: str) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs the system's Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        view = browser.new_page(color_scheme=scheme, viewport={"width": 1000, "height": 900})
        asked: list[str] = []
        view.on("request", lambda request: asked.append(request.url))
        view.goto(page(project).as_uri())
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        assert view.locator("section").count() == 6
        assert view.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        bar = view.locator(".bars i").first.bounding_box()
        assert bar is not None and bar["width"] > 100 and bar["height"] > 10
        # nothing sticks out to the side, on a telephone either
        for width in (1000, 400):
            view.set_viewport_size({"width": width, "height": 800})
            assert view.evaluate("document.documentElement.scrollWidth") <= width
        background = view.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, background.removeprefix("rgb(").removesuffix(")").split(",")))
        assert (brightness > 600) == (scheme == "light")
        browser.close()
