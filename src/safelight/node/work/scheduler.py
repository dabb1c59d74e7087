"""Who processes a request: which node a leader assigns an offer to, and whether this node may start a request now.

All state about grants that have not started is here. A leader learns from heartbeats what its workers have in progress
(`LoadTracker`), and from `take_started` which of its grants they have started.
"""

from __future__ import annotations

import time
from collections.abc import Container, Sequence

from safelight.config import Config
from safelight.node.work.balance import Balancer
from safelight.node.work.load import LoadTracker
from safelight.wire.messages import Action, Load, Problem, Refusal
from safelight.wire.tickets import Scope


class Scheduler:
    """One node's assignments: those that it makes as leader, and those that it received as worker."""

    def __init__(self, config: Config, node: int, load: LoadTracker) -> None:
        self._config, self._node, self._load = config, node, load
        self._balancer = Balancer()
        self._started: list[str] = []  # assigned by a leader that does not know yet that they have started

    def assign(self, scope: Scope, avoid: Sequence[int], linked: Container[int]) -> int:
        """The node that is to process an offer: the one with the least in progress, and one in `avoid` only if no other
        has a free slot. `linked`: the workers that this leader has a link to.

        Of another node's slots only the number is known, so fair shares between users apply on the leader alone. Raises
        Refusal (BUSY) if no node has a free slot.
        """
        if scope.action is Action.REMOVE:
            return self._node
        now, user = time.monotonic(), scope.user
        self._balancer.started([scope.upload])  # a repeated offer counts once
        self._balancer.forget(now)
        if self._balancer.unused(user) >= max(1, self._config.max_in_flight // 2):
            # Grants that a user does not use must not keep others waiting.
            raise Refusal(Problem.BUSY, f"{user} has many granted requests that have not started: try again")
        weights = dict[int, int]()
        if self._load.takes(user, promised=self._balancer.waiting(self._node), own=self._balancer.unused(user)):
            weights[self._node] = self._load.weight
        for load in self._load.peers() if self._config.balance == "least-loaded" else ():
            free = load.free_slots > self._balancer.waiting(load.node)
            if load.node in linked and load.leader == self._node and free and not load.ineligible:
                weights[load.node] = load.weight
        if not weights:
            raise self._load.at_capacity(user)
        preferred = {node: weight for node, weight in weights.items() if node not in avoid}
        return self._balancer.assign(scope.upload, scope.size, preferred or weights, now, user)

    def start(self, scope: Scope, *, granted: bool, assigned: bool) -> None:
        """Let a request start here. `granted`: it has a ticket; else it must leave the slots of other grants free.
        `assigned`: by a leader, which is to learn of the start. Raises Refusal (BUSY).
        """
        self._balancer.started([scope.upload])
        promised = own = 0
        if not granted:
            promised, own = self._balancer.waiting(self._node), self._balancer.unused(scope.user)
        if scope.action is not Action.REMOVE and not self._load.takes(scope.user, promised=promised, own=own):
            raise self._load.at_capacity(scope.user)
        if assigned:
            self._started.append(scope.upload)

    def declined(self) -> None:
        """An offer was declined, as another node leads."""
        self._load.declines += 1

    # -- what heartbeats carry -----------------------------------------------------------------------

    def take_started(self) -> list[str]:
        """The uploads assigned to this node that have started since the last call."""
        started, self._started = self._started, []
        return started

    def own_load(self) -> Load:
        return self._load.own()

    def peer_loads(self) -> list[Load]:
        return self._load.peers()

    def received(self, peer: int, loads: list[Load], started: list[str], leader: int | None) -> None:
        """A heartbeat of a peer: the loads that it knows, and the uploads that it has started."""
        self._load.received(peer, loads, leader)
        self._balancer.started(started)

    def lost(self, peer: int) -> None:
        """A peer has gone: its clients will repeat what was granted to it."""
        self._balancer.lost(peer)
