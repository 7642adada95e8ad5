"""How messages say things."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """A number with its noun, in the singular for one: ``1 video``, ``1,240 videos``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
