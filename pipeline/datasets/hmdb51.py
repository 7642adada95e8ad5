"""HMDB-51 (Kuehne et al., ICCV 2011): clips of films and the web that show 51 human actions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pipeline.datasets.files import existing, read_lines
from pipeline.datasets.identity import id_of_name
from pipeline.errors import InputError
from pipeline.types import Video

SOURCE = "HMDB-51's splits (test_train_splits.rar)"
SPLITS = {"0": "unused", "1": "train", "2": "test"}
"""What the number behind a clip says."""


def read_hmdb51(folder: Path | str, fold: int = 1) -> Iterator[Video]:
    """One row per clip; its class is ``category_1``, its URL ``<class>/<clip>.avi``, as in the authors' archives.

    Names with characters that an id cannot have, and those that are too long, get ids that tell them apart.

    Args:
        folder: the unpacked ``testTrainMulti_7030_splits``, with ``<class>_test_split1.txt`` for each class.
        fold: which of the three divisions into training and test clips.

    Raises:
        InputError: there is no such file, or one is of another layout.
    """
    folder = existing(folder, SOURCE)
    ending = f"_test_split{fold}.txt"
    lists = sorted(folder.glob(f"*{ending}"))
    if not lists:
        raise InputError(f"{folder}: no <class>{ending} is in it; they come with {SOURCE}")
    for path in lists:
        name = path.name.removesuffix(ending)
        for number, line in enumerate(read_lines(path, SOURCE), start=1):
            clip, _, use = line.rpartition(" ")
            if use not in SPLITS or not clip.strip():
                raise InputError(f"{path}: line {number}: {line!r} is not a clip and 0, 1 or 2")
            place = PurePosixPath(name, clip.strip())
            yield Video(id_of_name(place.stem), str(place), split=SPLITS[use], category_1=name)
