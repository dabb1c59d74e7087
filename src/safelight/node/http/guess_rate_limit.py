"""How many unknown tokens one address may have looked up one by one: each costs reads of the store.

A token bucket for each address: `BURST` looks at once, and `RATE` a second after that; beyond, tokens are looked for in
a listing (see `claims`). A look that finds a user costs nothing, and who is known already needs none. Without a clock:
the caller says what time it is, in seconds.
"""

from __future__ import annotations

from collections import OrderedDict

BURST, RATE = 50.0, 5.0

ADDRESSES = 10_000
"""Addresses that are remembered; of more, those that have tried longest ago are forgotten."""


class GuessRateLimit:
    """One node's buckets."""

    def __init__(self) -> None:
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # looks, and when that was so

    def take(self, address: str, now: float) -> bool:
        """Whether this address may look a token up now; to be given back if it is a user's."""
        left = self._now(address, now)
        if left < 1:
            return False
        self._put(address, left - 1, now)
        return True

    def give_back(self, address: str, now: float) -> None:
        self._put(address, self._now(address, now) + 1, now)

    def _now(self, address: str, now: float) -> float:
        left, since = self._left.get(address, (BURST, now))
        return min(BURST, left + RATE * (now - since))

    def _put(self, address: str, left: float, now: float) -> None:
        self._left[address] = left, now
        self._left.move_to_end(address)
        if len(self._left) > ADDRESSES:
            self._left.popitem(last=False)
