"""Whom a leader gives an image to: the node that has the least to do, as far as the leader knows.

It knows what each node last told of the work it had in hand, and which images it has granted that the node has not
begun since. Both are weighed by their bytes, and each image by a fixed part on top: small ones cost, too. So a slow
node, whose work piles up, is given less; and many images that are granted within one report's time do not all go to
the node that was idle in the last one.

Without a clock: the caller passes the time, in seconds.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from itertools import count
from typing import NamedTuple

FIXED = 256 << 10
"""Bytes that cost about as much to seal as the rest of what an image costs: requests, records, syncs."""

UNUSED = 2.0
"""Seconds within which a client takes up a grant, or has died, or uses another: then it weighs nothing any more."""

REPORT, REPORTS = 0.01, 400
"""Seconds until a worker whose work has changed tells the leader; and how many such reports a second a leader is to
hear at most, from all workers together: each costs it, too.
"""


def report_pause(nodes: int) -> float:
    """Seconds that a worker gathers changes for one report, in a cluster of so many nodes."""
    return max(REPORT, (nodes - 1) / REPORTS)


def weight(size: int | None) -> int:
    """What an image of so many bytes weighs; None if nobody knows."""
    return FIXED + (size or 0)


class _Granted(NamedTuple):
    node: int
    weight: int
    until: float
    user: str


class Balancer:
    """One leader's grants that have not begun, as far as it has heard. At most as many as it makes within `UNUSED`."""

    def __init__(self) -> None:
        self._granted: OrderedDict[str, _Granted] = OrderedDict()  # by upload, the oldest first
        self._promised: Counter[int] = Counter()  # the sum of their weights, by node
        self._waiting: Counter[int] = Counter()  # how many they are, by node
        self._unused: Counter[str] = Counter()  # the same, by user
        self._turns = count(1)
        self._last: Counter[int] = Counter()  # the turn in which a node was chosen last

    def assign(self, upload: str, size: int | None, in_hand: Mapping[int, int], now: float, user: str = "") -> int:
        """The node for a user's upload, out of those whose work `in_hand` is given: the sum of their images' weights.

        Of equals, the one that has waited longest. An upload that is assigned again counts once.
        """
        self.begun([upload])
        self.forget(now)
        node = min(in_hand, key=lambda each: (in_hand[each] + self._promised[each], self._last[each], each))
        self._granted[upload] = _Granted(node, weight(size), now + UNUSED, user)
        self._promised[node] += weight(size)
        self._waiting[node] += 1
        self._unused[user] += 1
        self._last[node] = next(self._turns)
        return node

    def begun(self, uploads: Iterable[str]) -> None:
        """These have begun: from now on they are among what their nodes report."""
        for upload in uploads:
            if (granted := self._granted.pop(upload, None)) is not None:
                self._promised[granted.node] -= granted.weight
                self._waiting[granted.node] -= 1
                self._unused[granted.user] -= 1
                if not self._unused[granted.user]:
                    del self._unused[granted.user]

    def lost(self, node: int) -> None:
        """A node has gone, and what was granted to it: its clients will ask again."""
        self.begun([upload for upload, granted in self._granted.items() if granted.node == node])

    def forget(self, now: float) -> None:
        """Forget what nobody has taken up in time."""
        while self._granted and (oldest := next(iter(self._granted.items())))[1].until <= now:
            self.begun([oldest[0]])

    def waiting(self, node: int) -> int:
        """How many images were granted to a node and have not begun."""
        return self._waiting[node]

    def unused(self, user: str) -> int:
        """How many images were granted to a user and have not begun."""
        return self._unused[user]

    def promised(self, node: int) -> int:
        """What was granted to a node and has not begun: the sum of the weights."""
        return self._promised[node]
