"""What is in a manifest, counted by columns: the 136 million captions of HowTo100M are not made one by one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.datasets.table import Manifest


@dataclass
class Contents:
    """Counts of a manifest."""

    videos: int = 0
    urls: int = 0
    """Videos with a URL of their own."""
    captions: int = 0
    captioned: int = 0
    """Videos with one caption or more."""
    seconds: float = 0.0
    """Up to the end of the last caption, summed over the videos."""
    splits: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    """By first category; ``(none)`` for those without."""


def contents_of(manifest: Manifest) -> Contents:
    """Counts what is in a manifest; memory holds a few thousand videos at a time. Raises :class:`InputError`."""
    found = Contents()
    for batch in manifest.batches(["video_id", "url", "split", "category_1", "captions.list.element.end"]):
        found.videos += len(batch)
        found.urls += len(batch) - batch.column("url").null_count
        _count(found.splits, batch.column("split"))
        _count(found.categories, pc.fill_null(batch.column("category_1"), "(none)"))
        lengths = pc.fill_null(batch.column("captions").value_lengths(), 0).to_numpy()
        ends = batch.column("captions").flatten().field("end").to_numpy(zero_copy_only=False)
        if not np.isfinite(ends).all():
            manifest.captions(batch.column("video_id").to_pylist())  # raises, and names the video
        begins = np.cumsum(lengths) - lengths
        found.captions += len(ends)
        found.captioned += int(np.count_nonzero(lengths))
        if len(ends):
            found.seconds += float(np.maximum.reduceat(ends, begins[lengths > 0]).sum(dtype=np.float64))
    return found


def _count(counter: Counter[str], column: pa.Array) -> None:
    for one in pc.value_counts(column).to_pylist():
        counter[one["values"]] += one["counts"]
