"""What each node has to do and has done: counted here, told with every heartbeat, shown by `status`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from safelight.bully import Epoch
from safelight.node.balance import weight
from safelight.protocol import Load


class LoadBook:
    """This node's own counters, and what the others last told of theirs."""

    def __init__(
        self,
        node: int,
        state: Callable[[], tuple[str, Epoch, int | None]],
        stands_back: Callable[[], str],
        freshness: float,
        changed: Callable[[], None],
    ) -> None:
        """`state` gives role, epoch and leader; `stands_back` why the node does not stand for election, if so. Others'
        loads are forgotten after `freshness` seconds. `changed` is called when work begins or ends here.
        """
        self._node = node
        self._state, self._stands_back = state, stands_back
        self._freshness = freshness
        self._changed = changed
        self._started = time.monotonic()
        self._heard: dict[int, tuple[float, Load]] = {}
        self.in_flight = 0
        self.images = 0
        self.bytes = 0
        self.declines = 0
        self.weight = 0

    @contextmanager
    def work(self, size: int | None) -> Iterator[None]:
        """Count one image as in flight, and as done if nothing is raised."""
        with self._in_hand(weight(size)):
            yield
            self.images += 1
            self.bytes += size or 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count as in flight what only reads: a node that leaves finishes it."""
        with self._in_hand(weight(0)):
            yield

    @contextmanager
    def _in_hand(self, weight: int) -> Iterator[None]:
        self.in_flight += 1
        self.weight += weight
        self._changed()
        try:
            yield
        finally:
            self.in_flight -= 1
            self.weight -= weight
            self._changed()

    def own(self) -> Load:
        role, epoch, leader = self._state()
        return Load(
            node=self._node,
            role=role,
            counter=epoch.counter,
            leader=leader,
            uptime=round(time.monotonic() - self._started, 3),
            in_flight=self.in_flight,
            images=self.images,
            bytes=self.bytes,
            declines=self.declines,
            weight=self.weight,
            stands_back=self._stands_back(),
        )

    def heard(self, peer: int, loads: list[Load]) -> None:
        """A peer's heartbeat told these: its own, and if it leads, also those that it was told."""
        now = time.monotonic()
        for load in loads:
            if load.node != self._node and (load.node == peer or peer == self._state()[2]):
                self._heard[load.node] = (now, load)

    def known(self) -> list[Load]:
        """All fresh loads, in the order of nodes."""
        oldest = time.monotonic() - self._freshness
        fresh = [load for heard, load in self._heard.values() if heard >= oldest]
        return sorted([self.own(), *fresh], key=lambda load: load.node)
