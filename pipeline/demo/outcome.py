"""What the demo must end with."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.errors import InputError

TIMES_CHANCE = 2.0
"""So many times what chance finds: trained, MFT finds 8 times and MCN 5 times as much."""
_DIRECTIONS = ("t2va", "t2v+a", "t2v")


def check_outcome(metrics: Path) -> str:
    """Compares the retrieval of held-out videos with chance.

    Args:
        metrics: the ``metrics.json`` of an evaluation.

    Returns:
        a line that says both numbers.

    Raises:
        InputError: it is not better by enough, so that training cannot have worked.
    """
    result = json.loads(metrics.read_text())
    direction = next(name for name in _DIRECTIONS if name in result["retrieval"])
    found, chance = result["retrieval"][direction]["R10"], result["chance"]["R10"]
    if not found >= TIMES_CHANCE * chance:
        raise InputError(
            f"{metrics}: R@10 of {direction} is {found:.1f}, less than {TIMES_CHANCE:g} times the {chance:.1f} of "
            "chance: the network has not learned; remove the run's folder and run the demo again"
        )
    return f"R@10 of {direction} is {found:.1f}, that of chance {chance:.1f}"
