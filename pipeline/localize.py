"""Localises the steps of a task in videos: ordered alignment of every second with the steps.

    python -m pipeline.localize --run runs/mcn --shards shards/crosstask --tasks crosstask_release/tasks_primary.txt
    python -m pipeline.localize --run runs/mcn --shards shards/miningyoutube

Each video's captions are its annotated segments and carry the steps' names. Without ``--tasks`` a video's own segments,
in their order, are its steps (MiningYouTube). Writes ``localization.json`` and
``localization.html``, with a picture of each video, into the run's folder, and shows a table. Figures are percentages.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress
from rich.table import Table

from pipeline.cli import console, output_file, progress_bar, run_verb, verb_parser, warn
from pipeline.config import Recipe
from pipeline.errors import InputError
from pipeline.replacing import replace_file
from pipeline.training.arguments import add_model_arguments
from pipeline.wording import counted

if TYPE_CHECKING:
    from pipeline.benchmarks.steps import Task, VideoSteps
    from pipeline.benchmarks.windows import Embedder
    from pipeline.shards.left_out import LeftOut
    from pipeline.shards.reader import ShardSet
    from pipeline.types import Caption

_PICTURES = 1000
"""Videos that the page shows."""
_ROWS = 30
"""Tasks that tables show."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the verb."""
    parser = verb_parser(__doc__)
    add_model_arguments(parser, split="all videos")
    parser.add_argument("--tasks", type=Path, help="CrossTask's tasks_primary.txt")
    parser.add_argument(
        "--radius", type=int, help="so many seconds on both sides of a second are seen too; default: the recipe's"
    )
    parser.add_argument(
        "--out", type=output_file, help="default: localization.json in the run's folder; its page beside"
    )
    arguments, overrides = parser.parse_known_args(argv)

    from pipeline.benchmarks.steps import cooking_or_other, localisation_figures
    from pipeline.datasets.crosstask import read_tasks
    from pipeline.shards.left_out import LeftOut
    from pipeline.shards.reader import ShardSet
    from pipeline.training.runs import best_checkpoint, note_stand_ins, read_recipe

    recipe = read_recipe(arguments.run, arguments.recipe, overrides)
    note_stand_ins(recipe, arguments.shards)
    if arguments.radius is not None:
        recipe.evaluate.step_radius = arguments.radius
    tasks = None if arguments.tasks is None else read_tasks(arguments.tasks)
    checkpoint = arguments.checkpoint or best_checkpoint(arguments.run)
    shards, left_out = ShardSet(arguments.shards), LeftOut(recipe.clips)
    chosen = _chosen(shards, tasks, arguments.split, left_out)
    scored: list[tuple[VideoSteps, Task]] = []
    if chosen:
        run = None if arguments.checkpoint else arguments.run
        embedder, checkpoint = _embedder(shards, chosen, tasks is None, recipe, checkpoint, run)
        with progress_bar() as progress:
            scored = list(_scored(shards, embedder, chosen, tasks is None, recipe, left_out, progress))
    for message in left_out.messages:
        warn(f"left out: {message}")
    left_out.some(scored)
    scored = [(video, task) for video, task in scored if video.truth.any()]
    if not scored:
        which = "" if arguments.split is None else f" in split {arguments.split}"
        what = "any caption" if tasks is None else "a caption that is a step of one of these tasks"
        raise InputError(f"{arguments.shards}: no video with {what}{which}")
    videos = [video for video, _ in scored]
    groups = {} if tasks is None else {task_id: cooking_or_other(task_id) for task_id in tasks}
    result: dict[str, Any] = {
        **localisation_figures(videos, groups), "recipe": recipe.name, "seeded": recipe.seeded,
        "checkpoint": checkpoint.name, "radius": recipe.evaluate.step_radius, "sound": recipe.evaluate.step_sound,
        "videos": len(videos), "left_out": len(left_out.messages), "splits": _splits(shards, videos),
    }  # fmt: skip
    titles = {task.task_id: task.title for _, task in scored}
    for task_id, figures in result["tasks"].items():
        figures["title"] = titles[task_id]
    out = arguments.out or arguments.run / "localization.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, lambda part: part.write_text(json.dumps(result, indent=2) + "\n"))
    page = _page(result, scored, recipe)
    replace_file(out.with_suffix(".html"), lambda part: part.write_text(page))
    _show(result)
    count = f"{counted(len(videos), 'video')}{left_out.note()} of {_splits_told(result)}"
    console.print(f"localize: {count}, {checkpoint.name} → {out}", soft_wrap=True)


def _splits(shards: ShardSet, videos: Sequence[VideoSteps]) -> dict[str, int]:
    """How many of the videos each split has."""
    split_of = dict(zip(shards.ids, shards.table["split"].to_pylist(), strict=True))
    return dict(sorted(Counter(split_of[video.video_id] for video in videos).items()))


def _splits_told(result: dict[str, Any]) -> str:
    splits = result["splits"]
    if len(splits) == 1:
        return f"split {next(iter(splits))}"
    return f"splits {', '.join(f'{name} ({count:,})' for name, count in splits.items())}"


def _chosen(
    shards: ShardSet, tasks: dict[str, Task] | None, split: str | None, left_out: LeftOut
) -> list[tuple[int, Sequence[Caption], Task]]:
    """The annotated videos of the tasks, as the shards count, with their captions; without tasks, all with captions."""
    from pipeline.benchmarks.steps import own_steps

    chosen: list[tuple[int, Sequence[Caption], Task]] = []
    for number, sample in left_out.samples(shards, split):
        task = own_steps(sample.video_id, sample.captions) if tasks is None else tasks.get(sample.task_id or "")
        if task is not None and any(caption.text in task.steps for caption in sample.captions):
            chosen.append((number, sample.captions, task))
    return chosen


def _embedder(
    shards: ShardSet, chosen: Sequence[tuple[int, Sequence[Caption], Task]], own: bool, recipe: Recipe,
    checkpoint: Path, run: Path | None,
) -> tuple[Embedder, Path]:  # fmt: skip
    """The model, with words for the steps of the chosen videos, and the checkpoint that it is of."""
    from pipeline.benchmarks.windows import Embedder
    from pipeline.shards.batches import ClipReader
    from pipeline.training.runs import load_trained, words_for

    words = None
    if not own:
        steps = dict.fromkeys(step for _, _, task in chosen for step in task.steps)
        words = words_for(list(steps), shards.folder, recipe.extract.words)
    trained = load_trained(recipe.model, checkpoint, shards.folder, words, run)
    reader = ClipReader(shards, recipe.clips)
    embedder = Embedder(trained.model, trained.prepare, reader, trained.words, recipe.evaluate.batch_clips)
    return embedder, trained.checkpoint


def _scored(
    shards: ShardSet, embedder: Embedder, chosen: Sequence[tuple[int, Sequence[Caption], Task]], own: bool,
    recipe: Recipe, left_out: LeftOut, progress: Progress,
) -> Iterator[tuple[VideoSteps, Task]]:  # fmt: skip
    """The chosen videos with their scores; ``own``: their steps are their own segments."""
    from pipeline.benchmarks.steps import VideoSteps, log_shares, own_truth, step_truth
    from pipeline.benchmarks.windows import second_scores

    around = recipe.evaluate.step_radius, recipe.evaluate.step_sound
    for number, captions, task in progress.track(chosen, description="localize"):
        with left_out.allowed():
            embedder.reader.check(number, shards.ids[number])
            scores = second_scores(embedder, number, task, *around)
            if own:
                scores, truth = log_shares(scores), own_truth(captions, len(scores))
            else:
                truth = step_truth(captions, task.steps, len(scores))
            yield VideoSteps(shards.ids[number], task.task_id, scores, truth), task


def figures_of(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """What ``localization.json`` holds, for people: the header, and rows of the first tasks and of all."""
    rows = [[task["title"], f"{task['videos']:,}", *_cells(task)] for task in list(result["tasks"].values())[:_ROWS]]
    if len(result["tasks"]) > _ROWS:
        rows.append([f"... and {len(result['tasks']) - _ROWS:,} more", *[""] * 5])
    rows += [[f"mean: {group}", "", *_cells(figures)] for group, figures in result["groups"].items()]
    return ["task", "videos", "recall", "mean recall of videos", "recall by second", "mAP"], rows


def _show(result: dict[str, Any]) -> None:
    table, (header, rows) = Table(title="Step localisation"), figures_of(result)
    for column in header:
        table.add_column(column, justify="left" if column == "task" else "right")
    for row in rows:
        table.add_row(*row, style="bold" if row[0].startswith("mean: ") else None)
    console.print(table)


def _cells(figures: dict[str, Any]) -> list[str]:
    return [f"{figures[name]:.1f}" for name in ("recall", "recall_of_videos", "recall_by_second", "mAP")]


def _page(result: dict[str, Any], scored: Sequence[tuple[VideoSteps, Task]], recipe: Recipe) -> str:
    from pipeline.pages.page import Section, Tile, render_report, table

    pictures = "".join(_picture(video, task) for video, task in scored[:_PICTURES])
    note = (
        "Light: how well a second fits a step. Frame: where the step is annotated. Green: the second that the ordered "
        f"alignment chose. The first {min(len(scored), _PICTURES)} of {len(scored)} videos."
    )
    mean = result["groups"]["all"]
    tiles = [Tile(f"{mean['recall']:.1f} %", "recall, mean of tasks"), Tile(f"{mean['mAP']:.1f} %", "mAP")]
    return render_report(
        title=f"Step localisation, {recipe.name}",
        recipe=recipe.to_dict(),
        headline=tiles,
        sections=[
            Section(
                "figures",
                "Figures",
                table(*figures_of(result)),
                f"{counted(result['videos'], 'video')} of {_splits_told(result)}.",
            ),
            Section("videos", "Alignment against annotation", pictures, note),
        ],
        made_at=datetime.now(),
    )


def _picture(video: VideoSteps, task: Task) -> str:
    """One video as SVG: steps from top to bottom, seconds from left to right."""
    from pipeline.benchmarks.alignment import align_steps, step_counts
    from pipeline.pages.images import colour_map, data_uri

    seconds, steps = video.scores.shape
    if seconds == 0:
        return ""
    low, high = float(video.scores.min()), float(video.scores.max())
    shade = data_uri(colour_map((video.scores.T - low) / max(high - low, 1e-9)))
    width, row, left, axis = 720, 18, 230, 18
    scale = width / seconds
    chosen = align_steps(video.scores)
    parts = [
        f'<image href="{shade}" x="{left}" y="0" width="{width}" height="{steps * row}" opacity="0.6" '
        'preserveAspectRatio="none" style="image-rendering: pixelated"/>'
    ]
    for step, name in enumerate(task.steps):
        top = step * row
        parts.append(
            f'<text x="{left - 6}" y="{top + 13}" text-anchor="end">{escape(_shorten(name))}'
            f"<title>{escape(name)}</title></text>"
        )
        for start, end in _runs(video.truth[:, step]):
            parts.append(
                f'<rect x="{left + start * scale:.1f}" y="{top + 1}" width="{(end - start) * scale:.1f}" '
                f'height="{row - 2}" fill="none" stroke="currentColor"/>'
            )
        for start, end in _runs(chosen[:, step]):
            parts.append(
                f'<rect x="{left + start * scale:.1f}" y="{top + 1}" width="{max((end - start) * scale, 2):.1f}" '
                f'height="{row - 2}" fill="#37b24d"/>'
            )
    for second in range(0, seconds + 1, _tick(seconds)):
        parts.append(
            f'<text x="{left + second * scale:.1f}" y="{steps * row + 13}" text-anchor="middle">{second}</text>'
        )
    box = f"0 0 {left + width + 20} {steps * row + axis}"
    size = f'viewBox="{box}" width="100%" font-size="11" fill="currentColor"'
    found, annotated = step_counts(chosen, video.truth)
    name = video.video_id if task.title == video.video_id else f"{video.video_id}: {task.title}"
    title = f"<h3>{escape(name)}, {seconds} s, {found} of {annotated} steps found</h3>"
    picture = f'<svg {size} role="img" aria-label="alignment of {escape(video.video_id)}">{"".join(parts)}</svg>'
    return f'{title}<div class="scroll">{picture}</div>'


def _tick(seconds: int, most: int = 12) -> int:
    """Seconds between two marks of an axis: the least round number that gives no more of them than ``most``."""
    return next(
        step for step in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, seconds) if seconds <= most * step
    )


def _shorten(text: str, most: int = 32) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _runs(flags: Any) -> Iterator[tuple[int, int]]:
    """Where stretches of ones begin and end."""
    start = None
    for place, flag in enumerate([*flags, 0]):
        if flag and start is None:
            start = place
        elif not flag and start is not None:
            yield start, place
            start = None


if __name__ == "__main__":
    run_verb(main)
