"""The manners that all verbs share on the command line."""

from __future__ import annotations

import argparse
import errno
import math
import os
import re
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.config import Recipe, load_recipe, recipe_names
from pipeline.errors import InputError

_OVERRIDE = re.compile(r"--[a-z_]+\.[a-z0-9_.]+")

console = Console(stderr=True, highlight=False, markup=False, emoji=False)
"""Progress and messages go to standard error; results that a program reads go to standard output."""


def warn(message: str) -> None:
    """Says what is not as it should be but does not end the work."""
    console.print(f"warning: {message}", style="bold yellow", soft_wrap=True)


def verb_parser(description: str | None, *, recipe: str | None = None) -> argparse.ArgumentParser:
    """A parser for a verb.

    Args:
        description: the verb's docstring.
        recipe: the default of ``--recipe``; None: the verb takes no recipe.
    """
    script, here = Path(sys.argv[0]).resolve(), Path(__file__).resolve().parent
    verb = script.parent if script.name == "__main__.py" else script.with_suffix("")
    known = script.is_file() and verb.is_relative_to(here)
    parser = argparse.ArgumentParser(
        prog=f"python -m {'.'.join(verb.relative_to(here.parent).parts)}" if known else None,
        description=description,
        formatter_class=_HelpFormatter,
    )
    if recipe is not None:
        parser.add_argument(
            "--recipe",
            default=recipe,
            help=f"named settings ({', '.join(recipe_names())}) or a YAML file; default: {recipe}. "
            "Each setting can be changed with --section.key value",
        )
    return parser


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps a docstring's lines, and names with hyphens in one piece."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


def parse_with_recipe(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> tuple[argparse.Namespace, Recipe]:
    """The verb's own arguments, and the recipe with what is left on the command line as dotted overrides."""
    arguments, overrides = parser.parse_known_args(join_overrides(sys.argv[1:] if argv is None else argv))
    return arguments, load_recipe(arguments.recipe, overrides)


def positive_int(text: str) -> int:
    """The type of an argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it is {text} and must be a whole number, 1 or more")
    return int(text)


def positive_float(text: str) -> float:
    """The type of an argument that measures something."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"it is {text} and must be a number above 0")
    return number


def from_anywhere(place: str) -> str:
    """A URL as it is, a path as an absolute one: the workers of a cluster have another working directory."""
    return place if "://" in place else str(Path(place).absolute())


def output_file(text: str) -> Path:
    """The type of an argument that names a file to write: better refused now than after the work."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder: give a file in it")
    return path


def join_overrides(argv: Sequence[str]) -> list[str]:
    """Turns ``--section.key value`` into one word, so that no value is taken for an argument of the verb."""
    words: list[str] = []
    for word in argv:
        waits = words and _OVERRIDE.fullmatch(words[-1]) and not word.startswith("--")
        if waits:
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def run_verb(main: Callable[[], None]) -> None:
    """Runs a verb's ``main`` and turns what a user can mend into one line and exit code 2.

    Ctrl-C exits with 130 and says that the same command continues.
    """
    try:
        _run(main)
    except BaseException as error:
        _leave_others_at_once(error)
        raise


def _leave_others_at_once(error: BaseException) -> None:
    """Ends a process that still belongs to others that train with it; none other.

    Taking leave of them, as the interpreter would, can last until they answer, who wait for this one.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return
    code = 1
    if not isinstance(error, SystemExit):
        traceback.print_exception(error)
    elif isinstance(error.code, int | None):
        code = error.code or 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(main: Callable[[], None]) -> None:
    try:
        main()
    except InputError as error:
        _fail(str(error))
    except BrokenPipeError:  # whoever read the output has read enough (| head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        where = f" at {error.filename}" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _fail(
                f"the disk is full{where}: free some space and run the same command again; it takes up what was saved"
            )
        if not error.filename:
            raise
        _fail(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        console.print("\nstopped; the same command continues where it was")
        sys.exit(130)


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Turns Ctrl-C and SIGTERM into KeyboardInterrupt, and into an event for work that may swallow the exception.

    Batch systems end a job with SIGTERM. A library that is called from another language can lose an exception that a
    signal raises in it; then the event ends the work, and the exception is raised when the block is left.
    """
    asked = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        asked.set()
        signal.default_int_handler(number, frame)

    before = {kind: signal.signal(kind, interrupt) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
        if asked.is_set():
            raise KeyboardInterrupt
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def progress_bar() -> Progress:
    """Progress of a stage: name, bar, how many of how many, time gone and time left."""
    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)


def _fail(message: str) -> None:
    console.print(f"error: {message}", style="bold red", soft_wrap=True)
    sys.exit(2)
