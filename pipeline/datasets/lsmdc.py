"""LSMDC 2016 (Rohrbach et al., IJCV 2017): clips of films with a sentence each.

The clips are handed out by the authors on request, not on YouTube: they come from a local folder or a mirror.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.datasets.files import read_cells
from pipeline.datasets.identity import LONGEST_ID
from pipeline.errors import InputError
from pipeline.types import Caption, Video

SOURCE = "LSMDC 2016 (LSMDC16_annos_training.csv, LSMDC16_annos_val.csv, LSMDC16_challenge_1000_publictect.csv)"
_TIMES = re.compile(r"_(\d\d\.\d\d\.\d\d\.\d{3})-(\d\d\.\d\d\.\d\d\.\d{3})$")


def read_lsmdc(lists: Mapping[str, Path | str]) -> Iterator[Video]:
    """One row per clip, with all its sentences: the lists name a clip once for each.

    Its URL is the clip's place below the folder of films, ``<film>/<clip>.avi``.

    Ids are the clips' names without the dots in their times; of a film with a long name what is too much is left out,
    as its number at the front tells it apart.

    Args:
        lists: by split (``train``, ``validation``, ``test``), the tab-separated list: name, start and end as aligned,
            start and end as cut out, sentence.

    Raises:
        InputError: a file is missing or of another layout.
    """
    for split, path in lists.items():
        clips: dict[str, Video] = {}
        for line, (name, *_, sentence) in read_cells(path, SOURCE, 6, delimiter="\t"):
            times = _TIMES.search(name)
            if times is None:
                raise InputError(f"{path}: line {line}: {name!r} is not <film>_<start>-<end>")
            film = name[: times.start()]
            length = _clock(times[2]) - _clock(times[1])
            clock = times[0].replace(".", "")
            video_id = film.replace(".", "")[: LONGEST_ID - len(clock)] + clock
            clip = clips.setdefault(name, Video(video_id, f"{film}/{name}.avi", split, film, captions=[]))
            assert clip.captions is not None
            clip.captions.append(Caption(0.0, max(length, 0.0), sentence.strip()))
        yield from clips.values()


def _clock(text: str) -> float:
    """Seconds of ``hours.minutes.seconds.milliseconds``."""
    hours, minutes, whole, thousandths = text.split(".")
    return int(hours) * 3600 + int(minutes) * 60 + int(whole) + int(thousandths) / 1000
