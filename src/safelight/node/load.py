"""What each node has to do and has done: counted here, told with every heartbeat, shown by `status`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from safelight.bully import Epoch
from safelight.node.balance import weight
from safelight.protocol import Load, Problem, Refusal

CRAWLERS = 4
"""So many times the images that a node takes may be there if all but those crawl, or are being answered."""


class Work:
    """One image in work."""

    def __init__(self, book: LoadBook) -> None:
        self._book = book
        self._crawls = False

    def crawls(self, so: bool) -> None:
        """Whether its client lets us wait."""
        self._book.crawling += so - self._crawls
        self._crawls = so


class LoadBook:
    """This node's own counters, and what the others last told of theirs."""

    def __init__(
        self,
        node: int,
        state: Callable[[], tuple[str, Epoch, int | None]],
        stands_back: Callable[[], str],
        freshness: float,
        changed: Callable[[], None],
        most: int,
    ) -> None:
        """`state` gives role, epoch and leader; `stands_back` why the node does not stand for election, if so. Others'
        loads are forgotten after `freshness` seconds. `changed` is called when work begins or ends here. At most
        `most` images are taken at a time.
        """
        self._node = node
        self._state, self._stands_back = state, stands_back
        self._freshness = freshness
        self._changed = changed
        self._most = most
        self._started = time.monotonic()
        self._heard: dict[int, tuple[float, Load]] = {}
        self.in_flight = 0
        self.images = 0
        self.bytes = 0
        self.declines = 0
        self.weight = 0
        self.crawling = 0
        self._working = self._reading = self._answering = 0

    @contextmanager
    def work(self, size: int | None) -> Iterator[Work]:
        """Count one image as in work, and as done if nothing is raised."""
        work = Work(self)
        self._working += 1
        try:
            with self._in_flight(weight(size)):
                yield work
                self.images += 1
                self.bytes += size or 0
        finally:
            self._working -= 1
            work.crawls(False)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count one image as being read. Raises Refusal (BUSY)."""
        if self._reading >= self._most:
            raise self.busy("is reading", self._reading)
        self._reading += 1
        try:
            with self._in_flight(weight(0)):
                yield
        finally:
            self._reading -= 1

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Count what is neither as in flight: a node that leaves finishes it."""
        self._answering += 1
        try:
            with self._in_flight(weight(0)):
                yield
        finally:
            self._answering -= 1

    @contextmanager
    def _in_flight(self, weight: int) -> Iterator[None]:
        self.in_flight += 1
        self.weight += weight
        self._changed()
        try:
            yield
        finally:
            self.in_flight -= 1
            self.weight -= weight
            self._changed()

    @property
    def room(self) -> int:
        """How many more images this node takes.

        Crawling bodies, and answers that are on their way, take nobody's place, up to a bound: they cost memory.
        """
        in_work, all_told = self._working - self.crawling, self._working + self._answering
        return max(0, min(self._most - in_work, CRAWLERS * self._most - all_told))

    def busy(self, what: str = "has in work", many: int | None = None) -> Refusal:
        """What to tell whoever comes now."""
        many = self._working if many is None else many
        return Refusal(Problem.BUSY, f"Node {self._node} {what} {many} images, as many as it takes: try again")

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
            room=self.room,
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
