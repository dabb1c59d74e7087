"""The election: Bully, as a pure state machine. No sockets, no clock, no tasks, no disk, no logging.

The law of this file: whatever happens to a node is an *event* given to `Election.step` with the time
at which it happened; whatever the node must do about it is the list of *effects* that `step` returns,
to be carried out in order before the next event. `Election.deadline` says when to call again at the
latest. So the node drives it with a real clock and real links, and the tests with virtual ones.

The algorithm is H. Garcia-Molina, "Elections in a Distributed Computing System", IEEE Transactions on
Computers C-31(1), 1982: the highest live id leads, and a higher one that returns takes over. Ours adds

- epochs, (counter, leader id) in that order, so that no two nodes ever lead in the same one and what
  comes from the past is known as such;
- eligibility: a node that cannot do the work says RESIGN and is passed over;
- turns: a leaderless node first gives way to those above it, a little for each, so the next highest
  leads at once and the others hear of it, which costs n messages where all electing at once cost n²;
- vouching: an ANSWER names the leader that its sender hears with its own ears, so that a node which
  has lost only its own link to that leader follows it by that word instead of leading beside it. Such
  a node vouches for nobody itself, so no two nodes can keep a dead leader alive between them.

Leadership saves work; it is not what keeps images safe. Two halves of a split network have a leader
each, on purpose.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Epoch(NamedTuple):
    """One term of one leader. Ordered; unique, because a node never uses a counter twice."""

    counter: int
    leader: int

    def __str__(self) -> str:
        return f"{self.counter}.{self.leader}"


NEVER = Epoch(0, 0)  # before the first


class Kind(Enum):
    ELECTION = "election"  # "is anybody higher than me alive?"
    ANSWER = "answer"  # "yes: me, or the leader that I hear"
    COORDINATOR = "coordinator"  # "I lead, in this epoch"
    HEARTBEAT = "heartbeat"  # the leader's "I still lead", and the worker's "I still follow"
    RESIGN = "resign"  # "do not count on me: I cannot lead", and otherwise like ANSWER


class Message(NamedTuple):
    """What nodes say to each other.

    `epoch` is the sender's; a worker's HEARTBEAT carries the latest that it has heard of. `leader` is
    the leader whom the sender is, or hears directly.
    """

    kind: Kind
    epoch: Epoch
    leader: int | None = None


@dataclass(frozen=True)
class Timing:
    """The knobs, all in seconds. Each trades how soon a failure is noticed against false alarms."""

    heartbeat: float  # between two heartbeats: lower notices a hung leader sooner, and chats more
    silence: float  # without a heartbeat until the leader counts as dead: at least two heartbeats
    answer: float  # a candidate waits for an ANSWER: more than a round trip and a busy machine's pause
    coordinator: float  # whoever got an ANSWER waits for the COORDINATOR: more than `answer`
    settle: float  # a starting node waits for its links before it elects: more than a connection takes
    turn: float  # between the turns of neighbours in rank: more than a message takes

    @classmethod
    def of(cls, heartbeat: float, missed: int = 3) -> Timing:
        """Everything in proportion to the heartbeat: silence after `missed`, then an election of one at most."""
        return cls(
            heartbeat=heartbeat,
            silence=missed * heartbeat,
            answer=0.5 * heartbeat,
            coordinator=1.0 * heartbeat,
            settle=1.0 * heartbeat,
            turn=0.1 * heartbeat,
        )


PROFILES = {
    "local": Timing.of(0.2),  # nodes on one machine that is not starved
    "lan": Timing.of(0.5),  # one site; a busy machine may stand still for a second without losing its lead
    "wan": Timing.of(2.0, missed=5),  # sites apart: patience costs less than an election for every hiccup
}

# -- events ------------------------------------------------------------------------------------------


class Received(NamedTuple):
    sender: int
    message: Message


class PeerConnected(NamedTuple):
    """Messages to this peer can be sent from now on."""

    peer: int


class PeerLost(NamedTuple):
    """The link to this peer broke, and one quick attempt to restore it failed."""

    peer: int


class Readiness(NamedTuple):
    """This node can do a leader's work, or can not."""

    ready: bool


class Tick(NamedTuple):
    """Nothing happened but time."""


Event = Received | PeerConnected | PeerLost | Readiness | Tick

# -- effects -----------------------------------------------------------------------------------------


class Save(NamedTuple):
    """Put this epoch on disk before carrying out the effects that follow."""

    epoch: Epoch


class Send(NamedTuple):
    to: int
    message: Message


class Cause(Enum):
    BROKEN = "its link broke"
    SILENT = "it fell silent"
    RESIGNED = "it resigned"
    DENIED = "it leads no more"


class LeaderDown(NamedTuple):
    """The leader that this node followed is no more, and why this node thinks so."""

    leader: int
    cause: Cause


class LeaderChanged(NamedTuple):
    """This node's leader from now on: itself, another, or (None) nobody yet."""

    leader: int | None
    epoch: Epoch


Effect = Save | Send | LeaderDown | LeaderChanged


class Phase(Enum):
    """What a node is doing, and so what its one deadline means."""

    STARTING = "starting"  # waits for its links            -> waits for its turn
    QUEUED = "queued"  # leaderless, waits for its turn  -> elects
    CANDIDATE = "candidate"  # has sent ELECTION               -> unanswered: leads
    DEFERRING = "deferring"  # has got an ANSWER               -> no COORDINATOR: asks again
    WORKER = "worker"  # hears its leader                -> silence: the leader is down
    LEADER = "leader"  # leads                           -> the next heartbeat is due
    OBSERVER = "observer"  # cannot lead and has no leader   -> waits for one, without a deadline


class Election:
    """One node's part in the election.

    `saved` is the epoch that the last `Save` of an earlier life put on disk. A node starts ready to lead;
    one that is not says so with a `Readiness` event, its first.
    """

    def __init__(self, node: int, peers: Iterable[int], timing: Timing, saved: Epoch = NEVER, now: float = 0.0) -> None:
        self.node = node
        self.peers = frozenset(peers) - {node}
        self.timing = timing
        self.epoch = saved
        self.leader: int | None = None
        self.phase = Phase.STARTING
        self.ready = True
        self.deadline: float | None = now + (timing.settle if self.peers else 0.0)
        self._report_due = now  # a worker's next heartbeat to its leader
        self._connected: set[int] = set()
        self._suspected: int | None = None  # the leader that fell silent: connected, but not asked until it is heard
        self._unfit: set[int] = set()  # resigned
        self._latest = saved  # the latest epoch heard of, adopted or not
        self._asked: set[int] = set()  # whose ANSWER a candidate still waits for
        self._answerer: int | None = None  # on whose ANSWER a deferring node relies
        self._effects: list[Effect] = []

    @property
    def leads(self) -> bool:
        return self.phase is Phase.LEADER

    def step(self, now: float, event: Event) -> list[Effect]:
        """Take one event at time `now` (seconds, monotonic); return what to do about it, in order."""
        before = self.leader
        self._wake(now)
        match event:
            case Received(sender, message):
                self._receive(now, sender, message)
            case PeerConnected(peer):
                self._peer_connected(now, peer)
            case PeerLost(peer):
                self._connected.discard(peer)
                self._gone(now, peer, Cause.BROKEN)
            case Readiness(ready):
                self._readiness(now, ready)
            case Tick():
                pass
        if self.deadline is not None and now >= self.deadline:
            self._deadline_passed(now)
        elif self.phase is Phase.WORKER and now >= self._report_due:
            self._report(now)
        if self.leader != before:
            self._effects.append(LeaderChanged(self.leader, self.epoch))
        effects, self._effects = self._effects, []
        return effects

    def next_call(self) -> float | None:
        """When `step` wants to be called again at the latest, if nothing happens before."""
        if self.phase is Phase.WORKER and self.deadline is not None:
            return min(self.deadline, self._report_due)
        return self.deadline

    # -- events --------------------------------------------------------------------------------------

    def _wake(self, now: float) -> None:
        """Whoever was stopped for long must blame itself, not the others, for the silence.

        Late by so much, a leader has been silent for `silence`. A worker's next call may be a heartbeat off, and its
        leader's last word another: so it may have heard nothing for that long only because it was stopped itself.
        """
        due = self.next_call()
        late = self.timing.silence - (2 if self.phase is Phase.WORKER else 1) * self.timing.heartbeat
        if due is None or now - due < late:
            return
        if self.phase is Phase.LEADER:
            self._queue(now)  # others lead by now: come back with a new epoch, not with the old one
        else:
            self.deadline = now + self.timing.silence

    def _peer_connected(self, now: float, peer: int) -> None:
        self._connected.add(peer)
        self._trust(peer)
        self._unfit.discard(peer)
        if not self.ready:
            self._send(peer, Kind.RESIGN)
        elif self.leads:
            self._send(peer, Kind.COORDINATOR)
        elif self.phase is Phase.STARTING and self._connected == self.peers:
            self._queue(now)

    def _gone(self, now: float, peer: int, cause: Cause) -> None:
        """Do not count on `peer` any more: its link broke, it fell silent, or it resigned."""
        match self.phase:
            case Phase.WORKER if peer == self.leader:
                self._effects.append(LeaderDown(peer, cause))
                self._queue(now)
            case Phase.QUEUED if peer > self.node:
                self._queue(now)
            case Phase.CANDIDATE if peer in self._asked:
                self._asked.remove(peer)
                if not self._asked:
                    self._unanswered(now)
            case Phase.DEFERRING if peer == self._answerer:
                self._queue(now)

    def _readiness(self, now: float, ready: bool) -> None:
        if ready == self.ready:
            return
        self.ready = ready
        if not ready:
            if self.phase is not Phase.WORKER:
                self._observe()
            self._send_all(Kind.RESIGN)
        else:
            if self.leader is None or self.leader < self.node:
                self._queue(now)
            if not self.leads:
                self._send_all(Kind.ANSWER)  # count on us again

    def _deadline_passed(self, now: float) -> None:
        match self.phase:
            case Phase.LEADER:
                self._send_all(Kind.HEARTBEAT)
                self.deadline = now + self.timing.heartbeat
            case Phase.WORKER:
                assert self.leader is not None
                self._suspected = self.leader
                self._gone(now, self.leader, Cause.SILENT)
            case Phase.CANDIDATE:  # a node that follows by another's word does not answer: silence proves no death
                self._unanswered(now)
            case Phase.QUEUED | Phase.DEFERRING:
                self._elect(now)
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
            self._unfit.add(sender)
        elif message.kind is not Kind.HEARTBEAT:
            self._unfit.discard(sender)
        match message.kind:
            case Kind.ELECTION:
                self._election(now, sender, message.epoch)
            case Kind.ANSWER:
                self._answered(now, sender, message)
            case Kind.RESIGN if not self._take_word(now, sender, message):
                self._gone(now, sender, Cause.RESIGNED)
            case Kind.COORDINATOR | Kind.HEARTBEAT if message.leader == sender:
                self._claimed(now, sender, message.epoch)
            case Kind.HEARTBEAT if message.leader == self.node and not self.leads:
                self._answer(sender)  # it has missed that we do not lead any more
        if self.leads and message.epoch > self.epoch:
            self._lead(now)  # still better than whoever led in that epoch: outbid it

    def _election(self, now: float, sender: int, epoch: Epoch) -> None:
        """ELECTION: answer whoever is lower than we are, or than the leader whom we hear."""
        if self.leads:
            if sender < self.node and epoch <= self.epoch:
                self._send(sender, Kind.COORDINATOR)
        elif self.phase is Phase.WORKER and self.leader is not None and sender < self.leader:
            self._answer(sender)
        elif sender < self.node and (sender == self._answerer or not self._follows_by_word):
            self._answer(sender)
            if self.phase is Phase.QUEUED or self._follows_by_word:
                self.leader = None  # whoever vouched for it does not hear it any more
                self._elect(now)

    def _answered(self, now: float, sender: int, message: Message) -> None:
        """ANSWER: somebody better is alive. Follow by the sender's word, or wait for its COORDINATOR."""
        self._trust(sender)  # it hears us, after all
        if self._take_word(now, sender, message):
            return
        if self._follows(sender) and message.epoch >= self.epoch and message.leader is None:
            self._gone(now, sender, Cause.DENIED)  # with its next words it may name a leader, or ask for one
            return
        if self.phase not in (Phase.CANDIDATE, Phase.DEFERRING):
            return
        if sender > self.node and (sender == self._answerer or not self._follows_by_word):
            self.leader = None
            self._defer(now, sender, self.timing.coordinator)

    def _take_word(self, now: float, sender: int, message: Message) -> bool:
        """Follow the leader whom `sender` hears, until it is heard here or the sender is asked again."""
        leader = message.leader
        if self.phase not in (Phase.CANDIDATE, Phase.DEFERRING, Phase.LEADER) and not self._follows(sender):
            return False
        if leader not in self.peers or leader <= self.node or (self.leads and message.epoch < self.epoch):
            return False
        if message.epoch > self.epoch:  # else that leader has yet to hear of ours, and to outbid it
            self._adopt(message.epoch)
        self.leader = leader
        if self._suspected != leader:
            self._suspected = None
        self._defer(now, sender, self.timing.silence)
        return True

    def _claimed(self, now: float, sender: int, epoch: Epoch) -> None:
        """COORDINATOR, or a leader's HEARTBEAT: follow it, outbid it, or tell it of somebody better."""
        better = self._better(sender)
        if better == self.node:
            return  # it will hear so: by our next heartbeat if we lead, by our COORDINATOR if we are about to
        if better is not None:
            if epoch > self.epoch:
                self._report_due = now  # our word counts when our leader has outbid this epoch
            else:
                self._answer(sender)
        elif epoch < self.epoch:
            if not self._follows(sender):  # also if we follow it by another's word: that one may not reach it
                self._answer(sender)  # it speaks from the past; our epoch tells it so
        elif epoch > self.epoch or sender in self._connected or self._follows(sender):
            self._follow(now, sender, epoch)  # otherwise these are the last words of a node that we lost

    def _better(self, claimant: int) -> int | None:
        """Who ought to lead rather than `claimant`, as far as this node knows: itself or its leader."""
        if self.phase is Phase.WORKER and self.leader is not None and self.leader > claimant:
            return self.leader
        if self.ready and self.node > claimant:
            return self.node
        return None

    # -- what a node becomes -------------------------------------------------------------------------

    def _queue(self, now: float) -> None:
        """Nobody leads: the highest elects now, the others in their turn."""
        self.leader = self._answerer = None
        rank = len(self._rivals())
        if rank == 0 or not self.ready:
            self._elect(now)
            return
        self.phase = Phase.QUEUED
        self.deadline = now + rank * self.timing.turn

    def _elect(self, now: float) -> None:
        """Ask whoever would lead rather than this node; or, following by somebody's word, ask that one."""
        if not self.ready:
            self._observe()
            return
        if self._follows_by_word and self._answerer is not None:
            self._asked = {self._answerer}
        else:
            self._asked = self._rivals()
        if not self._asked:
            self._lead(now)
            return
        self.phase = Phase.CANDIDATE
        self.deadline = now + self.timing.answer
        for peer in sorted(self._asked):
            self._send(peer, Kind.ELECTION)

    def _unanswered(self, now: float) -> None:
        """Nobody of those asked is there: lead; or, having followed by the word of one, elect in earnest."""
        if self._follows_by_word:
            self._queue(now)
        else:
            self._lead(now)

    def _defer(self, now: float, answerer: int, patience: float) -> None:
        self.phase = Phase.DEFERRING
        self.deadline = now + patience
        self._answerer = answerer

    def _lead(self, now: float) -> None:
        self._adopt(Epoch(self._latest.counter + 1, self.node))
        self.leader = self.node
        self.phase = Phase.LEADER
        self._suspected = None  # the election is over; the next one asks everybody
        self.deadline = now + self.timing.heartbeat
        self._send_all(Kind.COORDINATOR)

    def _follow(self, now: float, leader: int, epoch: Epoch) -> None:
        if not self._follows(leader):
            self._report_due = now
            self._suspected = None  # the election is over; the next one asks everybody
        self._adopt(epoch)
        self.leader = leader
        self.phase = Phase.WORKER
        self.deadline = now + self.timing.silence

    def _observe(self) -> None:
        self.leader = None
        self.phase = Phase.OBSERVER
        self.deadline = None

    # -- helpers -------------------------------------------------------------------------------------

    def _follows(self, leader: int) -> bool:
        return self.phase is Phase.WORKER and self.leader == leader

    @property
    def _follows_by_word(self) -> bool:
        return self.leader is not None and self.phase in (Phase.DEFERRING, Phase.CANDIDATE)

    def _rivals(self) -> set[int]:
        """Whoever would lead rather than this node, as far as it knows."""
        return {peer for peer in self._connected - {self._suspected} - self._unfit if peer > self.node}

    def _trust(self, peer: int) -> None:
        if self._suspected == peer:
            self._suspected = None

    def _adopt(self, epoch: Epoch) -> None:
        self._latest = max(self._latest, epoch)
        if epoch != self.epoch:
            self.epoch = epoch
            self._effects.append(Save(epoch))

    def _answer(self, to: int) -> None:
        self._send(to, Kind.ANSWER if self.ready else Kind.RESIGN)

    def _report(self, now: float) -> None:
        assert self.leader is not None
        self._report_due = now + self.timing.heartbeat
        self._send(self.leader, Kind.HEARTBEAT, self._latest)

    def _send_all(self, kind: Kind) -> None:
        for peer in sorted(self._connected):
            self._send(peer, kind)

    def _send(self, to: int, kind: Kind, epoch: Epoch | None = None) -> None:
        if to not in self._connected:
            return
        heard = self.leader if self.phase in (Phase.WORKER, Phase.LEADER) else None
        self._effects.append(Send(to, Message(kind, epoch or self.epoch, heard)))
