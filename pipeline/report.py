"""Writes one HTML page about a run: what was got, what was lost and why, how it trained and how well it retrieves.

    python -m pipeline.report --run runs/demo --manifest manifests/demo.parquet --shards shards/demo

The page refers to nothing outside itself: it can be mailed, and opens without a network.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from pipeline import classify, localize
from pipeline.acquire.layout import find_video
from pipeline.acquire.ledger import Ledger
from pipeline.benchmarks.results import result_tiles, results_section
from pipeline.cli import console, output_file, run_verb, verb_parser
from pipeline.datasets.table import Manifest
from pipeline.errors import InputError
from pipeline.media.decode import FrameFormat, decode
from pipeline.media.errors import MediaError
from pipeline.pages.charts import Point, bar_chart, line_chart
from pipeline.pages.images import data_uri, spectrogram_picture
from pipeline.pages.page import Section, Tile, render_report, table
from pipeline.replacing import replace_file
from pipeline.shards.reader import ShardSet
from pipeline.shards.sample import Sample
from pipeline.wording import counted

_STRIP = 8
"""Frames shown of the sample."""
_STAGES = ("download", "extract")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the verb."""
    parser = verb_parser(__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run, runs/<name>")
    parser.add_argument("--manifest", type=Path, help="the list of videos: adds coverage, failures and throughput")
    parser.add_argument("--shards", type=Path, help="the shards: adds a sample")
    parser.add_argument("--videos", type=Path, default=Path("videos"), help="the videos: adds the sample's frames")
    parser.add_argument("--out", type=output_file, help="the page; default: report.html in the run's folder")
    arguments = parser.parse_args(argv)
    if not arguments.run.is_dir():
        raise InputError(f"there is no run {arguments.run}; train one with: python -m pipeline.train --run ...")
    metrics = _read_result(arguments.run / "metrics.json", "evaluate", {"retrieval", "chance", "clips"})
    settings = _read_settings(arguments.run, metrics)
    log = arguments.run / "metrics.jsonl"
    sections, headline = [], []
    if metrics:
        sections.append(results_section(metrics, trained_here=log.exists()))
        headline += result_tiles(metrics)
    sections += other_results(arguments.run, metrics)
    if arguments.manifest:
        manifest, ledger = Manifest(arguments.manifest), Ledger(arguments.manifest.with_suffix(".ledger"))
        latest = latest_rows(manifest, ledger)
        sections += [coverage_section(len(manifest), latest), throughput_section(latest)]
        headline += _coverage_tiles(len(manifest), latest)
    if arguments.shards:
        sections.append(sample_section(ShardSet(arguments.shards), arguments.videos))
    if log.exists():
        sections.append(training_section(log))
    sections.append(settings_section(settings))
    page = render_report(
        title=f"Run {arguments.run.name}",
        recipe=settings,
        headline=headline,
        sections=sections,
        made_at=datetime.now(),
    )
    target = arguments.out or arguments.run / "report.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_file(target, lambda part: part.write_text(page))
    console.print(f"report: {target} ({len(page) / 1e6:.1f} MB)")


def other_results(run: Path, metrics: dict[str, Any]) -> list[Section]:
    """Retrieval of whole videos, step localisation and classes, as far as the run has them."""
    sections = []
    if "whole_videos" in metrics:
        from pipeline.benchmarks.retrieval_page import whole_videos_section  # imports torch

        sections += whole_videos_section(metrics)
    localization = _read_result(run / "localization.json", "localize", {"tasks", "groups"})
    if localization:
        sections.append(Section("steps", "Step localisation", table(*localize.figures_of(localization))))
    classes = _read_result(run / "classes.json", "classify", {"videos", "classes"})
    if classes:
        note = f"{counted(classes['videos'], 'video')} of {len(classes['classes'])} classes."
        sections.append(Section("classes", "Classes", table(["figure", "value"], classify.figures_of(classes)), note))
    return sections


def latest_rows(manifest: Manifest, ledger: Ledger) -> dict[str, pa.Table]:
    """What became of each of the manifest's videos, by stage; the ledger may have more, of a longer list before."""
    listed, rows = pa.array(manifest.ids(), pa.string()), ledger.rows()
    latest = {stage: ledger.latest_of(rows, stage) for stage in _STAGES}
    return {stage: table.filter(pc.is_in(table["video_id"], value_set=listed)) for stage, table in latest.items()}


def coverage_section(total: int, latest: dict[str, pa.Table]) -> Section:
    """How many of so many videos each stage has, and for which reasons it lacks the others."""
    bars = [("listed", float(total), f"{total:,}")]
    failures: list[tuple[str, str, int, str]] = []
    for stage, rows in latest.items():
        done = _with_outcome(rows, "done").num_rows
        bars.append((f"{stage}ed", float(done), f"{done:,} ({_percent(done / max(total, 1))})"))
        failed = _with_outcome(rows, "failed").group_by("reason", use_threads=False)  # which the first messages need
        for found in failed.aggregate([("message", "first"), ("video_id", "count")]).to_pylist():
            failures.append((stage, str(found["reason"]), found["video_id_count"], _shorten(found["message_first"])))
    body = bar_chart(bars)
    if failures:
        failures.sort(key=lambda failure: -failure[2])
        lines = [[stage, reason, f"{count:,}", example] for stage, reason, count, example in failures]
        body += "<h3>Failures by reason</h3>" + table(["stage", "reason", "videos", "for example"], lines, (0, 1, 3))
    else:
        body += '<p class="note">No failures.</p>'
    return Section("coverage", "Coverage", body)


def throughput_section(latest: dict[str, pa.Table]) -> Section:
    """Videos done over time, and the figures of each stage."""
    lines = []
    curves: dict[str, list[Point]] = {}
    for stage, rows in latest.items():
        done = _with_outcome(rows, "done").select(["at", "seconds", "bytes"]).sort_by("at")
        count = done.num_rows
        if not count:
            continue
        ends = done["at"].cast(pa.int64()).to_numpy() / 1e6
        work = done["seconds"].to_numpy()
        first = float((ends - work).min())  # a row's time is that of its end
        span = max(float(ends[-1]) - first, 1e-3)
        size = pc.sum(done["bytes"]).as_py() or 0
        lines.append(
            [stage, f"{count:,}", f"{size / 1e6:,.1f}", f"{span:,.0f}", f"{count / span:.2f}",
             f"{size / 1e6 / span:.2f}", f"{work.mean():.2f}", f"{pc.sum(rows['attempts']).as_py():,}"]
        )  # fmt: skip
        curves[stage] = list(zip((ends - first).tolist(), range(1, count + 1), strict=True))
    header = ["stage", "videos", "MB of video", "seconds", "videos/s", "MB/s", "s per video", "attempts"]
    chart = line_chart(curves, "seconds since the stage began", "videos done")
    return Section("throughput", "Throughput", table(header, lines) + "<h3>Progress</h3>" + chart)


def sample_section(shards: ShardSet, videos: Path) -> Section:
    """One video as the shards hold it: frames, spectrogram, captions, arrays."""
    richest = max(range(min(len(shards), 200)), key=lambda number: (len(shards.row(number).members), -number))
    sample = shards.read(shards.ids[richest])
    body = _strip(find_video(videos, sample.video_id), sample.duration)
    if "audio" in sample.arrays:
        picture = data_uri(spectrogram_picture(sample.arrays["audio"]))
        body += f'<h3>Log-mel spectrogram</h3><img class="wide" alt="log-mel spectrogram" src="{picture}">'
    if sample.captions:
        body += "<h3>Captions</h3>" + _caption_track(sample)
    rows = [
        [name, " × ".join(map(str, array.shape)), str(array.dtype), f"{array.nbytes / 1024:,.1f}",
         f"{sample.rates[name]:g} / s" if name in sample.rates else "", sample.backbones.get(name, "")]
        for name, array in sample.arrays.items()
    ]  # fmt: skip
    body += "<h3>Arrays</h3>" + table(["member", "shape", "type", "KiB", "rate", "from"], rows, (0, 1, 2, 5))
    about = ", ".join(part for part in (sample.category_1, sample.category_2) if part)
    note = f"{sample.video_id}{f', {about}' if about else ''}: {sample.duration:.1f} s, split {sample.split}."
    return Section("sample", "A sample", body, note)


def training_section(log: Path) -> Section:
    """Loss curves and speed, from ``metrics.jsonl``."""
    from pipeline.training.logging import read_rows  # torch takes seconds to import

    rows = read_rows(log)
    curves: dict[str, list[Point]] = defaultdict(list)
    for row in rows:
        for key, value in row.items():
            if (key == "loss" or key.startswith("loss/")) and value is not None:
                curves[key.removeprefix("loss/")].append((row["step"], value))
    body = line_chart(dict(list(curves.items())[:7]), "step", "loss")
    speeds = [row["clips_per_second"] for row in rows if row.get("clips_per_second")]
    waits = [row["data_wait"] for row in rows if row.get("data_wait") is not None]
    note = ""
    if speeds:
        note = f"{rows[-1]['step']:,} steps; {np.median(speeds):,.0f} clips/s (median)"
        note += f", {_percent(float(np.median(waits)))} of the time waiting for data." if waits else "."
    return Section("training", "Training", body, note)


def settings_section(settings: dict[str, Any]) -> Section:
    """The run's whole recipe."""
    text = escape(yaml.safe_dump(settings, sort_keys=False))
    return Section(
        "settings", "Settings", f"<details><summary>The recipe of this run</summary><pre>{text}</pre></details>"
    )


def _strip(path: Path | None, duration: float) -> str:
    if path is None:
        return '<p class="empty">The video is no longer here, so its frames are not shown.</p>'
    rate = _STRIP / max(duration, 0.1)
    frames: list[np.ndarray] = []
    try:
        for _, chunk in decode(path, {"2d": FrameFormat(rate=rate, size=144, crop=False)}, audio=False, timeout=60):
            frames += list(chunk)
    except MediaError as error:
        return f'<p class="empty">Its frames cannot be shown: {escape(error.message)}</p>'
    images = (f'<img alt="frame" src="{data_uri(frame, "jpeg")}">' for frame in frames[:_STRIP])
    return f'<div class="strip">{"".join(images)}</div>'


def _caption_track(sample: Sample) -> str:
    length = max(sample.duration, 0.1)
    spans = []
    # subtitles may say more than the video has
    within = [caption for caption in sample.captions if caption.start < length and caption.end > 0]
    for index, caption in enumerate(within):
        left, right = 100 * max(caption.start, 0) / length, 100 * min(caption.end, length) / length
        place = f"left:{left:.2f}%;width:{right - left:.2f}%;top:{43 * (index % 2)}px"
        when = f"{caption.start:.1f}–{caption.end:.1f} s: {caption.text}"
        spans.append(f'<span style="{place}" title="{escape(when)}">{escape(caption.text)}</span>')
    axis = "".join(f"<span>{length * part / 4:.0f} s</span>" for part in range(5))
    return f'<div class="track">{"".join(spans)}</div><div class="axis">{axis}</div>'


def _coverage_tiles(total: int, latest: dict[str, pa.Table]) -> list[Tile]:
    done = _with_outcome(latest["extract"], "done").num_rows
    failed = sum(_with_outcome(rows, "failed").num_rows for rows in latest.values())
    return [Tile(f"{done:,} of {total:,}", "videos in shards"), Tile(f"{failed:,}", "failed, each with its reason")]


def _with_outcome(rows: pa.Table, outcome: str) -> pa.Table:
    return rows.filter(pc.equal(rows["outcome"], outcome))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _shorten(message: str, length: int = 90) -> str:
    line = " ".join((message or "").split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def _read_settings(run: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """The run's settings; of a checkpoint that was only evaluated, those of its evaluation."""
    path = run / "config.yaml"
    if not path.exists():
        if "settings" not in metrics:
            raise InputError(f"{path} is not there: {run} is no run, or was never trained or evaluated")
        return dict(metrics["settings"])
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no settings: the same training command writes them again")
    return dict(values.get("recipe", values)) if isinstance(values.get("recipe"), dict) else dict(values)


def _read_result(path: Path, verb: str, keys: set[str]) -> dict[str, Any]:
    """What a verb wrote; nothing where it did not run."""
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text())
    except ValueError:
        values = None
    if not isinstance(values, dict) or not keys <= values.keys():
        raise InputError(f"{path}: not what python -m pipeline.{verb} writes: run it again, or remove the file")
    return values


if __name__ == "__main__":
    run_verb(main)
