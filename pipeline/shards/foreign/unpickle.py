"""Reading pickles of arrays without running what a pickle may hold.

A pickle is a program: it may call any function of any installed module. This unpickler knows the few functions that
build NumPy arrays, torch tensors and plain containers; whatever else a file names is refused before it is touched.
"""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from pipeline.errors import InputError


class _RefusedError(pickle.UnpicklingError):
    """The pickle names something that is not admitted."""


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How Python 2 wrote bytes."""
    if encoding != "latin1":
        raise _RefusedError(f"bytes in the encoding {encoding}")
    return text.encode("latin1")


def _storage(data: bytes) -> Any:
    """The function of this name in torch unpickles without any restriction."""
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's message says how to read it without restriction, which is no advice here
        refused = re.search(r"unsupported global:? (?:GLOBAL )?([\w.]+)", str(error), re.IGNORECASE)
        if refused:
            raise _RefusedError(refused[1]) from None
        raise pickle.UnpicklingError("the bytes of a tensor are none that torch.save wrote") from None


def _admitted() -> dict[tuple[str, str], Any]:
    reduced = np.empty(0).__reduce__()
    reconstruct = reduced[0]
    scalar = np.float32(0).__reduce__()[0]
    frombuffer = np.empty(0).__reduce_ex__(5)[0]
    names: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _encode,
        ("collections", "OrderedDict"): OrderedDict,
        ("torch.storage", "_load_from_bytes"): _storage,
        ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    }
    for core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
        names[f"{core}.multiarray", "_reconstruct"] = reconstruct
        names[f"{core}.multiarray", "scalar"] = scalar
        names[f"{core}.numeric", "_frombuffer"] = frombuffer
    for module in ("builtins", "__builtin__"):
        for kind in (set, frozenset, bytearray, complex):
            names[module, kind.__name__] = kind
    return names


class _ArrayUnpickler(pickle.Unpickler):
    _names: ClassVar = _admitted()

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        try:
            return self._names[module, name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}") from None


def read_arrays(path: Path) -> Any:
    """What a pickle of arrays, tensors and plain containers holds.

    Raises:
        InputError: the file is not there, is no pickle, is cut off, or names anything else.
    """
    try:
        with path.open("rb") as file:
            return _ArrayUnpickler(file, encoding="latin1").load()
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except _RefusedError as error:
        raise InputError(
            f"{path}: refused, since it holds {error}; only NumPy arrays, torch tensors and plain containers are read "
            "from a pickle, as anything else could run code"
        ) from None
    except Exception as error:  # a damaged pickle may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"{path}: not a readable pickle ({reason}); download or copy it again") from None
