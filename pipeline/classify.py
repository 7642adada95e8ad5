"""Names what videos show, without training for it, and compares clusters of their embeddings with their classes.

    python -m pipeline.classify --run runs/mcn --shards shards/ucf101

A video's class is its first category in the manifest, or its second (``--category 2``). Zero-shot recognition compares
what is seen of each video with the words of the classes' names; the one vector that MCN takes of a video is here the
mean of its features, as in MCN's program. Clusters are those of MCN's k-means, as many as there are classes. Writes
``classes.json`` into the run's folder and shows a table.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from pipeline.cli import console, output_file, progress_bar, run_verb, verb_parser, warn
from pipeline.config import Recipe
from pipeline.errors import InputError
from pipeline.replacing import replace_file
from pipeline.training.arguments import add_model_arguments
from pipeline.wording import counted

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.benchmarks.windows import Embedder
    from pipeline.shards.left_out import LeftOut
    from pipeline.shards.reader import ShardSet
    from pipeline.text.vocabulary import Vocabulary

_MEANING = {
    "top1": "zero-shot, top 1 (%)",
    "chance": "chance of it (%)",
    "top5": "zero-shot, top 5 (%)",
    "nmi": "clusters: normalised mutual information (%)",
    "accuracy": "clusters: accuracy of the best matching (%)",
    "entropy": "clusters: mean entropy (nats)",
    "purity": "clusters: mean purity (%)",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the verb."""
    parser = verb_parser(__doc__)
    add_model_arguments(parser, split="all videos")
    parser.add_argument("--category", type=int, choices=(1, 2), default=1, help="which of a video's is its class")
    parser.add_argument("--out", type=output_file, help="default: classes.json in the run's folder")
    arguments, overrides = parser.parse_known_args(argv)

    from pipeline.shards.left_out import LeftOut
    from pipeline.shards.reader import ShardSet
    from pipeline.training.runs import best_checkpoint, note_stand_ins, read_recipe

    recipe = read_recipe(arguments.run, arguments.recipe, overrides)
    note_stand_ins(recipe, arguments.shards)
    checkpoint = arguments.checkpoint or best_checkpoint(arguments.run)
    shards, left_out = ShardSet(arguments.shards), LeftOut(recipe.clips)
    classes = _classes(shards, arguments.split, arguments.category, left_out)
    run = None if arguments.checkpoint else arguments.run
    result = {**_measure(shards, recipe, checkpoint, run, classes, left_out), "left_out": len(left_out.messages),
              "recipe": recipe.name, "seeded": recipe.seeded}  # fmt: skip
    for message in left_out.messages:
        warn(f"left out: {message}")
    out = arguments.out or arguments.run / "classes.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, lambda part: part.write_text(json.dumps(result, indent=2) + "\n"))
    _show(result)
    count = f"{counted(result['videos'], 'video')}{left_out.note()} of {len(result['classes'])} classes"
    console.print(f"classify: {count}, {result['checkpoint']} → {out}", soft_wrap=True)


def _classes(shards: ShardSet, split: str | None, category: int, left_out: LeftOut) -> dict[int, str]:
    """The class of each video that has one, by its number in the shards."""
    classes: dict[int, str] = {}
    for number, sample in left_out.samples(shards, split):
        name = sample.category_1 if category == 1 else sample.category_2
        if name is not None:
            classes[number] = name
    if len(set(classes.values())) < 2:
        left_out.some(classes)
        which = "" if split is None else f" in split {split}"
        raise InputError(
            f"{shards.folder}: fewer than two classes{which}; a video's class is category_{category} in its manifest"
        )
    return classes


def _measure(
    shards: ShardSet, recipe: Recipe, checkpoint: Path, run: Path | None, classes: dict[int, str], left_out: LeftOut
) -> dict[str, Any]:
    """Figures, and of how many videos and which classes they are: those of which a video can be read."""
    import numpy as np
    import torch

    from pipeline.benchmarks.classes import class_text, cluster_figures, zero_shot_accuracy
    from pipeline.benchmarks.strategies import evaluation_sizes
    from pipeline.benchmarks.windows import Embedder
    from pipeline.objectives.kmeans import first_centroids, kmeans
    from pipeline.shards.batches import ClipReader
    from pipeline.training.runs import load_trained, words_for

    model_settings, clip_settings = evaluation_sizes(recipe)
    # gen_loader.py of MCN's program; its benchmarks of clips have maxima, like training
    clip_settings = dataclasses.replace(clip_settings, video_pooling="mean")
    text_of = {name: class_text(name) for name in sorted(set(classes.values()))}
    words = words_for(list(text_of.values()), shards.folder, recipe.extract.words)
    _note_alike(text_of, words)
    trained = load_trained(model_settings, checkpoint, shards.folder, words, run)
    reader = ClipReader(shards, clip_settings)
    embedder = Embedder(trained.model, trained.prepare, reader, trained.words, recipe.evaluate.batch_clips)
    # before the videos: a model without text of its own is known at once
    named = dict(zip(text_of, embedder.texts(list(text_of.values())), strict=True))
    embedded = _embed(embedder, shards, list(classes), left_out)
    left_out.some(embedded)
    names = sorted({classes[number] for number in embedded})
    videos, labels = torch.cat(list(embedded.values())), np.array([names.index(classes[number]) for number in embedded])
    clusters, _ = kmeans(videos, first_centroids(videos, len(names)))
    return {
        **zero_shot_accuracy(embedder.similarity(videos, torch.stack([named[name] for name in names])), labels),
        "chance": 100 / len(names),
        **cluster_figures(clusters.cpu().numpy(), labels),
        "videos": len(videos),
        "classes": names,
        "checkpoint": trained.checkpoint.name,
    }


def _note_alike(text_of: dict[str, str], words: Vocabulary) -> None:
    """Says which classes are the same to the model, since no word that tells them apart has a vector."""
    alike: dict[bytes, list[str]] = {}
    for name, text in text_of.items():
        alike.setdefault(words.ids(text).tobytes(), []).append(name)
    for same in alike.values():
        if len(same) > 1:
            warn(f"the words that tell {', '.join(same)} apart have no vectors: to the model they are one class")


def _embed(embedder: Embedder, shards: ShardSet, numbers: list[int], left_out: LeftOut) -> dict[int, Tensor]:
    """What is seen of each video as one window from its beginning, as far as the recipe's evaluation looks."""
    import numpy as np

    from pipeline.benchmarks.windows import SIGHT
    from pipeline.shards.clips import windows

    embedded: dict[int, Tensor] = {}
    with progress_bar() as progress:
        for number in progress.track(numbers, description="classify"):
            with left_out.allowed():
                embedder.reader.check(number, shards.ids[number])
                whole = windows([0], [0], np.maximum(embedder.reader.seconds(np.array([number])), 1))
                embedded[number] = embedder.windows(number, whole, SIGHT)
    return embedded


def figures_of(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What ``classes.json`` holds, for people: meaning and number."""
    return [
        (meaning, f"{result[key]:.2f}" if key == "entropy" else f"{result[key]:.1f}")
        for key, meaning in _MEANING.items()
        # all of five are always among the first five
        if key in result and not (key == "top5" and len(result["classes"]) <= 5)
    ]


def _show(result: dict[str, Any]) -> None:
    table = Table(title=f"{counted(result['videos'], 'video')} of {len(result['classes'])} classes")
    table.add_column("")
    table.add_column("", justify="right")
    for row in figures_of(result):
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    run_verb(main)
