"""Reading checkpoint files of any origin without running what is in them."""

from __future__ import annotations

import collections
import os
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import torch
import yaml
from torch import Tensor

from pipeline.errors import InputError

_ZIP = b"PK\3\4"
_SEAL = b"crc32:"
_SEAL_BYTES = len(_SEAL) + 8
_BLOCK = 1 << 22

_STATE_DICT_KEYS = ("state_dict", "net", "model")
"""Where programs keep the weights: MFT's, AVLnet's ``amp_checkpoint.pt``, this package's."""

_HARMLESS = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    ("builtins", "set"): set,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    **{
        ("torch._utils", name): getattr(torch._utils, name)
        for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
    },
}


def read_checkpoint(path: str | Path) -> Any:
    """What a checkpoint file holds, on the CPU.

    ``torch.load(weights_only=True)`` reads it; where a file holds more than that allows (released ones carry their
    program's settings), a restricted unpickler does: it knows tensors and plain containers, and everything else it
    replaces by an inert stand-in, so that nothing of the file is ever run. Checksums are looked at where the file has
    them; then large files are mapped, not read: the tensors come from the disk when they are first touched.

    Raises:
        InputError: there is no such file, or it is damaged or no checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such checkpoint file")
    try:
        with path.open("rb") as file:
            mapped = file.read(len(_ZIP)) == _ZIP  # by this torch goes, too; Python's own test looks at more
        if mapped:
            check_records(path)
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError:
            # Not weights_only, and no less safe: the unpickler below decides what may be built.
            return torch.load(path, map_location="cpu", weights_only=False, mmap=mapped, pickle_module=_RESTRICTED)
    except Exception as error:  # a damaged pickle may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split()).split(". ")[0][:200]
        raise InputError(
            f"{path}: damaged, or no checkpoint ({reason}); download or copy it again, or take another one"
        ) from None


def seal(path: Path) -> None:
    """Writes a checksum of all of a file of ``torch.save`` into the comment that such a file may end with."""
    with path.open("rb+") as file:
        file.seek(-2, os.SEEK_END)
        if file.read() != b"\0\0":
            raise ValueError(f"{path}: there is a comment already")
        file.seek(-2, os.SEEK_END)
        file.write(_SEAL_BYTES.to_bytes(2, "little"))
        file.write(_SEAL + b"%08x" % _crc32(file, file.tell()))


def check_records(path: Path) -> None:
    """Holds a file of ``torch.save`` against its checksums: that of :func:`seal`, else those of its records.

    Raises:
        BadZipFile: it is damaged, or no such file.
    """
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END) - _SEAL_BYTES
        file.seek(max(end, 0))
        comment = file.read()
        if comment.startswith(_SEAL):
            if comment != _SEAL + b"%08x" % _crc32(file, end):
                raise zipfile.BadZipFile("it does not have its checksum")
            return
    with zipfile.ZipFile(path) as records:
        damaged = records.testzip()
        # torch would take such a record for a folder and leave its memory as it was
        odd = (record.filename for record in records.infolist() if record.external_attr & 0x10 or record.is_dir())
        damaged = damaged or next(odd, None)
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} does not have its checksum")


def _crc32(file: BinaryIO, end: int) -> int:
    """Of the file's bytes before ``end``; it is left there."""
    file.seek(0)
    checksum = 0
    while at_most := min(_BLOCK, end - file.tell()):
        checksum = zlib.crc32(file.read(at_most), checksum)
    return checksum


def find_state_dict(checkpoint: Any, where: str) -> dict[str, Tensor]:
    """The weights in a checkpoint by name, without the ``module.`` that data parallelism puts before names.

    Raises:
        InputError: there are none.
    """
    for key in _STATE_DICT_KEYS:
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        raise InputError(f"{where}: holds no weights by name")
    strange = [n for n, value in checkpoint.items() if not (isinstance(value, Tensor) and isinstance(n, str))]
    if strange:
        raise InputError(f"{where}: {strange[0]!r} is no tensor by name, so this is no model's state dict")
    prefixed = all(name.startswith("module.") for name in checkpoint)
    return {name.removeprefix("module.") if prefixed else name: value for name, value in checkpoint.items()}


def published_config(checkpoint: Any, path: Path | None) -> dict[str, Any]:
    """The ``arch`` section of the settings that MFT's program wrote: inside the checkpoint, else beside it.

    Returns:
        ``{"type": ..., "args": {...}}``, or nothing where there are no such settings.

    Raises:
        InputError: the file beside it is not valid YAML.
    """
    arch = _arch(checkpoint.get("config")) if isinstance(checkpoint, Mapping) else {}
    beside = path.parent / "config.yaml" if path is not None and not arch else None
    if beside is None or not beside.is_file():
        return arch
    try:
        return _arch(yaml.safe_load(beside.read_text()))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{beside}: not valid YAML: {' '.join(str(error).split())}") from None


def _arch(config: Any) -> dict[str, Any]:
    arch = config.get("arch") if isinstance(config, Mapping) else None
    return dict(arch) if isinstance(arch, Mapping) else {}


class _StandIn:
    """Takes the place of an object that is not needed; accepts whatever its pickle does to it."""

    def __new__(cls, *arguments: Any, **keywords: Any) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **keywords: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None:
        """Swallows a list's item."""

    def extend(self, values: Any) -> None:
        """Swallows a list's items."""


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = _HARMLESS.get((module, name))
        if known is not None:
            return known
        value = getattr(torch, name, None) if module == "torch" else None
        return value if isinstance(value, torch.dtype) else _StandIn


def _restricted_load(file: Any, **options: Any) -> Any:
    return _RestrictedUnpickler(file, **options).load()


_RESTRICTED = SimpleNamespace(Unpickler=_RestrictedUnpickler, load=_restricted_load, __name__="restricted pickle")
"""What ``torch.load`` asks of a pickle module."""
