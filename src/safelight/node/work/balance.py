"""Which node a leader assigns an image to: the one with the least in progress, as far as the leader knows.

It knows the load that each node last reported, and which images it has granted that the node has not started since.
Both are weighed by their bytes, plus a fixed part for each image. So a slow node, whose work accumulates, gets less;
and images that are granted between two reports do not all go to the node that was idle in the last one.

Without a clock: the caller passes the time, in seconds.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from itertools import count
from typing import NamedTuple

FIXED = 256 << 10
"""Bytes that cost as much to encrypt as everything else that an image costs: requests, records, syncs."""

UNUSED = 2.0
"""Seconds within which a client uses a grant. One that is older has no weight: its client died, or uses another."""

REPORT, REPORTS = 0.01, 400
"""Seconds until a worker whose load has changed reports it to the leader; and how many such reports a second a leader
receives at most, from all workers together.
"""


def report_pause(nodes: int) -> float:
    """Seconds for which a worker collects changes for one report, in a cluster of so many nodes."""
    return max(REPORT, (nodes - 1) / REPORTS)


def weight(size: int | None) -> int:
    """The weight of an image of so many bytes; None if its size is unknown."""
    return FIXED + (size or 0)


class _Granted(NamedTuple):
    node: int
    weight: int
    until: float
    user: str


class Balancer:
    """One leader's grants that have not started, as far as it knows. At most as many as it makes within `UNUSED`."""

    def __init__(self) -> None:
        self._granted: OrderedDict[str, _Granted] = OrderedDict()  # by upload, the oldest first
        self._promised: Counter[int] = Counter()  # the sum of their weights, by node
        self._waiting: Counter[int] = Counter()  # how many they are, by node
        self._unused: Counter[str] = Counter()  # the same, by user
        self._turns = count(1)
        self._last: Counter[int] = Counter()  # the turn in which a node was chosen last

    def assign(self, upload: str, size: int | None, in_hand: Mapping[int, int], now: float, user: str = "") -> int:
        """The node for a user's upload, of those in `in_hand`: the weight of what each has in progress.

        Of equals, the one that was chosen longest ago. An upload that is assigned again counts once.
        """
        self.started([upload])
        self.forget(now)
        node = min(in_hand, key=lambda each: (in_hand[each] + self._promised[each], self._last[each], each))
        self._granted[upload] = _Granted(node, weight(size), now + UNUSED, user)
        self._promised[node] += weight(size)
        self._waiting[node] += 1
        self._unused[user] += 1
        self._last[node] = next(self._turns)
        return node

    def started(self, uploads: Iterable[str]) -> None:
        """These have started: from now on their nodes report them."""
        for upload in uploads:
            if (granted := self._granted.pop(upload, None)) is not None:
                self._promised[granted.node] -= granted.weight
                self._waiting[granted.node] -= 1
                self._unused[granted.user] -= 1
                if not self._unused[granted.user]:
                    del self._unused[granted.user]

    def lost(self, node: int) -> None:
        """A node has gone: its clients will repeat what was granted to it."""
        self.started([upload for upload, granted in self._granted.items() if granted.node == node])

    def forget(self, now: float) -> None:
        """Forget grants that were not used in time."""
        while self._granted and (oldest := next(iter(self._granted.items())))[1].until <= now:
            self.started([oldest[0]])

    def waiting(self, node: int) -> int:
        """How many grants of a node have not started."""
        return self._waiting[node]

    def unused(self, user: str) -> int:
        """How many grants of a user have not started."""
        return self._unused[user]
