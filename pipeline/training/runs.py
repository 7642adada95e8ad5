"""A run from outside: its settings, its best checkpoint, the network that it trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from pipeline.cli import warn
from pipeline.config import ModelSettings, Recipe, load_recipe
from pipeline.errors import InputError
from pipeline.models import Network, build_model
from pipeline.shards.provenance import read_provenance
from pipeline.text import clip_vocabulary
from pipeline.text.vocabulary import Vocabulary, build_vocabulary, load_vocabulary
from pipeline.text.words import WordVectors, tokenize
from pipeline.training.batches import Prepare, preparation
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.state import load_weights
from pipeline.training.words import check_words


def read_recipe(run: Path, name: str | None, overrides: Sequence[str]) -> Recipe:
    """The settings of a model.

    Args:
        run: the run that trained it.
        name: a recipe by name or path, for a model that was not trained here; None: the run's ``config.yaml``.
        overrides: as for :func:`load_recipe`.

    Raises:
        InputError: there is neither.
    """
    if run.is_file():
        raise InputError(f"--run {run}: this is a file; give the run's folder, and a checkpoint with --checkpoint")
    settings = run / "config.yaml"
    if name is None and not settings.is_file():
        raise InputError(
            f"there is no run {run}; train one with: python -m pipeline.train --run {run} ... or give --recipe and "
            "--checkpoint"
        )
    return load_recipe(name or str(settings), overrides)


def note_stand_ins(recipe: Recipe, shards: Path) -> None:
    """Marks a recipe as ``seeded`` where the shards were extracted with stand-ins for published backbones."""
    provenance = read_provenance(shards)
    recipe.seeded = recipe.seeded or bool(provenance and provenance["seeded"])


def best_checkpoint(run: Path) -> Path:
    """A run's best checkpoint, else its last; raises :class:`InputError` where there is none.

    Where a best one was noted but cannot be told or found any more, that is said.
    """
    checkpoints = Checkpoints(run / "checkpoints")
    # in this order: a training may note a better one, and remove the one before it, at any time
    steps, best = checkpoints.steps(), checkpoints.best()
    if not steps:
        raise InputError(f"{run} has no checkpoint yet; train with: python -m pipeline.train --run {run} ...")
    if best is not None and checkpoints.path(best[0]).is_file():
        return checkpoints.path(best[0])
    last, noted = checkpoints.path(steps[-1]), checkpoints.folder / "best.json"
    if noted.exists():
        what = "names no checkpoint" if best is None else f"names step {best[0]:,}, which is not there"
        warn(f"{noted} {what}: taking the last checkpoint, {last.name}")
    return last


class Trained(NamedTuple):
    """A trained network and what it takes to feed it from some shards."""

    model: Network
    prepare: Prepare
    words: Vocabulary
    checkpoint: Path
    """Which the weights are of."""


def load_trained(
    settings: ModelSettings, checkpoint: Path, shards: Path, words: Vocabulary | None = None, run: Path | None = None
) -> Trained:
    """A network with a checkpoint's weights, on the GPU where there is one.

    Args:
        settings: of the network.
        checkpoint: of this program or a published one.
        shards: the folder of shards that it is to look at.
        words: what word ids stand for; None: the shards' own.
        run: the run that the checkpoint was chosen of: if its training has removed it since, the best that is there now
            is taken; None: no other will do.

    Raises:
        InputError: the checkpoint is of another network or of other word vectors, or the shards are too wide or narrow
            for it.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.allow_tf32 = False  # what is trained in float32 is looked at in float32
    words = words if words is not None else load_vocabulary(shards / "words.parquet")
    check_words(checkpoint, words, shards)
    prepare = preparation(shards, words, settings, device)
    model = build_model(settings)
    checkpoint = _load(model, checkpoint, run)
    return Trained(model.to(device), prepare, words, checkpoint)


def _load(model: Network, checkpoint: Path, run: Path | None) -> Path:
    """Loads a checkpoint's weights, or those of what took its place in the run; gives its path."""
    while True:
        try:
            load_weights(model, checkpoint)
            return checkpoint
        except InputError:
            if run is None or checkpoint.exists():
                raise
            gone, checkpoint = checkpoint, best_checkpoint(run)
            warn(f"{gone.name} is not there any more, as its run is being trained: taking {checkpoint.name}")


def words_for(texts: Sequence[str], shards: Path, source: str) -> Vocabulary:
    """The vocabulary for texts that the shards' captions need not contain, such as names of classes.

    Args:
        texts: all of them.
        shards: the folder of shards, whose own vocabulary serves where it is of the source's kind and has every word.
        source: what the model was trained on, as in ``extract.words``; looked into where it doesn't.

    Raises:
        InputError: a text has no word with a vector.
    """
    words = load_vocabulary(shards / "words.parquet")
    if source != "corpus" and not _serves(words, texts, source):
        words = build_vocabulary(source, texts)
    for text in texts:
        if not len(words.ids(text)):
            hint = ""
            if source == "corpus":
                hint = (
                    ", the words of these shards' captions; if the run was trained on other shards, name theirs: "
                    "--extract.words shards/<name>/words.parquet"
                )
            raise InputError(
                f"a text without words cannot be compared: no word of {text!r} has a vector in {source}{hint}"
            )
    return words


def _serves(words: Vocabulary, texts: Sequence[str], source: str) -> bool:
    if not isinstance(words, WordVectors):
        return source == clip_vocabulary.NAME
    known = set(words.words)
    return source != clip_vocabulary.NAME and all(word in known for text in texts for word in tokenize(text))
