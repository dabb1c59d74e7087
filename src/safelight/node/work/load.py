"""What each node has in progress and has done: counted here, sent with every heartbeat, shown by `status`."""

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
"""A node holds so many times the images that it processes, including those that are slow or being answered."""

READERS = 2
"""The same for images that are being read: each costs some megabytes while its client is slow."""


class LoadTracker:
    """This node's counters, and the loads that others last reported."""

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
        """`state` returns role, epoch and leader; `ineligible` why the node may not lead; `degraded` its fault if it
        may; `use` how often the current key was used, and advice. Others' loads expire after `freshness` seconds.
        `changed` is called when a request starts or ends here. For `most` and `min_rate` see `fair_share`.
        """
        self._node = node
        self._state, self._ineligible, self._degraded = state, ineligible, degraded
        self._freshness = freshness
        self._changed = changed
        self._uploads = FairShares(most, SLOW_BODIES * most, min_rate)
        self._reads = FairShares(most, READERS * most, min_rate)
        self._started = time.monotonic()
        self._received: dict[int, tuple[float, Load]] = {}
        self._use = use
        self._listens_since = inf
        self.in_flight = 0
        self.images = 0
        self.bytes = 0
        self.declines = 0
        self.weight = 0

    @contextmanager
    def work(self, user: str, size: int | None) -> Iterator[Slot]:
        """Count one image as in progress, and as done if nothing is raised. Whether it is taken, `takes` decides."""
        with self._uploads.slot(user) as slot, self._in_flight(weight(size)):
            yield slot
            self.images += 1
            self.bytes += size or 0

    @contextmanager
    def reading(self, user: str) -> Iterator[Slot]:
        """Count one image as being read. Raises Refusal (BUSY)."""
        if not self._reads.takes(user):
            raise self._at_capacity(self._reads, "reads", user)
        with self._reads.slot(user) as slot, self._in_flight(weight(0)):
            yield slot

    @contextmanager
    def answering(self, user: str) -> Iterator[Slot]:
        """Count a response that is neither as in flight: a node that drains finishes it."""
        with self._uploads.slot(user, active=False) as slot, self._in_flight(weight(0)):
            yield slot

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

    def takes(self, user: str, *, promised: int = 0, own: int = 0) -> bool:
        """Whether this node takes an image of this user. `promised`: unused grants; `own`: those of this user."""
        return self._uploads.takes(user, promised=promised, own=own)

    def at_capacity(self, user: str) -> Refusal:
        """The refusal for a user whose image is not taken now. The user counts as waiting then."""
        return self._at_capacity(self._uploads, "processes", user)

    def _at_capacity(self, shares: FairShares, does: str, user: str) -> Refusal:
        shares.refused(user)
        return Refusal(
            Problem.BUSY,
            f"Node {self._node} is at capacity: it {does} {shares.total} images, {shares.held(user)} for {user}: "
            "try again",
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
            free_slots=self._uploads.free_slots,
            used=used,
            advice=advice,
        )

    def received(self, peer: int, loads: list[Load]) -> None:
        """A peer's heartbeat carried these: its own, and if it leads, also those of its workers."""
        now = time.monotonic()
        for load in loads:
            if load.node != self._node and (load.node == peer or peer == self._state()[2]):
                self._received[load.node] = (now, load)

    def start(self) -> None:
        """From now on heartbeats can arrive."""
        self._listens_since = time.monotonic()

    def another_is_healthy(self) -> bool:
        """Whether another node reports no fault; also as long as such a report may not have arrived yet."""
        others = [load for load in self.known() if load.node != self._node]
        if not others:
            return time.monotonic() - self._listens_since < self._freshness
        return any(not (load.ineligible or load.degraded) for load in others)

    def another_is_unhealthy(self) -> bool:
        """Whether another node reports a fault."""
        return any(load.ineligible or load.degraded for load in self.known() if load.node != self._node)

    def known(self) -> list[Load]:
        """All fresh loads, in the order of nodes."""
        oldest = time.monotonic() - self._freshness
        fresh = [load for received, load in self._received.values() if received >= oldest]
        return sorted([self.own(), *fresh], key=lambda load: load.node)
