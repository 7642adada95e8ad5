"""Where the files of a video are: ``videos/<first two characters>/<video_id>.<ext>`` and captions beside."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

MEDIA_ENDINGS = ("mp4", "webm", "mkv", "mov", "m4v", "avi", "flv", "3gp", "ts", "mpg", "mpeg", "ogv", "wmv")
"""Kinds of file that count as a video, in the order in which they are looked for."""
CAPTION_ENDINGS = ("json3", "vtt")


def video_folder(folder: Path | str, video_id: str) -> Path:
    """The folder of one video's files; two characters keep folders small with a million videos."""
    return Path(folder) / video_id[:2]


def video_path(folder: Path | str, video_id: str, ending: str) -> Path:
    """Where a video goes once it is complete."""
    return video_folder(folder, video_id) / f"{video_id}.{ending}"


def incoming_path(folder: Path | str, video_id: str, ending: str) -> Path:
    """Where a video is while it comes in and is checked."""
    return video_folder(folder, video_id) / f"{_incoming_stem(video_id)}.{ending}"


def lock_path(folder: Path | str, video_id: str) -> Path:
    """The file that is locked by who fetches the video."""
    return video_folder(folder, video_id) / f".{video_id}~lock"


def find_video(folder: Path | str, video_id: str) -> Path | None:
    """A video's complete file, None where there is none."""
    candidates = (video_path(folder, video_id, ending) for ending in MEDIA_ENDINGS)
    return next((path for path in candidates if path.is_file()), None)


def videos_in(folder: Path | str) -> set[str]:
    """The ids of all complete files, from one listing of each folder."""
    found: set[str] = set()
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as places:
        for place in places:
            if place.is_dir():
                with os.scandir(place.path) as files:
                    names = (file.name.rpartition(".") for file in files if not file.name.startswith("."))
                    found.update(stem for stem, _, ending in names if ending in MEDIA_ENDINGS)
    return found


def find_captions(folder: Path | str, video_id: str) -> Path | None:
    """A video's captions (``<video_id>.<lang>.json3`` or ``.vtt``), None where there are none."""
    return next((path for ending in CAPTION_ENDINGS for path in _captions(folder, video_id, ending)), None)


def unfinished_files(folder: Path | str, video_id: str) -> list[Path]:
    """What an interrupted download left: partial files and those not yet checked."""
    return sorted(video_folder(folder, video_id).glob(f"{_incoming_stem(video_id)}.*"))


def files_of(folder: Path | str, video_id: str) -> list[Path]:
    """All that is there of a video: its file, its captions, and what is coming in."""
    media = [video_path(folder, video_id, ending) for ending in MEDIA_ENDINGS]
    captions = [path for ending in CAPTION_ENDINGS for path in _captions(folder, video_id, ending)]
    return [path for path in media if path.is_file()] + captions + unfinished_files(folder, video_id)


def owner_of(name: str) -> str | None:
    """The id of the video that a file belongs to by its name, None for a file of no video."""
    stem, _, ending = name.rpartition(".")
    if name.startswith("."):
        return name[1:].partition("~")[0] if "~" in name else None
    if ending in CAPTION_ENDINGS:
        return stem.rpartition(".")[0] or None
    return stem or None if ending in MEDIA_ENDINGS else None


def _captions(folder: Path | str, video_id: str, ending: str) -> list[Path]:
    # The language is between two dots, and an id may hold dots too: one more part than the id has.
    found = video_folder(folder, video_id).glob(f"{video_id}.*.{ending}")
    return sorted(path for path in found if path.name.count(".") == video_id.count(".") + 2)


def _incoming_stem(video_id: str) -> str:
    # no id begins with a dot or holds a tilde, so these are never the files of another video
    return f".{video_id}~"
