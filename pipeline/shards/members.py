"""The index as arrays: small, quick to look into, and shared by the processes of a loader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.types import Modality


def column(table: pa.Table, name: str, absent: Any) -> NDArray[Any]:
    """A column of the index, with a value for what is null."""
    values = table[name]
    return np.asarray(pc.fill_null(values, pa.scalar(absent, values.type)).to_numpy())


class Members(NamedTuple):
    """Where arrays of one modality are; all but ``dtypes`` are ``[n]``."""

    offset: NDArray[np.int64]
    """First byte of the array's values in its tar; negative: there is none."""
    length: NDArray[np.int64]
    """Steps in time, or words."""
    rate: NDArray[np.float64]
    """Steps per second."""
    kind: NDArray[np.uint8]
    """Its type, as a position in ``dtypes``."""
    dtypes: Sequence[str]

    def at(self, chosen: NDArray[np.int64]) -> Members:
        """Those at some places."""
        return Members(self.offset[chosen], self.length[chosen], self.rate[chosen], self.kind[chosen], self.dtypes)

    def stored_as(self, dtype: np.dtype[Any]) -> NDArray[np.bool_]:
        """Whose values are of a type; none are of every type."""
        same = np.array([name in ("", dtype.name) for name in self.dtypes])
        return same[self.kind]

    def dtype(self, kind: int) -> np.dtype[Any]:
        """The type that a ``kind`` stands for; of what is not there any."""
        return np.dtype(self.dtypes[kind] or np.float16)


class MemberColumns:
    """One modality's columns of the index, as arrays."""

    def __init__(self, table: pa.Table, modality: Modality):
        """Takes the columns of a table of samples.

        Raises:
            InputError: the arrays are of several widths.
        """
        names = pc.fill_null(table[f"{modality}_dtype"], "")
        dtypes = pc.unique(names).to_pylist()
        self.members = Members(
            column(table, f"{modality}_offset", -1),
            column(table, f"{modality}_length", 0).astype(np.int64),
            column(table, f"{modality}_rate", 0.0),
            np.asarray(pc.index_in(names, pa.array(dtypes, pa.string())).to_numpy(), np.uint8),
            dtypes,
        )
        widths = pc.unique(table[f"{modality}_width"]).drop_null().to_pylist()
        if len(widths) > 1:
            found = ", ".join(map(str, sorted(widths)))
            raise InputError(
                f"the {modality} features of these shards are of several widths ({found}): no batch can hold both"
            )
        self.width = widths[0] if widths else 0
        """Values per step; 0: no video has the modality, or its arrays have one dimension."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """What can hold the values of every video as they are: their type, or float32 where there are several."""
        stored = [name for name in self.members.dtypes if name]
        return np.dtype(stored[0] if len(stored) == 1 else np.float32 if stored else np.float16)
