"""Memory of a process that trains on a CPU."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Numbers of glibc's ``mallopt``."""


def keep_freed_memory() -> None:
    """Has the C library keep memory that is freed, for the next step.

    glibc gives large blocks back to the system at once, and a training step that takes them again pays for each page:
    a third of a step's time where tensors are large. GPUs' memory is kept by torch. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)
