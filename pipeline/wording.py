"""How messages say things."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """A number with its noun, in the singular for one: ``1 video``, ``1,240 videos``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def none_of(count: int, noun: str) -> str:
    """How a sentence begins that says what no thing did: ``none of the 10 videos``; of a single one: ``no video``."""
    return f"no {noun}" if count == 1 else f"none of the {counted(count, noun)}"
