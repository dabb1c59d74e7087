"""Bully as textbooks print it, to count what it costs: all that miss the leader ask all nodes above them, at once.

After Coulouris et al., "Distributed Systems", and Tanenbaum and van Steen, "Distributed Systems". It has no epochs,
no turns, and no links that break: a node counts as dead when an answer does not come in time. Here nothing is lost
and every message takes the same time, so this is the textbook at its best.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection

from safelight.election.bully import Timing

from .world import DELAY


class Textbook:
    """Nodes 1 to `nodes`, of which those `alive` miss the leader at the time `noticed` (seconds)."""

    def __init__(self, nodes: int, alive: Collection[int], timing: Timing, noticed: float) -> None:
        self.leader = dict.fromkeys(alive, 0)
        self.messages = 0
        self.agreed = 0.0  # when a node last learned of its leader
        self._nodes = nodes
        self._timing = timing
        self._time = noticed
        self._electing: set[int] = set()
        self._answered: set[int] = set()
        self._queue: list[tuple[float, int, Callable[[int, int], None], int, int]] = []
        self._serial = 0
        for node in alive:
            self._elect(node)
        while self._queue:
            self._time, _, happen, sender, node = heapq.heappop(self._queue)
            happen(sender, node)

    def _elect(self, node: int) -> None:
        if node not in self._electing:
            self._electing.add(node)
            for higher in range(node + 1, self._nodes + 1):
                self._send(self._election, node, higher)
            self._after(self._timing.answer_timeout, self._waited, node, node)

    def _election(self, sender: int, node: int) -> None:
        self._send(self._answer, node, sender)
        self._elect(node)

    def _answer(self, _: int, node: int) -> None:
        self._answered.add(node)

    def _waited(self, _: int, node: int) -> None:
        if node not in self._answered:
            self._coordinator(node, node)
            for lower in range(1, node):
                self._send(self._coordinator, node, lower)

    def _coordinator(self, sender: int, node: int) -> None:
        self.leader[node] = sender
        self.agreed = self._time

    def _send(self, what: Callable[[int, int], None], sender: int, to: int) -> None:
        self.messages += 1
        if to in self.leader:
            self._after(DELAY, what, sender, to)

    def _after(self, delay: float, what: Callable[[int, int], None], sender: int, node: int) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (self._time + delay, self._serial, what, sender, node))
