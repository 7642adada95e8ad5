"""Shards in an object store: the tars are there, their indexes here.

A folder whose ``remote.json`` names a URL is used like any other: a tar that it has not is read from there, by ranges.
Any store that fsspec speaks to serves (``s3://``, ``gs://``, ``https://``...); its own settings and environment say how
to get in (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``...).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Collection
from filecmp import cmp
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import yaml
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import InputError
from pipeline.replacing import replace_file, sync_file
from pipeline.shards.files import FORMAT_VERSION, ShardError, Stem, one_line, stems
from pipeline.shards.index import check_version
from pipeline.shards.provenance import read_provenance

_NAME = "remote.json"
_BESIDE = ("words.parquet", "extract.yaml")
_CHUNK = 1 << 23
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
"""By the URL's beginning: the extra of this package that installs what fsspec needs."""


class Destination(NamedTuple):
    """Where sealed shards go."""

    url: str
    remove: bool
    """Whether a tar is removed here once it is there and compared."""


def remote_url(folder: Path) -> str | None:
    """Where the tars are that a folder has not; None: nowhere.

    Raises:
        ShardError: a newer version wrote it, or it does not say where.
    """
    path = folder / _NAME
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text())
        check_version(str(values["format"]), path)
        return str(values["url"])
    except (ValueError, KeyError, TypeError):
        raise ShardError(
            f"{path}: does not say where the tars are; write it again with python -m pipeline.shards mount"
        ) from None


def filesystem(url: str) -> tuple[Any, str]:
    """The store of a URL, and the URL's path in it.

    Raises:
        InputError: there is no such kind of store, or the library that speaks to it is missing.
    """
    try:
        store, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        extra = _EXTRAS.get(url.partition("://")[0])
        raise InputError(
            f"{url}: the library that speaks to this store is not installed: "
            + (f"pip install '.[{extra}]'" if extra else one_line(error))
        ) from None
    except ValueError as error:
        raise InputError(f"{url}: {one_line(error)}") from None
    if isinstance(store, LocalFileSystem):
        store.auto_mkdir = True  # as in an object store, a place is there once something is put there
    return store, root.rstrip("/")


def mount(url: str, folder: Path) -> int:
    """Makes a folder of the shards at a URL: fetches indexes and word vectors, and leaves the tars there.

    Returns:
        how many shards.

    Raises:
        InputError: the store does not answer, or has no shards there, or others than the folder, which stays as it is.
    """
    store, root = filesystem(url)
    names = [name for name in _names(store, url, root) if name in _BESIDE or name.endswith(".parquet")]
    if not any(Stem.parse(folder / name) for name in names):
        raise InputError(f"{url}: holds no shards; put them there with python -m pipeline.shards upload")
    _check_note(folder, url)
    folder.mkdir(parents=True, exist_ok=True)
    fetched = {folder / name: folder / f"{name}.new" for name in names}
    try:
        for path, beside in fetched.items():
            _asking(url, store.get_file, f"{root}/{path.name}", str(beside))
            sync_file(beside)
            _refuse_to_replace(path, beside, url)
        for path, beside in fetched.items():
            beside.replace(path)
    finally:
        for beside in fetched.values():
            beside.unlink(missing_ok=True)
    _note(folder, url)
    return len(stems(folder, ".parquet"))


def _refuse_to_replace(path: Path, fetched: Path, url: str) -> None:
    """Indexes and word vectors that belong to tars which are here are not replaced by others."""
    stem = Stem.parse(path)
    needed = (
        stem.tar.exists() if stem is not None else path.name == "words.parquet" and bool(stems(path.parent, ".tar"))
    )
    if needed and path.is_file() and not cmp(path, fetched, shallow=False):
        raise InputError(f"{path}: shards that are here need it, and {url} has another; give another folder")


def upload(
    folder: Path,
    url: str,
    remove: bool = False,
    progress: Callable[[int], None] = lambda size: None,
    writer: str | None = None,
) -> tuple[int, int]:
    """Puts the sealed shards of a folder into a store, each tar before its index, so that an index there is whole.

    Each tar is read back and compared. What is there is left alone: it can be stopped, and run again as shards are
    sealed.

    Args:
        folder: the shards' folder.
        url: where to put them.
        remove: remove each tar here once it is there and compared; the folder reads it from there from then on.
        progress: called with the bytes of each tar that is done.
        writer: only the shards of this writer, and nothing that is beside them; None: all.

    Returns:
        how many shards were put there, and how many were there.

    Raises:
        InputError: the store does not answer, gives back something else than it got, or holds shards of other settings;
            or a tar is nowhere.
    """
    store, root = filesystem(url)
    before = set(_names(store, url, root))
    if writer is None:
        _put_beside(folder, url, before)
    if remove:
        _note(folder, url)
    put = there = 0
    for stem in stems(folder, ".parquet"):
        if stem.journal.exists() or writer not in (None, stem.writer):
            continue  # with a journal it is not sealed to the end, for which its tar is needed
        size = stem.tar.stat().st_size if stem.tar.exists() else 0
        if stem.index.name in before:
            if _asking(url, store.cat_file, f"{root}/{stem.index.name}") != stem.index.read_bytes():
                raise InputError(
                    f"{url}/{stem.index.name}: is of another shard than the one here; give another place, or remove "
                    "it there"
                )
            there += 1
        elif size:
            _asking(url, store.put_file, str(stem.tar), f"{root}/{stem.tar.name}")
            _compare(store, url, root, stem)
            _asking(url, store.put_file, str(stem.index), f"{root}/{stem.index.name}")
            put += 1
        else:
            raise InputError(f"{stem.tar}: is neither here nor at {url}; bring it back, or remove {stem.index}")
        if size and remove:
            if stem.index.name in before:
                _compare(store, url, root, stem)
            stem.tar.unlink()
        progress(size)
    return put, there


def _put_beside(folder: Path, url: str, before: Collection[str]) -> None:
    store, root = filesystem(url)
    mine, name = read_provenance(folder), "extract.yaml"
    if mine is not None and name in before:
        found = yaml.safe_load(_asking(url, store.cat_file, f"{root}/{name}"))
        if found["fingerprint"] != mine["fingerprint"]:
            raise InputError(f"{url}: holds shards of other settings ({name}); give another place")
    for name in _BESIDE:
        if (folder / name).is_file():
            _asking(url, store.put_file, str(folder / name), f"{root}/{name}")


def _names(store: Any, url: str, root: str) -> list[str]:
    try:
        return [str(path).rstrip("/").rsplit("/", 1)[-1] for path in store.ls(root, detail=False, refresh=True)]
    except FileNotFoundError:
        return []
    except Exception as error:  # each store has its own errors
        raise InputError(f"{url}: the store does not answer ({one_line(error)})") from None


def _asking(url: str, operation: Callable[..., Any], *arguments: str) -> Any:
    try:
        return operation(*arguments)
    except Exception as error:  # each store has its own errors
        raise InputError(f"{url}: {one_line(error)}; run the same command again once the store answers") from None


def _compare(store: Any, url: str, root: str, stem: Stem) -> None:
    def checksum(file: Any) -> int:
        found = 0
        while chunk := file.read(_CHUNK):
            found = zlib.crc32(chunk, found)
        return found

    with stem.tar.open("rb") as here:
        expected = checksum(here)
    try:
        with store.open(f"{root}/{stem.tar.name}", "rb", block_size=_CHUNK) as there:
            found = checksum(there)
    except Exception as error:  # each store has its own errors
        raise InputError(f"{url}/{stem.tar.name}: cannot be read back ({one_line(error)})") from None
    if found != expected:
        raise InputError(f"{url}/{stem.tar.name}: is not what was put there; remove it and run the same command again")


def _check_note(folder: Path, url: str) -> None:
    noted = remote_url(folder)
    if noted not in (None, url):
        raise InputError(f"{folder}: tars that were removed here are at {noted}; upload to the same place")


def _note(folder: Path, url: str) -> None:
    _check_note(folder, url)
    if remote_url(folder) == url:
        return
    text = json.dumps({"format": FORMAT_VERSION, "url": url}) + "\n"
    replace_file(folder / _NAME, lambda part: part.write_text(text))
