"""A node's seat in the election: drives the state machine of `bully` with a real clock, links and disk.

Everything here happens on the event loop, one event at a time: an effect is carried out before the next
event is taken, so what `leads` says is always already on the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

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


class Wire(msgspec.Struct, omit_defaults=True):
    """An election's message between nodes, with the loads that ride on a heartbeat.

    Unknown fields are ignored: while nodes are replaced by newer ones, one by one, the older ones still lead.
    """

    kind: Kind
    counter: int
    epoch_leader: int
    leader: int | None = None
    loads: list[Load] = []
    begun: list[str] = []
    """The uploads that a worker was assigned and has begun since it last told."""


class Member:
    """One node in the election, among its peers."""

    def __init__(
        self,
        election: Election,
        *,
        send: Callable[[int, bytes], None],
        save: Callable[[Epoch], None],
        unsaved: Callable[[OSError], None],
        loads: Callable[[], list[Load]],
        begun: Callable[[], list[str]],
        heard: Callable[[int, list[Load], list[str]], None],
        say: Callable[[str], None],
    ) -> None:
        """`save` raises OSError if it fails; then `unsaved` has to make this node not `ready` before it returns."""
        self._election = election
        self._send, self._save, self._unsaved = send, save, unsaved
        self._loads, self._begun, self._heard, self._say = loads, begun, heard, say
        self._lives: dict[int, str] = {}
        self._linked: set[int] = set()
        self._misunderstood: set[int] = set()  # peers of which this life has been complained of
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._announced: tuple[int | None, Epoch] = None, NEVER
        self._news: set[asyncio.Future[None]] = set()

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
    def met(self) -> frozenset[int]:
        """The peers that this node has been linked with."""
        return frozenset(self._lives)

    def life_of(self, peer: int) -> str | None:
        """Which life of a peer we are linked with."""
        return self._lives.get(peer) if peer in self._linked else None

    def start(self) -> None:
        self._schedule()

    def stop(self) -> None:
        """Take no event any more: whatever peers still say, this node has left."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    async def settled(self, patience: float) -> int | None:
        """The leader, waiting up to `patience` seconds for one; None if there is none by then."""
        try:
            async with asyncio.timeout(patience):
                while self.leader is None:
                    news = asyncio.get_running_loop().create_future()
                    self._news.add(news)
                    try:
                        await news
                    finally:
                        self._news.discard(news)
        except TimeoutError:
            pass
        return self.leader

    # -- events --------------------------------------------------------------------------------------

    def connected(self, peer: int, life: str) -> None:
        if peer in self._linked and self._lives.get(peer) != life:
            self.lost(peer)  # it died and was started again before we could notice
        if self._lives.get(peer) != life:
            self._misunderstood.discard(peer)
        self._lives[peer] = life
        self._linked.add(peer)
        self.take(PeerConnected(peer))

    def lost(self, peer: int) -> None:
        self._linked.discard(peer)
        self.take(PeerLost(peer))

    def received(self, peer: int, frame: bytes) -> None:
        try:
            wire = decode(frame, Wire)
        except Malformed:
            if peer not in self._misunderstood:
                self._misunderstood.add(peer)
                self._say(f"node {peer} says what this version does not understand")
            return
        if wire.loads:
            self._heard(peer, wire.loads, wire.begun)
        self.take(Received(peer, Message(wire.kind, Epoch(wire.counter, wire.epoch_leader), wire.leader)))

    def ready(self, ready: bool) -> None:
        self.take(EligibilityChanged(ready))

    def take(self, event: Event) -> None:
        """Let the election take an event: do first what it asks for, then tell of it."""
        if self._stopped:
            return
        try:
            effects = self._election.step(asyncio.get_running_loop().time(), event)
            self._carry_out(effects)
            for effect in effects:
                match effect:
                    case LeaderDown(leader, cause):
                        self._say(f"Leader {leader} is DOWN! Starting new election... ({cause.value})")
                    case LeaderChanged():
                        for news in self._news:
                            if not news.done():
                                news.set_result(None)
            self._announce()
        finally:
            self._schedule()

    def report(self) -> None:
        """Tell the leader of our load between two heartbeats, if it is another. It counts as a heartbeat."""
        if self.leader is not None and not self.leads and self.leader in self._linked:
            message = Message(Kind.HEARTBEAT, self.epoch, self.leader)
            self._send(self.leader, self._encode(self.leader, message))

    # -- helpers -------------------------------------------------------------------------------------

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Save(epoch):
                    try:
                        self._save(epoch)
                    except OSError as error:
                        self._unsaved(error)
                        return  # what is not saved must not be acted upon
                case Send(peer, message):
                    self._send(peer, self._encode(peer, message))

    def _announce(self) -> None:
        """Say who leads, if that is news; each new epoch of our own is."""
        leader, epoch = self.leader, self.epoch
        if self.leads and epoch != self._announced[1]:
            self._say(f"I am the new leader! (epoch {epoch})")
        elif leader not in (None, self._announced[0]):
            self._say(f"Node {leader} is the leader (epoch {epoch})")
        self._announced = leader, epoch

    def _encode(self, peer: int, message: Message) -> bytes:
        wire = Wire(message.kind, message.epoch.counter, message.epoch.leader, message.leader)
        if message.kind is Kind.HEARTBEAT:
            wire.loads = self._loads()
            if peer == self.leader:
                wire.begun = self._begun()
        return msgspec.json.encode(wire)

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        when = self._election.next_call()
        if when is not None:
            self._timer = asyncio.get_running_loop().call_at(when, self.take, Tick())
