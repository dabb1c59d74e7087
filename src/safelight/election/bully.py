"""The election: Bully, as a pure state machine. No sockets, no clock, no tasks, no disk, no logging.

The rule of this file: whatever happens to a node is an *event* given to `Election.step` with the time
at which it happened; whatever the node must do about it is the list of *effects* that `step` returns,
to be carried out in order before the next event. `Election.next_call` says when to call again at the
latest. So the node drives it with a real clock and real links, and the tests with virtual ones.

The algorithm is H. Garcia-Molina, "Elections in a Distributed Computing System", IEEE Transactions on
Computers C-31(1), 1982: the highest live id leads, and a higher one that returns takes over. This one adds

- epochs, (counter, leader id) in that order, so that no two nodes ever lead in the same one and a message
  from the past is recognised;
- eligibility: a node that cannot do a leader's work says RESIGN and is passed over;
- turns: a leaderless node first waits for those above it, one turn for each, so the next highest
  leads at once and the others hear of it, which costs n messages where all electing at once cost n²;
- vouching: an ANSWER names the leader that its sender hears itself, so that a node which has lost only its
  own link to that leader follows it as a vouched leader instead of leading beside it. Such a node vouches
  for no leader, so no two nodes can keep a dead leader alive between them.

Leadership saves work; it is not what keeps images safe. Two halves of a split network have a leader
each, on purpose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Phase(Enum):
    """What a node is doing, and so what its one deadline means. The value is the word that `status` shows."""

    STARTING = "starting"
    QUEUED = "queued"
    CANDIDATE = "candidate"
    DEFERRING = "deferring"
    VOUCHED = "vouched"
    RENEWING = "renewing"
    WORKER = "worker"
    LEADER = "leader"
    OBSERVER = "observer"


ACTIVITIES: Mapping[Phase, str] = {
    Phase.STARTING: "waits for its links",
    Phase.QUEUED: "has no leader, and waits for its turn: one `turn` for each eligible peer above it",
    Phase.CANDIDATE: "has sent ELECTION to every eligible peer above it, and waits for an ANSWER",
    Phase.DEFERRING: "has an ANSWER from a peer above it, and waits for that peer's COORDINATOR",
    Phase.VOUCHED: "follows a vouched leader: it does not hear the leader itself, but the voucher does",
    Phase.RENEWING: "follows a vouched leader, and has sent ELECTION to its voucher again",
    Phase.WORKER: "follows a leader that it hears",
    Phase.LEADER: "leads, and sends heartbeats",
    Phase.OBSERVER: "is ineligible and has no leader; it waits for one, without a deadline",
}

HEARS_A_LEADER = "it hears a better leader"
BECOMES_INELIGIBLE = "it becomes ineligible"

TRANSITIONS: Mapping[Phase, Mapping[Phase, str]] = {
    Phase.STARTING: {
        Phase.QUEUED: "its links are up, or `settle` is over",
        Phase.LEADER: "the same, and no eligible peer is above it",
        Phase.WORKER: HEARS_A_LEADER,
        Phase.OBSERVER: BECOMES_INELIGIBLE,
    },
    Phase.QUEUED: {
        Phase.CANDIDATE: "its turn comes, or a lower node sends ELECTION",
        Phase.LEADER: "the last eligible peer above it is lost or resigns",
        Phase.WORKER: HEARS_A_LEADER,
        Phase.OBSERVER: BECOMES_INELIGIBLE,
    },
    Phase.CANDIDATE: {
        Phase.DEFERRING: "a peer above it sends ANSWER",
        Phase.VOUCHED: "an ANSWER or RESIGN names a leader",
        Phase.LEADER: "no ANSWER comes within `answer_timeout`, or all the peers that it asked are lost",
        Phase.WORKER: HEARS_A_LEADER,
        Phase.OBSERVER: BECOMES_INELIGIBLE,
    },
    Phase.DEFERRING: {
        Phase.CANDIDATE: "no COORDINATOR comes within `coordinator_timeout`",
        Phase.VOUCHED: "an ANSWER or RESIGN names a leader",
        Phase.QUEUED: "the peer that answered is lost or resigns",
        Phase.LEADER: "the same, and no eligible peer is above it",
        Phase.WORKER: HEARS_A_LEADER,
        Phase.OBSERVER: BECOMES_INELIGIBLE,
    },
    Phase.VOUCHED: {
        Phase.RENEWING: "the vouch is `leader_timeout` old",
        Phase.DEFERRING: "the voucher is above it, and sends ANSWER without a leader",
        Phase.CANDIDATE: "the voucher is below it, and sends ELECTION",
        Phase.QUEUED: "the voucher is lost or resigns",
        Phase.LEADER: "the voucher is lost, resigns or sends ELECTION, and no eligible peer is above this node",
        Phase.WORKER: HEARS_A_LEADER,
        Phase.OBSERVER: BECOMES_INELIGIBLE,
    },
    Phase.RENEWING: {
        Phase.VOUCHED: "the ANSWER names a leader",
        Phase.DEFERRING: "the voucher is above it, and sends ANSWER without a leader",
        Phase.CANDIDATE: "the voucher is below it, and sends ELECTION",
        Phase.QUEUED: "no ANSWER comes within `answer_timeout`, or the voucher is lost or resigns",
        Phase.LEADER: "the same, and no eligible peer is above it",
        Phase.WORKER: HEARS_A_LEADER,
        Phase.OBSERVER: BECOMES_INELIGIBLE,
    },
    Phase.WORKER: {
        Phase.QUEUED: "the leader's link breaks, its heartbeats stop for `leader_timeout`, it resigns or denies that "
        "it leads; or this node becomes eligible, and its leader is lower",
        Phase.LEADER: "the same, and no eligible peer is above it",
        Phase.VOUCHED: "its leader sends ANSWER or RESIGN that names a better leader",
        Phase.OBSERVER: "it loses its leader while it is ineligible",
    },
    Phase.LEADER: {
        Phase.WORKER: HEARS_A_LEADER,
        Phase.VOUCHED: "an ANSWER or RESIGN names a better leader",
        Phase.QUEUED: "it finds that it was paused",
        Phase.OBSERVER: BECOMES_INELIGIBLE,
    },
    Phase.OBSERVER: {
        Phase.WORKER: "it hears a leader",
        Phase.QUEUED: "it becomes eligible",
        Phase.LEADER: "the same, and no eligible peer is above it",
    },
}
"""Every change of phase, and when it happens. `Election` makes no other; docs/election.md shows this table.

A node may also remain in its phase and set its deadline again: a worker with each heartbeat, for example.
"""


class UnknownTransition(Exception):
    """A change of phase that is not in `TRANSITIONS`: an error in this file."""


class Epoch(NamedTuple):
    """Identifies one leadership of one node. Ordered; unique, because a node never uses a counter twice."""

    counter: int
    leader: int

    def __str__(self) -> str:
        return f"{self.counter}.{self.leader}"


NEVER = Epoch(0, 0)  # before the first


class Kind(Enum):
    """What a message says."""

    ELECTION = "election"  # "is a better node than me alive?"
    ANSWER = "answer"  # "yes: me, or the leader that I hear"
    COORDINATOR = "coordinator"  # "I lead, in this epoch"
    HEARTBEAT = "heartbeat"  # the leader's "I still lead", and the worker's "I still follow"
    RESIGN = "resign"  # "I am ineligible", and otherwise like ANSWER


class Message(NamedTuple):
    """What nodes send to each other.

    `epoch` is the sender's; a worker's HEARTBEAT carries the latest that it has heard of. `leader` is
    the leader that the sender is, or hears itself.
    """

    kind: Kind
    epoch: Epoch
    leader: int | None = None


@dataclass(frozen=True)
class Timing:
    """The timers, all in seconds. Each trades how soon a failure is noticed against false alarms."""

    heartbeat: float  # between two heartbeats: lower notices a hung leader sooner, and sends more messages
    leader_timeout: float  # without a heartbeat until the leader counts as dead: at least two heartbeats
    answer_timeout: float  # a candidate waits for an ANSWER: more than a round trip and a busy machine's pause
    coordinator_timeout: float  # a deferring node waits for the COORDINATOR: more than `answer_timeout`
    settle: float  # a starting node waits for its links before it elects: more than a connection takes
    turn: float  # between the turns of neighbours in rank: more than a message takes

    @classmethod
    def of(cls, heartbeat: float, missed: int = 3) -> Timing:
        """All in proportion to the heartbeat: a leader is down after `missed`, an election takes one at most."""
        return cls(
            heartbeat=heartbeat,
            leader_timeout=missed * heartbeat,
            answer_timeout=0.5 * heartbeat,
            coordinator_timeout=1.0 * heartbeat,
            settle=1.0 * heartbeat,
            turn=0.1 * heartbeat,
        )


PROFILES = {
    "local": Timing.of(0.2),  # nodes on one machine that is not overloaded
    "lan": Timing.of(0.5),  # one site; a busy machine may pause for a second without losing leadership
    "wan": Timing.of(2.0, missed=5),  # several sites: a longer timeout costs less than an election for every delay
}

# -- events ------------------------------------------------------------------------------------------


class Received(NamedTuple):
    """A message arrived."""

    sender: int
    message: Message


class PeerConnected(NamedTuple):
    """Messages to this peer can be sent from now on."""

    peer: int


class PeerLost(NamedTuple):
    """The link to this peer broke, and one quick attempt to restore it failed."""

    peer: int


class EligibilityChanged(NamedTuple):
    """This node can do a leader's work, or can not."""

    eligible: bool


class Tick(NamedTuple):
    """Nothing happened except that time passed."""


Event = Received | PeerConnected | PeerLost | EligibilityChanged | Tick

# -- effects -----------------------------------------------------------------------------------------


class Save(NamedTuple):
    """Put this epoch on disk before carrying out the effects that follow."""

    epoch: Epoch


class Send(NamedTuple):
    """Send a message; it may be lost."""

    to: int
    message: Message


class Cause(Enum):
    """Why a leader counts as lost."""

    LINK_BROKEN = "its link broke"
    TIMEOUT = "its heartbeats stopped"
    RESIGNED = "it resigned"
    DENIED = "it no longer leads"


class LeaderDown(NamedTuple):
    """The leader that this node followed is lost, and why."""

    leader: int
    cause: Cause


class LeaderChanged(NamedTuple):
    """This node's leader from now on: itself, another, or (None) none yet."""

    leader: int | None
    epoch: Epoch


Effect = Save | Send | LeaderDown | LeaderChanged


class Election:
    """One node's part in the election.

    `saved` is the epoch that the last `Save` of an earlier incarnation put on disk. A node starts eligible;
    one that is not says so with an `EligibilityChanged` event, its first.
    """

    def __init__(self, node: int, peers: Iterable[int], timing: Timing, saved: Epoch = NEVER, now: float = 0.0) -> None:
        self.node = node
        self.peers = frozenset(peers) - {node}
        self.timing = timing
        self.epoch = saved
        self.eligible = True
        self.phase = Phase.STARTING
        self.leader: int | None = None
        self.deadline: float | None = now + (timing.settle if self.peers else 0.0)
        self._heartbeat_due = now  # a worker's next heartbeat to its leader
        self._connected: set[int] = set()
        self._suspected: int | None = None  # the leader that timed out: connected, but not asked until it is heard
        self._ineligible: set[int] = set()  # the peers that resigned
        self._latest = saved  # the latest epoch heard of, adopted or not
        self._asked: set[int] = set()  # whose ANSWER a candidate or renewing node still waits for
        self._answerer: int | None = None  # whose COORDINATOR a deferring node waits for; the voucher of a vouched one
        self._effects: list[Effect] = []

    @property
    def leads(self) -> bool:
        return self.phase is Phase.LEADER

    def step(self, now: float, event: Event) -> list[Effect]:
        """Take one event at time `now` (seconds, monotonic); return what to do about it, in order."""
        before = self.leader
        self._detect_pause(now)
        match event:
            case Received(sender, message):
                self._receive(now, sender, message)
            case PeerConnected(peer):
                self._peer_connected(now, peer)
            case PeerLost(peer):
                self._connected.discard(peer)
                self._peer_down(now, peer, Cause.LINK_BROKEN)
            case EligibilityChanged(eligible):
                self._eligibility_changed(now, eligible)
            case Tick():
                pass
        if self.deadline is not None and now >= self.deadline:
            self._deadline_passed(now)
        elif self.phase is Phase.WORKER and now >= self._heartbeat_due:
            self._send_heartbeat(now)
        if self.leader != before:
            self._effects.append(LeaderChanged(self.leader, self.epoch))
        effects, self._effects = self._effects, []
        return effects

    def next_call(self) -> float | None:
        """When `step` has to be called again at the latest, if nothing happens before."""
        if self.phase is Phase.WORKER and self.deadline is not None:
            return min(self.deadline, self._heartbeat_due)
        return self.deadline

    # -- events --------------------------------------------------------------------------------------

    def _detect_pause(self, now: float) -> None:
        """A node that was paused for long must not take its own pause for the death of others.

        Late by so much, a leader has sent nothing for `leader_timeout`. A worker's next call may be a heartbeat off,
        and its leader's last heartbeat another: so it may have heard nothing for that long only because it was paused.
        """
        due = self.next_call()
        late = self.timing.leader_timeout - (2 if self.phase is Phase.WORKER else 1) * self.timing.heartbeat
        if due is None or now - due < late:
            return
        if self.phase is Phase.LEADER:
            self._queue(now)  # others lead by now: come back with a new epoch, not with the old one
        else:
            self.deadline = now + self.timing.leader_timeout

    def _peer_connected(self, now: float, peer: int) -> None:
        self._connected.add(peer)
        self._clear_suspicion(peer)
        self._ineligible.discard(peer)
        if not self.eligible:
            self._send(peer, Kind.RESIGN)
        elif self.leads:
            self._send(peer, Kind.COORDINATOR)
        elif self.phase is Phase.STARTING and self._connected == self.peers:
            self._queue(now)

    def _peer_down(self, now: float, peer: int, cause: Cause) -> None:
        """Do not rely on `peer` any more: its link broke, it timed out, or it resigned."""
        match self.phase:
            case Phase.WORKER if peer == self.leader:
                self._effects.append(LeaderDown(peer, cause))
                self._queue(now)
            case Phase.QUEUED if peer > self.node:
                self._queue(now)
            case Phase.CANDIDATE | Phase.RENEWING if peer in self._asked:
                self._asked.remove(peer)
                if not self._asked:
                    self._unanswered(now)
            case Phase.DEFERRING | Phase.VOUCHED if peer == self._answerer:
                self._queue(now)

    def _eligibility_changed(self, now: float, eligible: bool) -> None:
        if eligible == self.eligible:
            return
        self.eligible = eligible
        if not eligible:
            if self.phase is not Phase.WORKER:
                self._observe()
            self._send_all(Kind.RESIGN)
        else:
            if self.leader is None or self.leader < self.node:
                self._queue(now)
            if not self.leads:
                self._send_all(Kind.ANSWER)  # which withdraws the RESIGN

    def _deadline_passed(self, now: float) -> None:
        match self.phase:
            case Phase.LEADER:
                self._send_all(Kind.HEARTBEAT)
                self.deadline = now + self.timing.heartbeat
            case Phase.WORKER:
                assert self.leader is not None
                self._suspected = self.leader
                self._peer_down(now, self.leader, Cause.TIMEOUT)
            case Phase.CANDIDATE | Phase.RENEWING:  # those asked may follow a vouched leader: none is suspected
                self._unanswered(now)
            case Phase.QUEUED | Phase.DEFERRING:
                self._elect(now)
            case Phase.VOUCHED:
                self._renew(now)
            case Phase.STARTING:
                self._queue(now)
            case Phase.OBSERVER:
                pass

    # -- messages ------------------------------------------------------------------------------------

    def _receive(self, now: float, sender: int, message: Message) -> None:
        if sender not in self.peers:
            return
        self._latest = max(self._latest, message.epoch)
        if message.kind is Kind.RESIGN:
            self._ineligible.add(sender)
        elif message.kind is not Kind.HEARTBEAT:
            self._ineligible.discard(sender)
        match message.kind:
            case Kind.ELECTION:
                self._election(now, sender, message.epoch)
            case Kind.ANSWER:
                self._answered(now, sender, message)
            case Kind.RESIGN if not self._accept_vouch(now, sender, message):
                self._peer_down(now, sender, Cause.RESIGNED)
            case Kind.COORDINATOR | Kind.HEARTBEAT if message.leader == sender:
                self._leadership_claimed(now, sender, message.epoch)
            case Kind.HEARTBEAT if message.leader == self.node and not self.leads:
                self._answer(sender)  # it has missed that this node no longer leads
        if self.leads and message.epoch > self.epoch:
            self._lead(now)  # still better than the leader of that epoch: outbid it

    def _election(self, now: float, sender: int, epoch: Epoch) -> None:
        """ELECTION: answer a sender that is lower than this node, or than the leader that it hears."""
        if self.leads:
            if sender < self.node and epoch <= self.epoch:
                self._send(sender, Kind.COORDINATOR)
        elif self.phase is Phase.WORKER and self.leader is not None and sender < self.leader:
            self._answer(sender)
        elif sender < self.node and (sender == self._answerer or not self._vouched):
            self._answer(sender)
            if self.phase is Phase.QUEUED or self._vouched:  # a voucher that asks no longer hears the leader
                self._elect(now)

    def _answered(self, now: float, sender: int, message: Message) -> None:
        """ANSWER: a better node is alive. Follow the leader that it names, or wait for the sender's COORDINATOR."""
        self._clear_suspicion(sender)
        if self._accept_vouch(now, sender, message):
            return
        if self._follows(sender) and message.epoch >= self.epoch and message.leader is None:
            self._peer_down(now, sender, Cause.DENIED)  # its next message may name a leader, or ask for one
            return
        if self.phase not in (Phase.CANDIDATE, Phase.DEFERRING, Phase.VOUCHED, Phase.RENEWING):
            return
        if sender > self.node and (sender == self._answerer or not self._vouched):
            self._answerer = sender
            self._become(Phase.DEFERRING, None, now + self.timing.coordinator_timeout)

    def _accept_vouch(self, now: float, sender: int, message: Message) -> bool:
        """Follow the leader that `sender` hears, until this node hears it itself or asks the sender again."""
        leader = message.leader
        if self.phase in (Phase.STARTING, Phase.QUEUED, Phase.OBSERVER):
            return False
        if self.phase is Phase.WORKER and sender != self.leader:
            return False
        if leader not in self.peers or leader <= self.node or (self.leads and message.epoch < self.epoch):
            return False
        if message.epoch > self.epoch:  # else that leader has yet to hear of this node's epoch, and to outbid it
            self._adopt(message.epoch)
        if self._suspected != leader:
            self._suspected = None
        self._answerer = sender
        self._become(Phase.VOUCHED, leader, now + self.timing.leader_timeout)
        return True

    def _leadership_claimed(self, now: float, sender: int, epoch: Epoch) -> None:
        """COORDINATOR, or a leader's HEARTBEAT: follow it, outbid it, or name a better leader to it."""
        better = self._better(sender)
        if better == self.node:
            return  # it will hear so: by the next heartbeat if this node leads, or by its next COORDINATOR
        if better is not None:
            if epoch > self.epoch:
                self._heartbeat_due = now  # an ANSWER counts only when our leader has outbid this epoch
            else:
                self._answer(sender)
        elif epoch < self.epoch:
            if not self._follows(sender):  # also if it is the vouched leader: the voucher may not reach it
                self._answer(sender)  # an epoch of the past; our epoch tells it so
        elif epoch > self.epoch or sender in self._connected or self._follows(sender):
            self._follow(now, sender, epoch)  # otherwise it is the last message of a node that was lost

    def _better(self, claimant: int) -> int | None:
        """The node that ought to lead rather than `claimant`, as far as this node knows: itself or its leader."""
        if self.phase is Phase.WORKER and self.leader is not None and self.leader > claimant:
            return self.leader
        if self.eligible and self.node > claimant:
            return self.node
        return None

    # -- changes of phase ----------------------------------------------------------------------------

    def _become(self, phase: Phase, leader: int | None, deadline: float | None) -> None:
        """The only place where phase and leader change. Raises UnknownTransition."""
        if phase is not self.phase:
            if phase not in TRANSITIONS[self.phase]:
                raise UnknownTransition(f"node {self.node}: {self.phase.value} -> {phase.value}")
            self.phase = phase
        self.leader = leader
        self.deadline = deadline

    def _queue(self, now: float) -> None:
        """There is no leader: the highest node leads now, the others wait for their turn."""
        self._answerer = None
        rank = len(self._rivals())
        if rank == 0 or not self.eligible:
            self._elect(now)
        else:
            self._become(Phase.QUEUED, None, now + rank * self.timing.turn)

    def _elect(self, now: float) -> None:
        """Ask every peer that would lead rather than this node; lead if there is none."""
        if not self.eligible:
            self._observe()
            return
        self._asked = self._rivals()
        if not self._asked:
            self._lead(now)
            return
        self._become(Phase.CANDIDATE, None, now + self.timing.answer_timeout)
        self._ask()

    def _renew(self, now: float) -> None:
        """Ask the voucher whether it still hears the leader."""
        if not self.eligible:
            self._observe()
            return
        assert self._answerer is not None
        self._asked = {self._answerer}
        self._become(Phase.RENEWING, self.leader, now + self.timing.answer_timeout)
        self._ask()

    def _unanswered(self, now: float) -> None:
        """None of the peers that were asked answers: a candidate leads; without its voucher, a node elects."""
        if self._vouched:
            self._queue(now)
        else:
            self._lead(now)

    def _lead(self, now: float) -> None:
        self._adopt(Epoch(self._latest.counter + 1, self.node))
        self._suspected = None  # the election is over; the next one asks every peer
        self._become(Phase.LEADER, self.node, now + self.timing.heartbeat)
        self._send_all(Kind.COORDINATOR)

    def _follow(self, now: float, leader: int, epoch: Epoch) -> None:
        if not self._follows(leader):
            self._heartbeat_due = now
            self._suspected = None  # the election is over; the next one asks every peer
        self._adopt(epoch)
        self._become(Phase.WORKER, leader, now + self.timing.leader_timeout)

    def _observe(self) -> None:
        self._become(Phase.OBSERVER, None, None)

    # -- helpers -------------------------------------------------------------------------------------

    def _follows(self, leader: int) -> bool:
        return self.phase is Phase.WORKER and self.leader == leader

    @property
    def _vouched(self) -> bool:
        return self.phase is Phase.VOUCHED or self.phase is Phase.RENEWING

    def _rivals(self) -> set[int]:
        """The peers that would lead rather than this node, as far as it knows."""
        return {peer for peer in self._connected - {self._suspected} - self._ineligible if peer > self.node}

    def _clear_suspicion(self, peer: int) -> None:
        if self._suspected == peer:
            self._suspected = None

    def _adopt(self, epoch: Epoch) -> None:
        self._latest = max(self._latest, epoch)
        if epoch != self.epoch:
            self.epoch = epoch
            self._effects.append(Save(epoch))

    def _ask(self) -> None:
        for peer in sorted(self._asked):
            self._send(peer, Kind.ELECTION)

    def _answer(self, to: int) -> None:
        self._send(to, Kind.ANSWER if self.eligible else Kind.RESIGN)

    def _send_heartbeat(self, now: float) -> None:
        """A worker's heartbeat to its leader."""
        assert self.leader is not None
        self._heartbeat_due = now + self.timing.heartbeat
        self._send(self.leader, Kind.HEARTBEAT, self._latest)

    def _send_all(self, kind: Kind) -> None:
        for peer in sorted(self._connected):
            self._send(peer, kind)

    def _send(self, to: int, kind: Kind, epoch: Epoch | None = None) -> None:
        if to not in self._connected:
            return
        heard = self.leader if self.phase in (Phase.WORKER, Phase.LEADER) else None
        self._effects.append(Send(to, Message(kind, epoch or self.epoch, heard)))
