"""Three nodes, and every order in which things can happen to them, down to a stated depth.

Here no clock is right: any node's timer may be the next to fire, any link may be the next to deliver, and one
process may die and return at any moment. So this covers every relation of speeds, including absurd ones;
the simulation covers long runs. States that differ only in the time are one state. From every state
of the last level a fair schedule (messages first, then whichever timer is due first) must lead to agreement.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Hashable, Iterator

from safelight.election.bully import (
    NEVER,
    Election,
    Epoch,
    Event,
    Message,
    PeerConnected,
    PeerLost,
    Phase,
    Received,
    Save,
    Send,
    Tick,
)

from .scenario import TIMING
from .world import Violation

NODES = (1, 2, 3)
LINKS = [(a, b) for a in NODES for b in NODES if a != b]


class State:
    def __init__(self) -> None:
        self.nodes: dict[int, Election] = {node: Election(node, NODES, TIMING) for node in NODES}
        self.clocks = dict.fromkeys(NODES, 0.0)
        self.saved = dict.fromkeys(NODES, NEVER)
        self.flying: dict[tuple[int, int], tuple[Event, ...]] = dict.fromkeys(LINKS, ())
        self.terms: frozenset[Epoch] = frozenset()
        self.faults = 1

    @classmethod
    def settled(cls) -> State:
        """All nodes are connected, and 3 leads."""
        state = cls()
        for a, b in LINKS:
            state._step(a, PeerConnected(b))
        state.rest()
        return state

    def copy(self) -> State:
        twin = copy.copy(self)
        twin.nodes = {node: _twin(core) for node, core in self.nodes.items()}
        twin.clocks, twin.saved, twin.flying = dict(self.clocks), dict(self.saved), dict(self.flying)
        return twin

    def key(self) -> Hashable:
        cores = tuple(
            (
                node,
                core.phase,
                core.leader,
                core.epoch,
                core._latest,
                round((core.deadline or 0.0) - self.clocks[node], 3),
                round(max(core._heartbeat_due - self.clocks[node], 0.0), 3) if core.phase is Phase.WORKER else 0,
                frozenset(core._connected),
                core._suspected,
                frozenset(core._asked) if core.phase in (Phase.CANDIDATE, Phase.RENEWING) else None,
                core._answerer,
            )
            for node, core in self.nodes.items()
        )
        saved = tuple(self.saved[node] for node in NODES if node not in self.nodes)
        return cores, tuple(self.flying.values()), self.faults, saved, frozenset(self.terms)

    def choices(self) -> Iterator[Callable[[State], None]]:
        for link, events in self.flying.items():
            if events:
                yield lambda state, link=link: state.deliver(link)  # type: ignore[misc]
        for node in self.nodes:
            yield lambda state, node=node: state.fire(node)  # type: ignore[misc]
            if self.faults:
                yield lambda state, node=node: state.kill(node)  # type: ignore[misc]
        for node in set(NODES) - self.nodes.keys():
            yield lambda state, node=node: state.start(node)  # type: ignore[misc]

    # -- what can happen -----------------------------------------------------------------------------

    def deliver(self, link: tuple[int, int]) -> None:
        event, *rest = self.flying[link]
        self.flying[link] = tuple(rest)
        if link[1] in self.nodes:
            self._step(link[1], event)

    def fire(self, node: int) -> None:
        due = self.nodes[node].next_call()
        if due is not None:
            self.clocks[node] = max(self.clocks[node], due)
            self._step(node, Tick())

    def kill(self, node: int) -> None:
        """Its last messages are still under way; after them the loss of its links is noticed."""
        self.faults -= 1
        del self.nodes[node]
        for peer in self.nodes:
            self.flying[peer, node] = ()
            self.flying[node, peer] += (PeerLost(node),)

    def start(self, node: int) -> None:
        self.nodes[node] = Election(node, NODES, TIMING, self.saved[node], self.clocks[node])
        for peer in self.nodes.keys() - {node}:
            self.flying[node, peer] += (PeerConnected(node),)
            self.flying[peer, node] += (PeerConnected(peer),)

    def rest(self) -> None:
        """Let the messages fly and the timers fire in their time, until all nodes agree or 12 seconds are over."""
        now = max(self.clocks.values())
        shift = {node: self.clocks[node] - now for node in NODES}
        while True:
            for link in LINKS:
                while self.flying[link]:
                    self.deliver(link)
            if any(self.flying.values()):
                continue
            leaders = {core.leader for core in self.nodes.values()}
            if leaders == {max(self.nodes)}:
                return
            due, node = min(((core.next_call() or 1e9) - shift[node], node) for node, core in self.nodes.items())
            if due - now > 12.0:
                raise Violation(f"no agreement: {[(n, c.phase, c.leader) for n, c in self.nodes.items()]}")
            self.fire(node)

    def _step(self, node: int, event: Event) -> None:
        core = self.nodes[node]
        epoch, led = core.epoch, core.leads
        for effect in core.step(self.clocks[node], event):
            match effect:
                case Save(saved):
                    self.saved[node] = saved
                case Send(to, message):
                    self._send(node, to, message)
        if core.epoch < epoch:
            raise Violation(f"{node} falls from {epoch} to {core.epoch}")
        if core.epoch != self.saved[node]:
            raise Violation(f"{node} is in {core.epoch}, which it has not saved")
        if core.leads and not (led and core.epoch == epoch):
            if core.epoch in self.terms or core.epoch.leader != node:
                raise Violation(f"{node} leads in {core.epoch}, which is not its own or not new")
            self.terms |= {core.epoch}
        if core.phase is Phase.WORKER and (core.leader or 0) < node:
            raise Violation(f"{node} is eligible, and follows {core.leader}")
        if core.deadline is None or core.deadline <= self.clocks[node]:
            raise Violation(f"{node} has lost its timer")

    def _send(self, sender: int, to: int, message: Message) -> None:
        if to in self.nodes:
            self.flying[sender, to] += (Received(sender, message),)


def explore(begin: State, depth: int) -> int:
    """Visit every state within `depth` events of `begin`; return how many there are. Raises `Violation`."""
    seen = {begin.key()}
    level = deque([begin])
    for _ in range(depth):
        following: deque[State] = deque()
        for state in level:
            for choice in state.choices():
                twin = state.copy()
                choice(twin)
                key = twin.key()
                if key not in seen:
                    seen.add(key)
                    following.append(twin)
        level = following
    for state in level:
        state.rest()
    return len(seen)


def _twin(core: Election) -> Election:
    twin = copy.copy(core)
    twin._connected, twin._ineligible = set(core._connected), set(core._ineligible)
    twin._asked, twin._effects = set(core._asked), []
    return twin
