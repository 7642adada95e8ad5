"""Says how far a manifest has come: what is done, what failed and why, how fast it went, what a rerun would do.

python -m pipeline.status manifests/howto100m.parquet
python -m pipeline.status manifests/howto100m.parquet --json | jq .rerun
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.acquire.coverage import Coverage, StageCoverage, coverage
from pipeline.acquire.ledger import Ledger
from pipeline.acquire.reasons import REASONS
from pipeline.cli import run_verb, verb_parser
from pipeline.datasets.table import Manifest
from pipeline.wording import counted

BARS = " ▁▂▃▄▅▆▇█"
VIDEOS_OF_A_CURVE = 100
"""Fewer say little about how the pace changed."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the verb."""
    parser = verb_parser(__doc__)
    parser.add_argument("manifest", type=Path, help="the list of videos")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--categories", type=int, default=12, help="so many of the largest categories; default: 12")
    arguments = parser.parse_args(argv)
    manifest = Manifest(arguments.manifest)
    found = coverage(manifest, Ledger(manifest.ledger))
    if arguments.json:
        print(json.dumps(found.to_dict()))
        return
    out = Console(highlight=False, markup=False, emoji=False)
    out.print(_stages(found))
    if any(stage.failed for stage in found.stages.values()):
        out.print(_failures(found))
    if arguments.categories and len(found.categories) > 1:
        out.print(_categories(found, arguments.categories))
    for stage in found.stages.values():
        if stage.done:
            out.print(_throughput(stage), soft_wrap=True)
    out.print(_rerun(found), soft_wrap=True)


def _stages(found: Coverage) -> Table:
    table = Table(title=f"{found.name}: {counted(found.total, 'video')}")
    for name in ("stage", "done", "", "failed", "not tried", "GB", "attempts"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage in found.stages.values():
        table.add_row(
            stage.stage,
            f"{stage.done:,}",
            f"{stage.done / max(stage.total, 1):.1%}",
            f"{sum(stage.failed.values()):,}",
            f"{stage.untried:,}",
            f"{stage.bytes / 1e9:,.2f}",
            f"{stage.attempts:,}",
        )
    return table


def _failures(found: Coverage) -> Table:
    table = Table(title="failures")
    table.add_column("stage")
    table.add_column("reason")
    table.add_column("videos", justify="right")
    table.add_column("meaning")
    table.add_column("a rerun")
    for stage in found.stages.values():
        for reason, count in stage.failed.items():
            temporary, meaning = REASONS[reason]
            row = (f"{count:,}", meaning, "tries again" if temporary else f"leaves it; --retry {reason}")
            table.add_row(stage.stage, reason, *row)
    return table


def _categories(found: Coverage, most: int) -> Table:
    table = Table(title="categories")
    table.add_column("category")
    for name in ("videos", *found.stages):
        table.add_column(name, justify="right")
    shown, rest = found.categories[:most], found.categories[most:]
    if rest:
        sums = {name: sum(row[name] for row in rest) for name in ("total", *found.stages)}
        shown = [*shown, {"category": f"({len(rest)} more)", **sums}]
    for row in shown:
        share = (f"{row[stage]:,} ({row[stage] / row['total']:.0%})" for stage in found.stages)
        table.add_row(row["category"], f"{row['total']:,}", *share)
    return table


def _throughput(stage: StageCoverage) -> str:
    """The mean, and where there are enough videos to make one, the curve over time."""
    begin, end = (datetime.fromtimestamp(at or 0).strftime("%d %b %H:%M:%S") for at in (stage.first, stage.last))
    hours = max((stage.last or 0) - (stage.first or 0), 1.0) / 3600
    mean = f"{stage.done / hours:,.0f} videos/h, {stage.bytes / 1e6 / hours / 3600:.2f} MB/s"
    if stage.done < VIDEOS_OF_A_CURVE:
        return f"{stage.stage}: {begin} to {end}; {mean} on average"
    peak = max(videos for _, videos, _ in stage.per_hour) or 1
    curve = "".join(BARS[-(-videos * (len(BARS) - 1) // peak)] for _, videos, _ in stage.per_hour)
    return f"{stage.stage}: {begin} |{curve}| {end}; {mean} on average, {peak:,} videos/h at most"


def _rerun(found: Coverage) -> str:
    download, extract = found.stages["download"], found.stages["extract"]
    asked = counted(found.next_download, "video")
    parts = (
        f"a rerun of download asks for {asked} ({download.untried:,} for the first time, "
        f"{download.failed_for_now:,} again) and leaves {download.failed_for_good:,} alone",
        f"a rerun of extract has {found.next_extract:,} to do and leaves {extract.failed_for_good:,} alone",
    )
    return "\n".join(parts)


if __name__ == "__main__":
    run_verb(main)
