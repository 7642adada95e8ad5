"""The index as arrays: small, quick to look into, and shared by the processes of a loader."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.shards.index import Member
from pipeline.types import Modality


def column(table: pa.Table, name: str, absent: Any) -> NDArray[Any]:
    """A column of the index, with a value for what is null."""
    values = table[name]
    return np.asarray(pc.fill_null(values, pa.scalar(absent, values.type)).to_numpy())


class MemberColumns:
    """One modality's columns of the index, as arrays."""

    def __init__(self, table: pa.Table, modality: Modality):
        """Takes the columns of a table of samples."""
        self.offset = column(table, f"{modality}_offset", -1)
        self.length = column(table, f"{modality}_length", 0)
        self.width = column(table, f"{modality}_width", 0)
        self.rate = column(table, f"{modality}_rate", 0.0)
        names = pc.fill_null(table[f"{modality}_dtype"], "")
        self._dtypes = pc.unique(names).to_pylist()
        self._dtype = np.asarray(pc.index_in(names, pa.array(self._dtypes)).to_numpy(), np.uint8)

    @property
    def dtype(self) -> np.dtype[Any]:
        """What can hold the values of every video as they are: their type, or float32 where there are several."""
        stored = [name for name in self._dtypes if name]
        return np.dtype(stored[0] if len(stored) == 1 else np.float32 if stored else np.float16)

    def get(self, number: int) -> Member | None:
        """Where a video's array is; None: it has none."""
        offset = int(self.offset[number])
        if offset < 0:
            return None
        return Member(
            offset,
            int(self.length[number]),
            int(self.width[number]),
            self._dtypes[self._dtype[number]],
            float(self.rate[number]),
        )
