"""Retrieval figures as a report shows them, from ``metrics.json``."""

from __future__ import annotations

from typing import Any

from pipeline.benchmarks.retrieval import main_direction
from pipeline.pages.charts import bar_chart
from pipeline.pages.page import Section, Tile, table

_SHOWN = ("t2v", "t2a", "t2va", "t2v+a", "v2t", "a2t", "va2t", "v+a2t")
"""Directions drawn as bars; the table has all."""


def results_section(metrics: dict[str, Any], trained_here: bool) -> Section:
    """Retrieval against chance, from ``metrics.json``; of weights from elsewhere nobody knows what they have seen."""
    retrieval, chance = metrics["retrieval"], metrics["chance"]
    header = ["", "R@1", "R@5", "R@10", "median rank"]
    rows = [
        [_direction(name), *(_recall(row[key]) for key in ("R1", "R5", "R10")), f"{row['MedR']:g}"]
        for name, row in retrieval.items()
    ]
    rows.append(["chance", *(_recall(chance[key]) if key in chance else "" for key in ("R1", "R5", "R10")), ""])
    bars = [(_direction(name), row["R1"], _recall(row["R1"])) for name, row in retrieval.items() if name in _SHOWN]
    body = bar_chart(bars, reference=(chance["R1"], f"chance, {_recall(chance['R1'])}"), full=100.0)
    split, missing = metrics.get("split", "test"), metrics.get("total", metrics["clips"]) - metrics["clips"]
    note = f"Recall at 1 on {metrics['clips']:,} clips of split {split}"
    if trained_here:
        note += ", which training saw too" if split == "train" else ", held out: training never saw them"
    note += f"; {missing:,} more are missing and count as misses." if missing else "."
    return Section("results", "Retrieval", body + "<h3>All figures</h3>" + table(header, rows), note)


def result_tiles(metrics: dict[str, Any]) -> list[Tile]:
    """The main direction's recall, and how many times chance it is."""
    main = main_direction(metrics["retrieval"])
    best = metrics["retrieval"][main]["R1"]
    times = best / metrics["chance"]["R1"]
    return [Tile(_recall(best), f"{_direction(main)}, R@1"), Tile(f"{times:.0f} ×", "chance")]


def _direction(name: str) -> str:
    words = {"t": "text", "v": "video", "a": "sound"}
    query, _, target = name.partition("2")
    if not target or not set(query + target) <= set("tva+"):
        return name
    sides = (" + ".join(words[letter] for letter in side if letter != "+") for side in (query, target))
    summed = " (summed)" if "+" in name else ""
    return " → ".join(sides) + summed


def _recall(percentage: float) -> str:
    return f"{percentage:.1f} %"
