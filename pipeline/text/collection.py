"""Published word vectors by name: the collection of gensim-data, fetched on first use.

The files lie where gensim looks for them, ``GENSIM_DATA_DIR`` or ``~/gensim-data``, so that neither fetches again what
the other has. gensim itself is not needed, which has no release for every Python.
"""

from __future__ import annotations

import hashlib
import os
import time
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import requests
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from pipeline.cli import console
from pipeline.errors import InputError
from pipeline.replacing import sync_file, sync_folder

LIST = "https://raw.githubusercontent.com/RaRe-Technologies/gensim-data/master/list.json"
"""What there is, with checksums."""
RELEASES = "https://github.com/RaRe-Technologies/gensim-data/releases/download"
_ELSE = (
    "name a file (GoogleNews-vectors-negative300.bin.gz), or 'corpus' to train them on the captions: extract "
    "--extract.words, convert --words"
)
_ATTEMPTS = 5
_SECONDS_BETWEEN = 2.0
_TIMEOUT = 30.0
_PIECE = 1 << 16


def collection_file(name: str) -> Path:
    """The file of a name in the collection, such as ``word2vec-google-news-300``.

    What a broken connection or a killed process leaves is continued, and the whole is compared with its checksum.

    Raises:
        InputError: no such name, or it cannot be fetched.
    """
    folder = Path(os.environ.get("GENSIM_DATA_DIR") or Path.home() / "gensim-data") / name
    local = folder / f"{name}.gz"
    if local.is_file():
        return local
    url = f"{RELEASES}/{name}/{name}.gz"
    try:
        models: dict[str, Any] = _get(LIST).json()["models"]
        if name in models:
            folder.mkdir(parents=True, exist_ok=True)
            _fetch(url, local, models[name]["checksum"])
    except (ValueError, KeyError, OSError) as error:  # the errors of requests are OSErrors
        unreached = isinstance(error, requests.ConnectionError | requests.Timeout)
        reason = "the network does not reach it" if unreached else " ".join(str(error).split())[:300]
        raise InputError(
            f"word vectors {name} are neither a file, nor at {local}, nor could they be fetched ({reason}): put {url} "
            f"there, or {_ELSE}"
        ) from None
    if name not in models:
        near = ", ".join(get_close_matches(name, models, 3)) or "none"
        raise InputError(
            f"word vectors {name}: no such file, and no such name in the collection (near it: {near}): {_ELSE}"
        )
    return local


def _fetch(url: str, target: Path, checksum: str) -> None:
    """Fetches a file, from where an earlier try got to; ``checksum`` is its MD5 in hexadecimal digits."""
    part = target.with_name(f".{target.name}.part")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console.print(f"words: fetching {url} → {target}", soft_wrap=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        bar = progress.add_task(target.name, total=None)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _continue(url, part, progress, bar)
                break
            except requests.RequestException as error:
                refused = error.response is not None and error.response.status_code < 500
                if refused or attempt == _ATTEMPTS:
                    raise
                time.sleep(_SECONDS_BETWEEN)
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != checksum:
        part.unlink()
        raise ValueError(
            f"{url} came damaged: its checksum is {found} and not {checksum}; the next run fetches it anew"
        )
    sync_file(part)
    part.replace(target)
    sync_folder(target.parent)


def _continue(url: str, part: Path, progress: Progress, bar: Any) -> None:
    """Appends what is missing; begins anew where the server gives no ranges."""
    have = part.stat().st_size if part.exists() else 0
    with _get(url, start=have) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # there is nothing beyond what is here
        have = have if response.status_code == requests.codes.partial_content else 0
        length = response.headers.get("Content-Length")
        progress.update(bar, completed=have, total=None if length is None else have + int(length))
        with part.open("ab" if have else "wb") as file:
            for piece in response.iter_content(_PIECE):
                file.write(piece)
                progress.advance(bar, len(piece))


def _get(url: str, start: int = 0) -> requests.Response:
    ranges = {"Range": f"bytes={start}-"} if start else {}
    response = requests.get(url, headers=ranges, stream=True, timeout=_TIMEOUT)
    if not (start and response.status_code == requests.codes.requested_range_not_satisfiable):
        response.raise_for_status()
    return response
