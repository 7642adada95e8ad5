"""What every verb that looks at a trained model asks on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_model_arguments(parser: argparse.ArgumentParser, split: str) -> None:
    """Adds ``--run``, ``--shards``, ``--recipe``, ``--checkpoint`` and ``--split``.

    Args:
        parser: the verb's.
        split: what is looked at without ``--split``, for its help.
    """
    parser.add_argument("--run", type=Path, required=True, help="folder of the run, runs/<name>")
    parser.add_argument("--shards", type=Path, required=True, help="folder of shards to look at, shards/<name>")
    parser.add_argument("--recipe", help="settings of a model that was not trained here; default: those of the run")
    parser.add_argument("--checkpoint", type=Path, help="default: the run's best checkpoint, else its last")
    parser.add_argument("--split", help=f"the videos' split; default: {split}")
