"""Trees of one file per video and modality, as the published programs of MCN, MFT and AVLnet read them.

``<path>/<id>_2d.npz`` and ``_3d.npz`` with ``features [time, width]``, ``_spec.npz`` with ``arr_0 [40, frames]``; of
CrossTask and MiningYouTube ``<id>_2d.npy`` and ``_3d.npy``, and sound as ``<id>.npz`` in a folder of its own; MFT's S3D
features are ``<id>.npz`` too; a CSV with the column ``path``, whose last part is the id; ``caption.pickle``, a
dictionary of ``start``, ``end`` and ``text`` lists by id. Also HowTo100M's ``<id>.npy``, one array per video.
"""

from __future__ import annotations

import csv
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.generic import captions_of
from pipeline.datasets.jsonfile import LargeObject
from pipeline.errors import InputError
from pipeline.replacing import replace_file
from pipeline.shards.foreign.features import MEL_BANDS, Foreign, time_first
from pipeline.shards.foreign.unpickle import read_arrays
from pipeline.shards.reader import ShardSet
from pipeline.shards.sample import to_decibels
from pipeline.types import Caption, Modality

_SUFFIXES: dict[str, Modality] = {
    "_2d.npz": "2d", "_3d.npz": "3d", "_spec.npz": "audio", "_2d.npy": "2d", "_3d.npy": "3d", ".npz": "3d"
}  # fmt: skip
"""The first that fits counts."""
_ENDINGS: dict[Modality, tuple[str, str]] = {
    "2d": ("_2d.npz", "features"),
    "3d": ("_3d.npz", "features"),
    "audio": ("_spec.npz", "arr_0"),
}

CaptionSource = Callable[[str], "list[Caption] | None"]
"""A video's captions by its id; raises ValueError where they are no captions, with a message that names the video."""


def read_captions(path: Path | None) -> CaptionSource:
    """Captions by video id, from ``caption.pickle`` or ``caption.json``; None: no video has any.

    Raises:
        InputError: the file is not there, or not such a dictionary.
    """
    if path is None:
        return lambda video_id: None
    source: Any = LargeObject(path) if path.suffix == ".json" else read_arrays(path)
    if not isinstance(source, LargeObject) and not isinstance(source, Mapping):
        raise InputError(f"{path}: not captions by video id but a {type(source).__name__}")

    def captions(video_id: str) -> list[Caption] | None:
        try:
            return captions_of(source.get(video_id))
        except Exception as error:  # whatever may stand in the place of lists of numbers and texts
            raise ValueError(
                f"{path}: the captions of {video_id} are left out: not lists of start, end and text ({_reason(error)})"
            ) from None

    return captions


def texts_of(video_ids: Iterable[str], captions: CaptionSource) -> Iterator[str]:
    """The texts of all captions of some videos, but for captions that cannot be read."""
    for video_id in video_ids:
        try:
            spoken = captions(video_id) or []
        except ValueError:
            continue  # said when the video itself is read
        yield from (caption.text for caption in spoken)


def _reason(error: Exception) -> str:
    """What went wrong, on one line; some errors have no message, and some only a key for one."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def read_tree(
    folders: list[Path],
    captions: CaptionSource,
    split: str,
    npy: Modality | None,
    refused: Callable[[str], None],
    skip: Callable[[str], bool] = lambda video_id: False,
) -> Iterator[Foreign]:
    """The videos of one or several trees, by id.

    Args:
        folders: where the files are, at any depth.
        captions: see :func:`read_captions`.
        split: what the videos are for.
        npy: the modality of ``<id>.npy`` files; None: there are none.
        refused: told of each file, and of each video's captions, that cannot be read; the video comes without.
        skip: videos that are not wanted.

    Raises:
        InputError: see :func:`find_files`.
    """
    files = find_files(folders, npy)
    for video_id in sorted(files):
        if skip(video_id):
            continue
        arrays: dict[Modality, NDArray[Any]] = {}
        for modality, path in files[video_id].items():
            try:
                arrays[modality] = time_first(modality, _load(path))
            except Exception as error:  # damage comes as zlib's, zipfile's, tokenize's and NumPy's errors, and others
                refused(f"{path}: left out: {_reason(error)}")
        if arrays:
            spoken = _captions(video_id, captions, refused)
            yield Foreign(video_id, arrays, spoken, split=split, origin=str(folders[0].name))


def _captions(video_id: str, captions: CaptionSource, refused: Callable[[str], None]) -> list[Caption]:
    try:
        return captions(video_id) or []
    except ValueError as error:
        refused(str(error))
        return []


def find_files(folders: list[Path], npy: Modality | None) -> dict[str, dict[Modality, Path]]:
    """The files of each video and modality.

    Raises:
        InputError: a folder is not there, or there is no such file at all.
    """
    files: dict[str, dict[Modality, Path]] = {}
    modality_below: dict[Path, Modality] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder of features")
        for path in sorted(folder.rglob("*.np[yz]")):
            suffix = next((suffix for suffix in _SUFFIXES if path.name.endswith(suffix)), None)
            if suffix is not None:
                modality = _SUFFIXES[suffix]
                if suffix == ".npz":
                    # looking into each of a million files would take as long as reading them
                    top = folder.joinpath(*path.relative_to(folder).parts[:-1][:1])
                    if top not in modality_below:
                        modality_below[top] = "audio" if _is_spectrogram(path) else modality
                    modality = modality_below[top]
                files.setdefault(path.name.removesuffix(suffix), {}).setdefault(modality, path)
            elif npy is not None and path.suffix == ".npy":
                # HowTo100M's are named after the video's file: <id>.mp4.npy
                files.setdefault(path.name.partition(".")[0], {}).setdefault(npy, path)
    if not files:
        names = ", ".join(f"<id>{suffix}" for suffix in (*_SUFFIXES, *([".npy"] if npy else [])))
        raise InputError(f"{', '.join(map(str, folders))}: holds no {names}")
    return files


def _is_spectrogram(path: Path) -> bool:
    """Whether a file ``<id>.npz`` is of sound: nothing in its name tells, and those of a tree are alike."""
    try:
        with np.load(path, allow_pickle=False) as loaded:
            return loaded.files == ["arr_0"] and loaded["arr_0"].ndim == 2 and len(loaded["arr_0"]) == MEL_BANDS
    except Exception:  # damage is told as the file is read
        return False


def _load(path: Path) -> NDArray[Any]:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        if len(loaded.files) != 1:
            raise ValueError(f"holds {len(loaded.files)} arrays, not one")
        return np.asarray(loaded[loaded.files[0]])


def write_tree(
    shards: ShardSet, folder: Path, progress: Callable[[], None] = lambda: None
) -> tuple[dict[str, int], list[str]]:
    """Writes a tree that the published programs read, with ``<split>.csv`` and ``caption.pickle``.

    Those programs need all three modalities and a caption of a video: the lists have only the videos that have them.
    Files that are there stay, so that it can be stopped and started again.

    Returns:
        how many videos each list has, and the videos in no list.
    """
    lists: dict[str, list[str]] = {}
    incomplete: list[str] = []
    captions: dict[str, dict[str, list[Any]]] = {}
    for video_id in shards.ids:
        sample = shards.read(video_id, arrays=False)
        modalities = set(shards.row(shards.number(video_id)).members)
        place = folder / video_id
        missing = [name for name, (suffix, _) in _ENDINGS.items() if not (place / f"{video_id}{suffix}").exists()]
        if modalities.intersection(missing):
            place.mkdir(parents=True, exist_ok=True)
            arrays = shards.read(video_id, check=True).arrays
            for modality in missing:
                if modality in arrays:
                    suffix, name = _ENDINGS[modality]
                    array = to_decibels(arrays[modality]).T if modality == "audio" else arrays[modality]
                    _replace(place / f"{video_id}{suffix}", partial(_write_array, name, array))
        captions[video_id] = {
            "start": [caption.start for caption in sample.captions],
            "end": [caption.end for caption in sample.captions],
            "text": [caption.text for caption in sample.captions],
        }
        if modalities.issuperset(_ENDINGS) and sample.captions:
            lists.setdefault(sample.split, []).append(video_id)
        else:
            incomplete.append(video_id)
        progress()
    _replace(folder / "caption.pickle", partial(pickle.dump, captions))
    for split, videos in lists.items():
        _replace(folder / f"{split}.csv", partial(_write_list, videos))
    return {split: len(videos) for split, videos in lists.items()}, incomplete


def _write_array(name: str, array: NDArray[Any], file: BinaryIO) -> None:
    np.savez(file, **{name: array})  # type: ignore[arg-type]


def _write_list(videos: list[str], file: BinaryIO) -> None:
    lines = ["path", *videos]
    file.write("".join(f"{line}\n" for line in lines).encode())


def _replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    def opened(part: Path) -> None:
        with part.open("wb") as file:
            write(file)

    replace_file(path, opened)


def read_list(path: Path, refused: Callable[[str], None] = lambda message: None) -> set[str]:
    """The ids in a CSV of the published programs (column ``video_id``, else the last part of ``path``).

    Args:
        path: the CSV.
        refused: told of each row that ends before the column.

    Raises:
        InputError: it is not there, is no text, or has no such column.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such list")
    found: set[str] = set()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets put a mark before the first column
            rows = csv.DictReader(file)
            column = next((name for name in ("video_id", "path") if name in (rows.fieldnames or ())), None)
            if column is None:
                raise InputError(f"{path}: has neither a column video_id nor path")
            for row in rows:
                if row[column]:
                    found.add(row[column].rsplit("/", 1)[-1])
                else:
                    refused(f"{path}: line {rows.line_num} is left out: it has no {column}")
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file of UTF-8 text ({error}); save the list as one") from None
    return found
