"""Whose fault it is that actors die: an item's, or that of none."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from pipeline.errors import InputError

STRIKES = 3
"""An item whose actor died under it this often is given up."""
BROKEN_AFTER = 10
"""Deaths in a row without a single result between them: the fault is not in the items."""


class Blame:
    """Tells an item that kills its actor from its innocent neighbours, by counting."""

    def __init__(self) -> None:
        self.deaths = 0
        """Actors that died so far."""
        self._strikes: Counter[str] = Counter()
        self._deaths_in_a_row = self._blamed_in_a_row = 0

    def ended(self, name: str) -> None:
        """An item came to its end, with a result or an error: nothing is held against it, nor against the rest."""
        self._deaths_in_a_row = self._blamed_in_a_row = 0
        self.forget(name)

    def forget(self, name: str) -> None:
        """Holds nothing against an item any more."""
        self._strikes.pop(name, None)

    def death(self) -> None:
        """An actor died.

        Raises:
            InputError: so many did, one after the other, that it cannot be the items.
        """
        self.deaths += 1
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row >= BROKEN_AFTER:
            raise InputError(
                f"workers died {BROKEN_AFTER} times in a row without a result: look into Ray's logs "
                "(/tmp/ray/session_latest/logs) for the cause, often too little memory"
            )

    def strike(self, name: str, alone: bool) -> Literal["innocent", "suspect", "guilty"]:
        """An actor died under an item.

        Args:
            name: the item's.
            alone: whether the actor held no other.

        Returns:
            ``innocent``: it may be tried again beside others; ``suspect``: only alone; ``guilty``: it is given up.
        """
        self._strikes[name] += 1
        if self._strikes[name] < STRIKES:
            return "suspect" if self._strikes[name] == STRIKES - 1 else "innocent"
        self.forget(name)
        self._blamed_in_a_row += 1
        # an item that died alone is known to be the cause, unless so many follow one another that it cannot be
        if alone and self._blamed_in_a_row < BROKEN_AFTER:
            self._deaths_in_a_row = 0
        return "guilty"
