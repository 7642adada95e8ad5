"""UCF-101 (Soomro, Zamir and Shah, 2012): clips of 101 human actions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pipeline.datasets.files import existing, read_lines
from pipeline.datasets.identity import id_of_name
from pipeline.errors import InputError
from pipeline.types import Video

SOURCE = "UCF-101's action recognition splits (UCF101TrainTestSplits-RecognitionTask.zip)"


def read_ucf101(folder: Path | str, fold: int = 1) -> Iterator[Video]:
    """One row per clip; its class is ``category_1``, its URL the clip's place below the folder ``UCF-101``.

    Args:
        folder: the unpacked ``ucfTrainTestlist``, with ``testlist01.txt`` and ``trainlist01.txt``.
        fold: which of the three divisions into training and test clips.

    Raises:
        InputError: a file is missing or of another layout.
    """
    folder = existing(folder, SOURCE)
    for split in ("test", "train"):
        path = folder / f"{split}list{fold:02d}.txt"
        for number, line in enumerate(read_lines(path, SOURCE), start=1):
            # a training clip is followed by its class's number
            place = PurePosixPath(line.split()[0])
            if len(place.parts) != 2 or not place.suffix:
                raise InputError(f"{path}: line {number}: {line!r} is not <class>/<clip>.avi")
            yield Video(id_of_name(place.stem), str(place), split=split, category_1=_class_of(place))


def _class_of(place: PurePosixPath) -> str:
    """The folder's name, with the capitals of the clip's: ``v_HandStandPushups_g01_c01`` is in ``HandstandPushups``.

    MCN's program takes classes, whose words capitals tell apart, from the names of clips.
    """
    name = place.stem.split("_")
    folder = place.parts[0]
    return name[1] if len(name) > 1 and name[1].lower() == folder.lower() else folder
