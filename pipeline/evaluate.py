"""Evaluates a model: retrieval among the clips of a held-out split, in every direction.

    python -m pipeline.evaluate --run runs/mft --shards shards/youcook2 --split test
    python -m pipeline.evaluate --recipe mft-youcook2 --checkpoint latest_model.pth --run runs/published \\
        --shards shards/youcook2 --total 3350

Writes ``metrics.json``, ``ranks.parquet`` and a page, ``retrieval.html``, into the run's folder and shows a table.
Recalls are percentages. The second form takes a published checkpoint, or any other. With ``--out x.json`` the other
files are ``x-ranks.parquet`` and ``x-retrieval.html``. ``--whole-videos`` adds what MCN reports of whole videos.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from pipeline.cli import console, output_file, positive_int, progress_bar, run_verb, verb_parser, warn
from pipeline.config import Recipe
from pipeline.errors import InputError
from pipeline.replacing import replace_file
from pipeline.training.arguments import add_model_arguments

if TYPE_CHECKING:
    from pipeline.benchmarks.embeddings import ClipEmbeddings
    from pipeline.benchmarks.retrieval import RetrievalMetrics
    from pipeline.benchmarks.retrieval_page import Ranks


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the verb."""
    parser = verb_parser(__doc__)
    add_model_arguments(parser, split="the recipe's evaluate.split")
    parser.add_argument(
        "--total", type=positive_int, help="clips of the full test set: those missing here count as misses"
    )
    parser.add_argument(
        "--whole-videos", type=int, nargs="?", const=0, metavar="N",
        help="also retrieve whole videos by their captions; N: clips of videos whose ids have the same first N "
        "characters are of one video (11 for the ids of released files)",
    )  # fmt: skip
    parser.add_argument("--out", type=output_file, help="default: metrics.json in the run's folder")
    arguments, overrides = parser.parse_known_args(argv)
    if (arguments.whole_videos or 0) < 0:
        raise InputError(f"--whole-videos {arguments.whole_videos}: give a number of characters")

    from pipeline.benchmarks.retrieval_page import retrieval_page
    from pipeline.training.runs import best_checkpoint, note_stand_ins, read_recipe

    recipe = read_recipe(arguments.run, arguments.recipe, overrides)
    note_stand_ins(recipe, arguments.shards)
    if arguments.split is not None:
        recipe.evaluate.split = arguments.split
    checkpoint = arguments.checkpoint or best_checkpoint(arguments.run)
    run = None if arguments.checkpoint else arguments.run
    clips, left_out, checkpoint = _embed(recipe, arguments.shards, checkpoint, run, arguments.total)
    total = arguments.total or (len(clips.clip_ids) + left_out if left_out else None)
    clips.check_finite(str(checkpoint), "take an earlier checkpoint")
    ranks, metrics = _measure(clips, total)
    result = {**_summary(metrics, clips, total), "seeded": recipe.seeded, "split": recipe.evaluate.split,
              "strategy": recipe.evaluate.strategy, "recipe": recipe.name, "shards": str(arguments.shards),
              "checkpoint": checkpoint.name, "settings": recipe.to_dict()}  # fmt: skip
    if arguments.whole_videos is not None:
        result |= _whole_videos(clips, arguments.whole_videos)
    out = arguments.out or arguments.run / "metrics.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, lambda part: part.write_text(json.dumps(result, indent=2) + "\n"))
    prefix = "" if out.name == "metrics.json" else f"{out.stem}-"
    replace_file(out.with_name(f"{prefix}ranks.parquet"), lambda part: _write_ranks(part, clips, ranks))
    page = retrieval_page(result, clips, ranks, recipe.to_dict())
    replace_file(out.with_name(f"{prefix}retrieval.html"), lambda part: part.write_text(page))
    _show(result)
    _note_lacking(result)
    count = f"{len(clips.clip_ids):,} clips of split {recipe.evaluate.split}"
    console.print(f"evaluate: {count}, {checkpoint.name} → {out}", soft_wrap=True)


def _embed(
    recipe: Recipe, shards: Path, checkpoint: Path, run: Path | None, total: int | None
) -> tuple[ClipEmbeddings, int, Path]:
    """The test set's embeddings, how many clips were left out since they are damaged, and whose weights were taken."""
    from pipeline.benchmarks.embeddings import embed_clips
    from pipeline.benchmarks.strategies import evaluation_sizes
    from pipeline.shards.evaluation import evaluation_clips
    from pipeline.shards.reader import ShardSet
    from pipeline.training.runs import load_trained

    shard_set, held_out = ShardSet(shards), recipe.evaluate
    model_settings, clip_settings = evaluation_sizes(recipe)
    batches = evaluation_clips(shard_set, held_out.split, clip_settings, held_out.batch_clips, held_out.max_words)
    if total is not None and total < batches.clips:
        raise InputError(f"--total {total}: but {batches.clips} clips are there")
    trained = load_trained(model_settings, checkpoint, shards, run=run)
    with progress_bar() as progress:
        clips = embed_clips(trained.model, progress.track(batches, description="evaluate"), trained.prepare)
    for message in batches.damaged:
        warn(f"left out: {message}")
    if batches.not_told_apart:
        console.print(
            f"evaluate: {batches.not_told_apart:,} of {len(clips.clip_ids):,} clips show the same stretch of video as "
            "another: only captions tell those apart, and R@1 counts a tie for the first place as a miss",
            soft_wrap=True,
        )
    return clips, batches.left_out, trained.checkpoint


def _measure(clips: ClipEmbeddings, total: int | None) -> tuple[dict[str, Ranks], dict[str, RetrievalMetrics]]:
    """Of each direction: each query's rank (1 is best), and the metrics."""
    from pipeline.benchmarks.embeddings import directions_of, similarity_of
    from pipeline.benchmarks.retrieval import match_ranks, metrics_of_ranks

    ranks = {direction: match_ranks(similarity_of(clips, direction)) for direction in directions_of(clips)}
    metrics = {direction: metrics_of_ranks(values, total) for direction, values in ranks.items()}
    return {direction: values + 1 for direction, values in ranks.items()}, metrics


def _whole_videos(clips: ClipEmbeddings, characters: int) -> dict[str, Any]:
    """``whole_videos``: their figures; nothing of a model without text of its own, which is said."""
    from pipeline.benchmarks.embeddings import directions_of, similarity_of
    from pipeline.benchmarks.whole_videos import whole_video_recalls

    direction = next((name for name in ("t2va", "t2v+a", "t2v") if name in directions_of(clips)), None)
    if direction is None:
        warn("--whole-videos: this model has no embedding of text alone to look for videos with")
        return {}
    ids = [clip_id.rpartition("/")[0] for clip_id in clips.clip_ids]
    videos = [name[: characters or None] for name in ids]
    recalls = whole_video_recalls(similarity_of(clips, direction), videos)
    return {"whole_videos": {"direction": direction, "videos": len(set(videos)), **recalls}}


def _write_ranks(path: Path, clips: ClipEmbeddings, ranks: dict[str, Ranks]) -> None:
    texts = clips.texts or [""] * len(clips.clip_ids)
    pq.write_table(pa.table({"clip_id": clips.clip_ids, "text": texts, **ranks}), path, compression="zstd")


def _summary(metrics: dict[str, RetrievalMetrics], clips: ClipEmbeddings, total: int | None) -> dict[str, Any]:
    from pipeline.benchmarks.retrieval import chance

    count = len(clips.clip_ids)
    return {
        "retrieval": {direction: metric.to_dict() for direction, metric in metrics.items()},
        "clips": count,
        "total": count if total is None else total,
        "with_modality": {name: int(present.sum()) for name, present in clips.present.items()},
        "chance": chance(count, total).to_dict(),
    }


def _show(result: dict[str, Any]) -> None:
    stand_ins = " (features from seeded stand-ins, not published weights)" if result["seeded"] else ""
    missing = result["total"] - result["clips"]
    among = f"{result['clips']:,} clips" + (f", {missing:,} missing count as misses of recalls" if missing else "")
    table = Table(title=f"Retrieval among {among}{stand_ins}")
    for column in ("", "R@1", "R@5", "R@10", "R@50", "median rank"):
        table.add_column(column, justify="left" if not column else "right")
    for direction, values in [*result["retrieval"].items(), ("chance", result["chance"])]:
        query, _, candidates = direction.partition("2")
        name = f"{query} → {candidates}" if candidates else direction
        table.add_row(name, *(f"{values[key]:.1f}" for key in ("R1", "R5", "R10", "R50", "MedR")))
    console.print(table)
    if "whole_videos" in result:
        _show_whole_videos(result["whole_videos"])


def _show_whole_videos(result: dict[str, Any]) -> None:
    from pipeline.benchmarks.whole_videos import WAYS

    table = Table(title=f"Retrieval among {result['videos']:,} whole videos, {result['direction']}")
    for column in ("", "R@1", "R@5", "R@10"):
        table.add_column(column, justify="left" if not column else "right")
    for way, meaning in WAYS.items():
        table.add_row(meaning, *(f"{result[way][key]:.1f}" for key in ("R1", "R5", "R10")))
    console.print(table)


def _note_lacking(result: dict[str, Any]) -> None:
    """Says which modalities clips lack: directions with those tell little."""
    names = {"t": "text", "v": "video", "a": "sound"}
    lacking = {names[name]: result["clips"] - count for name, count in result["with_modality"].items()}
    for name, count in lacking.items():
        if count:
            console.print(f"evaluate: {count:,} of {result['clips']:,} clips have no {name}")


if __name__ == "__main__":
    run_verb(main)
