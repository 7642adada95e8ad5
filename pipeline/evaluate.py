"""Evaluates a trained model: retrieval among the clips of a held-out split, in every direction.

    python -m pipeline.evaluate --run runs/mft --shards shards/youcook2 --split test

Writes ``metrics.json`` into the run's folder and shows a table. Recalls are percentages.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from pipeline.cli import console, run_verb, verb_parser
from pipeline.config import Recipe, load_recipe
from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.benchmarks.embeddings import ClipEmbeddings
    from pipeline.benchmarks.retrieval import RetrievalMetrics


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the verb."""
    parser = verb_parser(__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run, runs/<name>")
    parser.add_argument("--shards", type=Path, required=True, help="folder of shards with the clips to retrieve")
    parser.add_argument("--split", help="the videos' split; default: the recipe's evaluate.split")
    parser.add_argument("--checkpoint", type=Path, help="default: the run's best checkpoint, else its last")
    parser.add_argument("--total", type=int, help="clips of the full test set: those missing here count as misses")
    parser.add_argument("--out", type=Path, help="default: metrics.json in the run's folder")
    arguments, overrides = parser.parse_known_args(argv)
    settings = arguments.run / "config.yaml"
    if not settings.is_file():
        raise InputError(f"there is no run {arguments.run}; train one with: python -m pipeline.train --run ...")
    recipe = load_recipe(str(settings), overrides)
    if arguments.split is not None:
        recipe.evaluate.split = arguments.split
    checkpoint = arguments.checkpoint or _best_checkpoint(arguments.run)
    clips = _embed(recipe, arguments.shards, checkpoint)
    metrics = _measure(clips, arguments.total)
    result = {**_summary(metrics, clips, arguments.total), "seeded": recipe.seeded, "split": recipe.evaluate.split,
              "recipe": recipe.name, "shards": str(arguments.shards), "checkpoint": checkpoint.name}  # fmt: skip
    out = arguments.out or arguments.run / "metrics.json"
    beside = out.with_name(out.name + ".part")
    beside.write_text(json.dumps(result, indent=2) + "\n")
    beside.replace(out)
    _show(result)
    console.print(
        f"evaluate: {len(clips.clip_ids):,} clips of split {recipe.evaluate.split}, {checkpoint.name} → {out}"
    )


def _best_checkpoint(run: Path) -> Path:
    from pipeline.training.checkpoint import Checkpoints

    checkpoints = Checkpoints(run / "checkpoints")
    best, steps = checkpoints.best(), checkpoints.steps()
    if not steps:
        raise InputError(f"{run} has no checkpoint yet; train with: python -m pipeline.train --run {run} ...")
    return checkpoints.path(best[0] if best is not None and best[0] in steps else steps[-1])


def _embed(recipe: Recipe, shards: Path, checkpoint: Path) -> ClipEmbeddings:
    import torch

    from pipeline.benchmarks.embeddings import embed_clips
    from pipeline.models import build_model
    from pipeline.shards.evaluation import evaluation_clips
    from pipeline.shards.reader import ShardSet
    from pipeline.training.batches import load_preparation
    from pipeline.training.checkpoint import read_checkpoint
    from pipeline.training.state import load_weights

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shard_set = ShardSet(shards)
    prepare = load_preparation(shards, recipe.model, device)
    model = build_model(recipe.model)
    load_weights(model, read_checkpoint(checkpoint))
    held_out = recipe.evaluate
    batches = evaluation_clips(shard_set, held_out.split, recipe.clips, held_out.batch_clips, held_out.max_words)
    return embed_clips(model.to(device), batches, prepare)


def _measure(clips: ClipEmbeddings, total: int | None) -> dict[str, RetrievalMetrics]:
    from pipeline.benchmarks.embeddings import similarities
    from pipeline.benchmarks.retrieval import retrieval_metrics

    if total is not None and total < len(clips.clip_ids):
        raise InputError(f"--total {total}: but {len(clips.clip_ids)} clips are there")
    return {direction: retrieval_metrics(matrix, total) for direction, matrix in similarities(clips).items()}


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
    table = Table(title=f"Retrieval among {result['clips']:,} clips{stand_ins}")
    for column in ("", "R@1", "R@5", "R@10", "R@50", "median rank"):
        table.add_column(column, justify="left" if not column else "right")
    for direction, values in [*result["retrieval"].items(), ("chance", result["chance"])]:
        query, _, candidates = direction.partition("2")
        name = f"{query} → {candidates}" if candidates else direction
        table.add_row(name, *(f"{values[key]:.1f}" for key in ("R1", "R5", "R10", "R50", "MedR")))
    console.print(table)


if __name__ == "__main__":
    run_verb(main)
