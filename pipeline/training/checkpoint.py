"""Checkpoints on disk: written beside and renamed, checked before they are read, the last few and the best kept."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import InputError
from pipeline.models.checkpoints import check_records, seal
from pipeline.replacing import replace_file

State = dict[str, Any]
"""Tensors, numbers, strings and containers of them: what ``torch.load(weights_only=True)`` reads."""

_NAME = re.compile(r"step-(\d+)\.pt")


class DamagedError(InputError):
    """A checkpoint's bytes are not those that were written."""


class Checkpoints:
    """The checkpoints of one run, ``step-00001000.pt`` and so on, and ``best.json``, which names the best."""

    def __init__(self, folder: Path, keep: int = 3) -> None:
        """Keeps the newest ``keep`` checkpoints, and the best one however old."""
        self.folder = folder
        self.keep = keep

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.folder / f"step-{step:08d}.pt"

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, in order."""
        matches = (_NAME.fullmatch(path.name) for path in self.folder.glob("step-*.pt"))
        return sorted(int(match[1]) for match in matches if match)

    def best(self) -> tuple[int, float] | None:
        """Step and score of the best checkpoint, if any was scored."""
        try:
            best = json.loads((self.folder / "best.json").read_text())
            return int(best["step"]), float(best["score"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def save(self, step: int, state: State, score: float | None = None) -> Path:
        """Writes a checkpoint; whoever reads sees all of it or nothing.

        Args:
            step: steps done.
            state: what a resumed run needs.
            score: higher is better; None: it does not compete for the best.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(step)
        replace_file(path, lambda part: _save({**state, "score": score}, part))
        self._note_score(step, score)
        self._prune()
        return path

    def _note_score(self, step: int, score: float | None) -> None:
        best = self.best()
        if score is not None and (best is None or score >= best[1] or not self.path(best[0]).exists()):
            text = json.dumps({"step": step, "score": score})
            replace_file(self.folder / "best.json", lambda part: part.write_text(text))

    def last(self, warn: Callable[[str], None]) -> tuple[Path, State] | None:
        """The newest checkpoint that is whole; damaged ones are put aside and ``warn`` is told of each.

        Raises:
            InputError: there are checkpoints, but none is whole; or memory ran out.
        """
        steps = self.steps()
        for step in reversed(steps):
            path = self.path(step)
            try:
                state = read_checkpoint(path)
                self._note_score(step, state.get("score"))  # where a kill came between the two files
                return path, state
            except DamagedError as error:
                path.rename(path.with_name(path.name + ".damaged"))
                best = self.best()
                if best is not None and best[0] == step:
                    self._choose_best(self.steps())
                warn(f"{error}; put aside as {path.name}.damaged, going on from the one before it")
        if steps or any(self.folder.glob("step-*.pt.damaged")):
            raise InputError(f"all checkpoints in {self.folder} are damaged: remove the folder to train from the start")
        return None

    def remove_after(self, step: int) -> list[int]:
        """Removes the checkpoints of later steps, and gives their steps."""
        later = [other for other in self.steps() if other > step]
        best = self.best()
        if best is not None and best[0] > step:
            # first, as a checkpoint of the same step, with another score, may come in the place of the best one
            self._choose_best([other for other in self.steps() if other <= step])
        for other in later:
            self.path(other).unlink()
        return later

    def _choose_best(self, steps: Sequence[int]) -> None:
        """The best of these steps' checkpoints, by the scores in them, is the best; none where none has a score."""
        scored = [(score, step) for step in steps if (score := _score(self.path(step))) is not None]
        if not scored:
            (self.folder / "best.json").unlink(missing_ok=True)
            return
        score, step = max(scored)
        replace_file(
            self.folder / "best.json", lambda part: part.write_text(json.dumps({"step": step, "score": score}))
        )

    def went_back_to(self, path: Path) -> bool:
        """Whether the run has already gone back to a checkpoint, and has some since: so a repeated command goes on."""
        try:
            noted = json.loads((self.folder / "went-back.json").read_text())["checkpoint"]
        except FileNotFoundError:
            return False
        # an absolute path was noted of any checkpoint once
        return bool(self.steps()) and noted in (self._noted(path), str(path.absolute()))

    def _noted(self, path: Path) -> str:
        """How a checkpoint is noted: one of the run's own by its name, since the run's folder may be moved."""
        path = path.resolve()
        return path.name if path.parent == self.folder.resolve() else str(path)

    def go_back(self, path: Path, step: int) -> list[int]:
        """Removes what is later than a step, whose checkpoint is in a file; gives the steps that were removed."""
        removed = self.remove_after(step)
        self.folder.mkdir(parents=True, exist_ok=True)
        noted = json.dumps({"checkpoint": self._noted(path)})
        replace_file(self.folder / "went-back.json", lambda part: part.write_text(noted))
        return removed

    def remove_parts(self) -> None:
        """Removes what a killed process had not written to the end; only for who has the run to itself."""
        for part in self.folder.glob("*.part"):
            part.unlink()

    def _prune(self) -> None:
        best = self.best()
        for step in self.steps()[: -self.keep]:
            if best is None or step != best[0]:
                self.path(step).unlink()


def read_checkpoint(path: Path) -> State:
    """A checkpoint's content, on the CPU; each record is held against the checksum that torch stored with it.

    Raises:
        DamagedError: the file is damaged.
        InputError: it is missing, or not a checkpoint of this program, or memory ran out.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}")
    try:
        check_records(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} is not a checkpoint of this program ({_first_sentence(error)})") from None
    except Exception as error:  # reading what is damaged may raise anything
        if isinstance(error, MemoryError) or "alloc" in str(error):
            raise InputError(f"not enough memory for checkpoint {path} ({path.stat().st_size / 1e9:.1f} GB)") from None
        if isinstance(error, OSError) and error.errno not in (errno.EIO, errno.EINVAL):
            raise
        raise DamagedError(f"checkpoint {path} is damaged ({_first_sentence(error)})") from None
    if not isinstance(state, dict) or "model" not in state:
        raise InputError(f"{path} is not a checkpoint of this program: it holds no model")
    return state


def _score(path: Path) -> float | None:
    """The score in a checkpoint, whose weights stay on the disk; None: it has none, or is damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # reading what is damaged may raise anything
        return None
    score = state.get("score") if isinstance(state, dict) else None
    return None if score is None else float(score)


def _save(state: State, path: Path) -> None:
    try:
        torch.save(state, path)
        seal(path)
    except RuntimeError as error:
        if "unexpected pos" in str(error):  # how torch says that less was written than it gave
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def _first_sentence(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
