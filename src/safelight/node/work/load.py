"""What each node has in progress and has done: counted here, sent with every heartbeat, shown by `status`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Protocol

from safelight.node.work.balance import weight
from safelight.node.work.fair_share import FairShares, Slot
from safelight.wire.messages import Load, Problem, Refusal

SLOW_BODIES = 4
"""A node holds so many times the images that it processes, including those that are slow or being answered."""

READERS = 2
"""The same for images that are being read: each costs some megabytes while its client is slow."""


class KeyUse(Protocol):
    """How often this node has used the current cluster key (`UsageFile`)."""

    def current(self) -> tuple[int, str]:
        """The number of uses, and advice for the operator."""


class LoadSender(Protocol):
    """Sends this node's load to the leader (`ElectionDriver`)."""

    def send_load(self) -> None: ...


class LoadReporter:
    """Sends this node's load soon after it has changed: once for all changes within `pause` seconds."""

    def __init__(self, sender: LoadSender, pause: float) -> None:
        self._sender, self._pause = sender, pause
        self._timer: asyncio.TimerHandle | None = None

    def changed(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._pause, self._report)

    def _report(self) -> None:
        self._timer = None
        self._sender.send_load()


class LoadTracker:
    """This node's counters, and the loads that peers last reported."""

    def __init__(
        self, node: int, nodes: int, freshness: float, most: int, min_rate: float, key_use: KeyUse | None = None
    ) -> None:
        """`nodes`: how many the cluster has. Peers' loads expire after `freshness` seconds. For `most` and `min_rate`
        see `fair_share`.
        """
        self._node, self._nodes, self._freshness, self._key_use = node, nodes, freshness, key_use
        self._uploads = FairShares(most, SLOW_BODIES * most, min_rate)
        self._reads = FairShares(most, READERS * most, min_rate)
        self._started = time.monotonic()
        self._received: dict[int, tuple[float, Load]] = {}
        self._listens_since = inf
        self._reporter: LoadReporter | None = None
        self.in_flight = 0
        self.images = 0
        self.bytes = 0
        self.declines = 0
        self.weight = 0

    def bind(self, reporter: LoadReporter) -> None:
        """Report changes to the leader. To be called at most once, before anything else."""
        self._reporter = reporter

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
        self._change()
        try:
            yield
        finally:
            self.in_flight -= 1
            self.weight -= weight
            self._change()

    def _change(self) -> None:
        if self._reporter is not None:
            self._reporter.changed()

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
        """This node's load, without its part in the election and its health."""
        used, advice = (0, "") if self._key_use is None else self._key_use.current()
        return Load(
            node=self._node,
            role="",
            counter=0,
            leader=None,
            uptime=round(time.monotonic() - self._started, 3),
            in_flight=self.in_flight,
            images=self.images,
            bytes=self.bytes,
            declines=self.declines,
            weight=self.weight,
            free_slots=self._uploads.free_slots,
            used=used,
            advice=advice,
        )

    def received(self, peer: int, loads: list[Load], leader: int | None) -> None:
        """A peer's heartbeat carried these: its own, and if it is the `leader`, also those of its workers."""
        now = time.monotonic()
        for load in loads:
            if load.node != self._node and peer in (load.node, leader):
                self._received[load.node] = (now, load)

    def start(self) -> None:
        """From now on heartbeats can arrive."""
        self._listens_since = time.monotonic()

    def another_is_healthy(self) -> bool:
        """Whether a peer reports no fault; also as long as such a report may not have arrived yet."""
        if peers := self.peers():
            return any(not (load.ineligible or load.degraded) for load in peers)
        return self._nodes > 1 and time.monotonic() - self._listens_since < self._freshness

    def another_is_unhealthy(self) -> bool:
        """Whether a peer reports a fault."""
        return any(load.ineligible or load.degraded for load in self.peers())

    def peers(self) -> list[Load]:
        """The loads that peers have reported lately."""
        oldest = time.monotonic() - self._freshness
        return [load for received, load in self._received.values() if received >= oldest]
