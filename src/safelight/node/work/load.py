"""What each node has to do and has done: counted here, told with every heartbeat, shown by `status`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf

from safelight.election.bully import Epoch
from safelight.node.work.balance import weight
from safelight.node.work.fair_share import FairShares, Slot
from safelight.wire.messages import Load, Problem, Refusal

SLOW_BODIES = 4
"""So many times the images that a node takes may be there if all but those crawl, or are being answered; or as many as
are needed for all users to have their shares.
"""

READERS = 2
"""The same for images that are being read: each costs some megabytes while its client reads slowly."""


class LoadTracker:
    """This node's own counters, and what the others last told of theirs."""

    def __init__(
        self,
        node: int,
        state: Callable[[], tuple[str, Epoch, int | None]],
        ineligible: Callable[[], str],
        freshness: float,
        changed: Callable[[], None],
        most: int,
        min_rate: float,
        degraded: Callable[[], str] = str,
        use: Callable[[], tuple[int, str]] = lambda: (0, ""),
    ) -> None:
        """`state` gives role, epoch and leader; `ineligible` why the node is ineligible, if so,
        `degraded` what is wrong with it if it does, and `use` how often the current key was used, and advice. Others'
        loads are forgotten after `freshness` seconds. `changed` is called when work begins or ends here. Some `most`
        images are taken at a time, and as many are read: see `shares`, also for `min_rate`.
        """
        self._node = node
        self._state, self._ineligible, self._degraded = state, ineligible, degraded
        self._freshness = freshness
        self._changed = changed
        self._uploads = FairShares(most, SLOW_BODIES * most, min_rate)
        self._reads = FairShares(most, READERS * most, min_rate)
        self._started = time.monotonic()
        self._heard: dict[int, tuple[float, Load]] = {}
        self._use = use
        self._listens_since = inf
        self.in_flight = 0
        self.images = 0
        self.bytes = 0
        self.declines = 0
        self.weight = 0

    @contextmanager
    def work(self, user: str, size: int | None) -> Iterator[Slot]:
        """Count one image as in work, and as done if nothing is raised. Whether it is taken is for `takes` to say."""
        with self._uploads.place(user) as place, self._in_flight(weight(size)):
            yield place
            self.images += 1
            self.bytes += size or 0

    @contextmanager
    def reading(self, user: str) -> Iterator[Slot]:
        """Count one image as being read. Raises Refusal (BUSY)."""
        if not self._reads.takes(user):
            raise self._busy(self._reads, "is reading", user)
        with self._reads.place(user) as place, self._in_flight(weight(0)):
            yield place

    @contextmanager
    def answering(self, user: str) -> Iterator[Slot]:
        """Count what is neither as in flight: a node that leaves finishes it."""
        with self._uploads.place(user, active=False) as place, self._in_flight(weight(0)):
            yield place

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
        """How many more images this node takes, whose they may be.

        Crawling bodies, and answers that are on their way, take nobody's place, up to a bound: they cost memory.
        """
        return self._uploads.room

    def takes(self, user: str, *, promised: int = 0, own: int = 0) -> bool:
        """Whether this node takes an image of this user; `promised` others were granted, and `own` to this user."""
        return self._uploads.takes(user, promised=promised, own=own)

    def busy(self, user: str) -> Refusal:
        """What to say to a user whose image is not taken now. It counts as waiting then."""
        return self._busy(self._uploads, "has in work", user)

    def _busy(self, shares: FairShares, what: str, user: str) -> Refusal:
        shares.refused(user)
        many, own = shares.total, shares.held(user)
        return Refusal(
            Problem.BUSY, f"Node {self._node} {what} {many} images, {own} for {user}, as many as it takes: try again"
        )

    def own(self) -> Load:
        role, epoch, leader = self._state()
        used, advice = self._use()
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
            ineligible=self._ineligible(),
            degraded=self._degraded(),
            room=self.room,
            used=used,
            advice=advice,
        )

    def heard(self, peer: int, loads: list[Load]) -> None:
        """A peer's heartbeat told these: its own, and if it leads, also those that it was told."""
        now = time.monotonic()
        for load in loads:
            if load.node != self._node and (load.node == peer or peer == self._state()[2]):
                self._heard[load.node] = (now, load)

    def listens(self) -> None:
        """From now on others can be heard."""
        self._listens_since = time.monotonic()

    def another_is_well(self) -> bool:
        """Whether another node reports no fault; also as long as one that has none may not have been heard yet."""
        others = [load for load in self.known() if load.node != self._node]
        if not others:
            return time.monotonic() - self._listens_since < self._freshness
        return any(not (load.ineligible or load.degraded) for load in others)

    def another_is_unwell(self) -> bool:
        """Whether another node reports a fault."""
        return any(load.ineligible or load.degraded for load in self.known() if load.node != self._node)

    def known(self) -> list[Load]:
        """All fresh loads, in the order of nodes."""
        oldest = time.monotonic() - self._freshness
        fresh = [load for heard, load in self._heard.values() if heard >= oldest]
        return sorted([self.own(), *fresh], key=lambda load: load.node)
