"""A page about one evaluation: figures of every direction, where the matches rank, and what was found instead."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.benchmarks.embeddings import ClipEmbeddings, Floats, similarity_of
from pipeline.benchmarks.retrieval import main_direction
from pipeline.benchmarks.whole_videos import WAYS
from pipeline.pages.charts import bar_chart, line_chart
from pipeline.pages.page import Section, Tile, render_report, table

Ranks = npt.NDArray[np.float64]

_EXAMPLES = 12
_MODALITIES = {"t": "text", "v": "video", "a": "sound"}
_STRATEGIES = {
    "at_once": "clips at once",
    "cut": "long clips cut into pieces",
    "max_pool": "long clips pooled by their maxima",
    "nearest": "long clips resampled",
}


def retrieval_page(
    result: Mapping[str, Any],
    clips: ClipEmbeddings,
    ranks: Mapping[str, Ranks],
    recipe: Mapping[str, Any],
) -> str:
    """The page as HTML that stands alone.

    Args:
        result: what ``metrics.json`` holds.
        clips: the test set.
        ranks: each query's rank by direction, 1 is best.
        recipe: ``name``, ``description`` and ``seeded``.
    """
    shown = main_direction(ranks)
    figures = result["retrieval"]
    best = figures[shown]
    missing = result["total"] - result["clips"]
    tiles = [
        Tile(f"{best['R1']:.1f} %", f"recall at 1, {_arrow(shown)}"),
        Tile(f"{best['R10']:.1f} %", f"recall at 10, {_arrow(shown)}"),
        Tile(f"{best['MedR']:g}", "median rank"),
        Tile(f"{result['clips']:,}", f"clips, {missing:,} missing" if missing else "clips"),
    ]
    columns = ["R1", "R5", "R10", "R50", "MedR", "MeanR"]
    rows = [[_arrow(name), *(f"{values[key]:.1f}" for key in columns)] for name, values in figures.items()]
    rows.append(["chance", *(f"{result['chance'][key]:.1f}" for key in columns)])
    header = ["", "R@1", "R@5", "R@10", "R@50", "median rank", "mean rank"]
    recalls = [(_arrow(name), values["R10"], f"{values['R10']:.1f} %") for name, values in figures.items()]
    reference = (result["chance"]["R10"], f"chance, {result['chance']['R10']:.1f} %")
    bars = bar_chart(recalls, reference, full=100.0)
    return render_report(
        title=f"Retrieval, {result['recipe']}",
        recipe=recipe,
        headline=tiles,
        sections=[
            Section("figures", "Every direction", bars + table(header, rows), _legend(result)),
            *whole_videos_section(result),
            Section(
                "ranks",
                "Where the matches rank",
                line_chart(_curves(ranks, result["total"]), "rank", "% of queries at or above"),
            ),
            Section(
                "examples", f"Examples, {_arrow(shown)}", _examples(clips, similarity_of(clips, shown), ranks[shown])
            ),
        ],
        made_at=datetime.now(),
    )


def _legend(result: Mapping[str, Any]) -> str:
    """What the letters stand for, and how many clips have it at all."""
    missing = result["total"] - result["clips"]
    lacking = (
        f" {missing:,} more are missing: they count as misses of recalls, ranks are of the others." if missing else ""
    )
    windows = result["settings"]["evaluate"]["windows"]
    seen = "a training window" if windows == 1 else f"{windows} training windows"
    having = [f"{_MODALITIES[name]} {count:,}" for name, count in result["with_modality"].items()]
    return (
        f"Split {result['split']} of {result['shards']}, {_STRATEGIES[result['strategy']]}, at most {seen} of each; "
        f"weights {result['checkpoint']}. "
        "Recall at 10. t is text, v video, a sound; va is both fused, v+a the sum of two embeddings. Of "
        f"{result['clips']:,} clips so many have: {', '.join(having)}.{lacking}"
    )


def whole_videos_section(result: Mapping[str, Any]) -> list[Section]:
    """What MCN reports of whole videos, where ``evaluate`` was asked for it."""
    whole = result.get("whole_videos")
    if whole is None:
        return []
    rows = [[meaning, *(f"{whole[way][key]:.1f}" for key in ("R1", "R5", "R10"))] for way, meaning in WAYS.items()]
    note = f"{_arrow(whole['direction'])}, {whole['videos']:,} videos by their captions."
    return [Section("whole-videos", "Whole videos", table(["", "R@1", "R@5", "R@10"], rows), note)]


def _arrow(direction: str) -> str:
    query, _, candidates = direction.partition("2")
    return f"{query} → {candidates}"


def _curves(ranks: Mapping[str, Ranks], total: int) -> dict[str, list[tuple[float, float]]]:
    """Share of all queries, missing ones too, whose match ranks at most so low, for a few directions."""
    curves = {}
    for direction in [name for name in ("t2va", "t2v", "t2a", "t2v+a", "ta2v", "a2v") if name in ranks][:4]:
        ordered = np.sort(ranks[direction])
        points = np.unique(np.geomspace(1, len(ordered), 60).astype(int))
        share = [100 * float((ordered <= point).sum()) / total for point in points]
        curves[_arrow(direction)] = list(zip(map(float, points), share, strict=True))
    return curves


def _examples(clips: ClipEmbeddings, matrix: Floats, ranks: Ranks) -> str:
    """Queries from the best to the worst, evenly spread, with the clip that came first."""
    order = np.argsort(ranks, kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, min(_EXAMPLES, len(order))).astype(int))]
    texts = clips.texts or clips.clip_ids
    rows = []
    for query in chosen:
        first = int(matrix[query].argmax())
        found = "itself" if first == query else f"{clips.clip_ids[first]}: {texts[first]}"
        rows.append([f"{ranks[query]:g}", clips.clip_ids[query], texts[query], found])
    return table(["rank", "clip", "its text", "what came first"], rows, (1, 2, 3))
