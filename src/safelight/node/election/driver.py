"""Drives the state machine of `safelight.election.bully` with a real clock, links and disk.

Everything here happens on the event loop, one event at a time: each effect is carried out before the next
event is taken, so the epoch of a node that `leads` is always on the disk already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from operator import attrgetter
from typing import Protocol

import msgspec

from safelight.decoding import Malformed, decode
from safelight.election.bully import (
    NEVER,
    Effect,
    Election,
    EligibilityChanged,
    Epoch,
    Event,
    Kind,
    LeaderChanged,
    LeaderDown,
    Message,
    PeerConnected,
    PeerLost,
    Received,
    Save,
    Send,
    Tick,
)
from safelight.wire.messages import Load

ONE_ANNOUNCEMENT = 1.0
"""Seconds after a node has announced that it leads in which it does not announce itself again: a node that returns may
lead before it learns from a peer that its epoch must be later.
"""


class ElectionMessage(msgspec.Struct, omit_defaults=True):
    """A message of the election between nodes; a heartbeat also carries loads.

    Unknown fields are ignored: nodes are upgraded one at a time, and older ones lead meanwhile.
    """

    kind: Kind
    counter: int
    epoch_leader: int
    leader: int | None = None
    loads: list[Load] = []
    begun: list[str] = []
    """The uploads that a worker was assigned and has begun since its last heartbeat."""


class Sender(Protocol):
    """Sends frames to peers (`Links`)."""

    def send(self, peer: int, frame: bytes) -> None: ...


class Health(Protocol):
    """The state of this node (`HealthMonitor`)."""

    @property
    def ineligible(self) -> str: ...

    @property
    def degraded(self) -> str: ...

    def save(self, epoch: Epoch) -> bool:
        """Put the epoch on the disk. If that fails, make this node ineligible, and return False."""


class Workload(Protocol):
    """What heartbeats carry beside the election (`Scheduler`)."""

    def own_load(self) -> Load: ...

    def peer_loads(self) -> list[Load]: ...

    def take_started(self) -> list[str]: ...

    def received(self, peer: int, loads: list[Load], started: list[str], leader: int | None) -> None: ...

    def lost(self, peer: int) -> None: ...


class ElectionDriver:
    """One node's part in the election."""

    def __init__(
        self, election: Election, *, links: Sender, health: Health, workload: Workload, log: Callable[[str], None]
    ) -> None:
        self._election = election
        self._links, self._health, self._workload, self._log = links, health, workload, log
        self._incarnations: dict[int, str] = {}
        self._linked: set[int] = set()
        self._misunderstood: set[int] = set()  # peers of whose incarnation this has been logged
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._announced: tuple[int | None, Epoch] = None, NEVER
        self._announced_at = -inf
        self._waiting: set[asyncio.Future[None]] = set()  # for a change of leader

    @property
    def leads(self) -> bool:
        return self._election.leads

    @property
    def leader(self) -> int | None:
        return self._election.leader

    @property
    def epoch(self) -> Epoch:
        return self._election.epoch

    @property
    def role(self) -> str:
        return self._election.phase.value

    @property
    def known_peers(self) -> frozenset[int]:
        """The peers that this node has been linked with."""
        return frozenset(self._incarnations)

    def incarnation_of(self, peer: int) -> str | None:
        """The incarnation of a peer that this node is linked with."""
        return self._incarnations.get(peer) if peer in self._linked else None

    def start(self) -> None:
        self._schedule()

    def stop(self) -> None:
        """Take no more events, whatever peers still send."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    async def wait_for_leader(self, seconds: float) -> int | None:
        """The leader, waiting up to so many `seconds` for one; None if there is none by then."""
        try:
            async with asyncio.timeout(seconds):
                while self.leader is None:
                    change = asyncio.get_running_loop().create_future()
                    self._waiting.add(change)
                    try:
                        await change
                    finally:
                        self._waiting.discard(change)
        except TimeoutError:
            pass
        return self.leader

    # -- events --------------------------------------------------------------------------------------

    def connected(self, peer: int, incarnation: str) -> None:
        if peer in self._linked and self._incarnations.get(peer) != incarnation:
            self.lost(peer)  # it was restarted before this node could notice
        if self._incarnations.get(peer) != incarnation:
            self._misunderstood.discard(peer)
        self._incarnations[peer] = incarnation
        self._linked.add(peer)
        self.take(PeerConnected(peer))

    def lost(self, peer: int) -> None:
        self._workload.lost(peer)
        self._linked.discard(peer)
        self.take(PeerLost(peer))

    def received(self, peer: int, frame: bytes) -> None:
        try:
            message = decode(frame, ElectionMessage)
        except Malformed:
            if peer not in self._misunderstood:
                self._misunderstood.add(peer)
                self._log(f"node {peer} sent a message that this version does not understand")
            return
        if message.loads:
            self._workload.received(peer, message.loads, message.begun, self.leader)
        epoch = Epoch(message.counter, message.epoch_leader)
        self.take(Received(peer, Message(message.kind, epoch, message.leader)))

    def set_eligible(self, eligible: bool) -> None:
        self.take(EligibilityChanged(eligible))

    def take(self, event: Event) -> None:
        """Let the election take an event: carry out the effects first, then log."""
        if self._stopped:
            return
        try:
            effects = self._election.step(asyncio.get_running_loop().time(), event)
            self._carry_out(effects)
            for effect in effects:
                match effect:
                    case LeaderDown(leader, cause):
                        self._log(f"Leader {leader} is DOWN! Starting new election... ({cause.value})")
                    case LeaderChanged():
                        for change in self._waiting:
                            if not change.done():
                                change.set_result(None)
            self._announce()
        finally:
            self._schedule()

    def load(self) -> Load:
        """This node's load."""
        load = self._workload.own_load()
        load.role, load.counter, load.leader = self.role, self.epoch.counter, self.leader
        load.ineligible, load.degraded = self._health.ineligible, self._health.degraded
        return load

    def loads(self) -> list[Load]:
        """The loads of this node and of the peers that have reported theirs lately, in the order of nodes."""
        return sorted([self.load(), *self._workload.peer_loads()], key=attrgetter("node"))

    def send_load(self) -> None:
        """Send this node's load to another that leads, between two heartbeats. It counts as a heartbeat."""
        if self.leader is not None and not self.leads and self.leader in self._linked:
            message = Message(Kind.HEARTBEAT, self.epoch, self.leader)
            self._links.send(self.leader, self._encode(self.leader, message))

    # -- helpers -------------------------------------------------------------------------------------

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Save(epoch):
                    if not self._health.save(epoch):
                        return  # a node must not act in an epoch that is not saved
                case Send(peer, message):
                    self._links.send(peer, self._encode(peer, message))

    def _announce(self) -> None:
        """Log who leads, if that has changed, and each new epoch of this node."""
        leader, epoch = self.leader, self.epoch
        if self.leads and epoch != self._announced[1]:
            now = asyncio.get_running_loop().time()
            if leader == self._announced[0] and now - self._announced_at < ONE_ANNOUNCEMENT:
                self._log(f"My epoch is {epoch}, as a peer knew a later one")
            else:
                self._log(f"I am the new leader! (epoch {epoch})")
                self._announced_at = now
        elif leader not in (None, self._announced[0]):
            self._log(f"Node {leader} is the leader (epoch {epoch})")
        self._announced = leader, epoch

    def _encode(self, peer: int, message: Message) -> bytes:
        encoded = ElectionMessage(message.kind, message.epoch.counter, message.epoch.leader, message.leader)
        if message.kind is Kind.HEARTBEAT:
            encoded.loads = self.loads() if self.leads else [self.load()]
            if peer == self.leader:
                encoded.begun = self._workload.take_started()
        return msgspec.json.encode(encoded)

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        when = self._election.next_call()
        if when is not None:
            self._timer = asyncio.get_running_loop().call_at(when, self.take, Tick())
