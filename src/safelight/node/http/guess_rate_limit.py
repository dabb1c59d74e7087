"""How many unknown tokens an address may try: the lookup of each costs reads of the store.

A token bucket for each address: `BURST` lookups at once, then `RATE` a second. Beyond that, a listing answers (see
`token_index`). A lookup that finds a user does not count, and a known token needs none. Without a clock: the caller
passes the time, in seconds.
"""

from __future__ import annotations

from collections import OrderedDict

BURST, RATE = 50.0, 5.0

ADDRESSES = 10_000
"""Addresses with a bucket; beyond, the one that tried longest ago is forgotten."""


class GuessRateLimit:
    """One node's buckets."""

    def __init__(self) -> None:
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # lookups that are left, and as of when

    def take(self, address: str, now: float) -> bool:
        """Whether this address may look up a token now. Give it back if a user has the token."""
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
