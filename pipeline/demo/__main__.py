"""The main job, small: the whole way from a list of videos to a table of results, in a few minutes without a GPU.

    python -m pipeline.demo                 # MFT
    python -m pipeline.demo --model mcn     # MCN on the same shards

Draws a corpus of narrated how-to videos, serves it on this machine from an HTTP server that misbehaves a little, and
then runs the same commands that a real run does. Stop it whenever you like: the same command continues.
"""

from __future__ import annotations

import fcntl
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.cli import console, progress_bar, run_verb, verb_parser
from pipeline.demo.corpus import build_corpus, scripts
from pipeline.demo.faults import demo_faults
from pipeline.demo.mirror import Mirror
from pipeline.demo.outcome import check_outcome
from pipeline.demo.processes import end_with_parent
from pipeline.errors import InputError

RECIPES = {"mft": "demo", "mcn": "demo-mcn"}
MANIFEST = Path("manifests/demo.parquet")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the demo."""
    parser = verb_parser(__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("corpus"), help="folder of the corpus; default: corpus")
    parser.add_argument("--model", choices=RECIPES, default="mft", help="what is trained; default: mft")
    arguments = parser.parse_args(argv)
    recipe, run = RECIPES[arguments.model], Path("runs") / RECIPES[arguments.model]
    with _alone():
        _run(arguments.corpus, recipe, run)


def _run(corpus: Path, recipe: str, run: Path) -> None:
    started = time.monotonic()
    _draw_corpus(corpus)
    with Mirror(corpus / "videos", demo_faults(scripts())) as mirror:
        template = f"{mirror.url}/{{video_id}}.mp4"
        _verb("manifest", "build", "table", corpus / "videos.jsonl", "--out", MANIFEST)
        _verb("download", MANIFEST, "--videos", "videos/demo", "--recipe", recipe, "--template", template)
    _verb("extract", MANIFEST, "--videos", "videos/demo", "--recipe", recipe)
    _verb("train", "--recipe", recipe, "--shards", "shards/demo", "--run", run)
    _verb("evaluate", "--run", run, "--shards", "shards/demo")
    _verb("report", "--run", run, "--manifest", MANIFEST, "--videos", "videos/demo", "--shards", "shards/demo")
    console.print(f"\ndemo: {check_outcome(run / 'metrics.json')}")
    console.print(f"The whole way took {time.monotonic() - started:.0f} s. The page to look at: {run}/report.html")


def _draw_corpus(folder: Path) -> None:
    with progress_bar() as progress:
        total = len(scripts())
        bar = progress.add_task("corpus", total=total)
        for _ in build_corpus(folder):
            progress.advance(bar)
    console.print(f"corpus: {total} narrated videos of 12 how-to topics in {folder}")


@contextmanager
def _alone() -> Iterator[None]:
    """Keeps a second demo out of the same folder; a killed one holds nothing."""
    Path("runs").mkdir(exist_ok=True)
    with Path("runs/.demo.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError("another demo is running in this folder: wait for it, or stop it first") from None
        yield


def _verb(verb: str, *arguments: object) -> None:
    """Runs one stage as a user would, and shows the command."""
    command = ["python", "-m", f"pipeline.{verb}", *map(str, arguments)]
    console.print(f"\n$ {shlex.join(command)}", style="bold", soft_wrap=True)
    process = subprocess.Popen([sys.executable, *command[1:]], preexec_fn=end_with_parent)
    try:
        status = process.wait()
    except KeyboardInterrupt:
        status = process.wait()  # the stage got the same Ctrl-C, puts its things in order and says so
    if status == 130:
        sys.exit(status)
    if status != 0:
        raise InputError(f"the demo stopped at {verb} (exit code {status}); make demo continues from there")


if __name__ == "__main__":
    run_verb(main)
