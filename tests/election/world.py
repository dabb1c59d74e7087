"""A virtual world for the election: a clock, a network and nodes that start, die, pause and drift.

It takes the place of the nodes' drivers and machines, and models what they can do:

- every node dials every other; a link is simplex, and in order unless a scenario says otherwise;
- a killed process breaks its links within milliseconds, a paused one or a cut cable breaks none;
- a paused node finds its messages waiting when it resumes, before or after its overdue timers;
- only what was saved survives a restart.

After every step the world checks what must hold at any time, and raises `Violation` if it does not.
Time is counted in seconds since the world's beginning; everything is a function of the commands.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from safelight.election.bully import (
    NEVER,
    Cause,
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
    Phase,
    Received,
    Save,
    Send,
    Tick,
    Timing,
    UnknownTransition,
)

DELAY = 0.010  # of a message on a healthy link, and of a connection
NOTICE = 0.020  # from a process's death until its peers know that its links broke
REORDERED = 0.035  # by how much a message is late on a link that reorders

Link = tuple[int, int]  # from, to


class Violation(AssertionError):
    """Something that must never happen, happened."""


@dataclass
class Weather:
    """What the network does to every message, by chance; the chances are reproducible."""

    seed: int
    delay: float  # up to, seconds
    loss: float
    duplicate: float
    reorder: float


@dataclass
class Machine:
    """One node: its process, if it runs, and what outlives it."""

    node: int
    incarnation: int = 0
    election: Election | None = None
    disk: Epoch = NEVER
    eligible: bool = True
    paused: bool = False
    inbox: list[Event] = field(default_factory=list)  # while paused
    rate: float = 1.0  # of its clock
    timer: int = 0  # the valid timer's serial number
    highest: Epoch = NEVER  # the epoch in which it was last seen, in any incarnation
    lost: dict[int, Epoch] = field(default_factory=dict)  # peers whose link broke, and our epoch then
    phase: Phase | None = None
    leader: int | None = None
    cause: Cause | None = None
    touched: float = 0.0  # when a fault last befell it
    vouched: float = -1e9  # when it last followed a vouched leader

    def clock(self, time: float) -> float:
        return 1000.0 * self.node + self.rate * time


class World:
    def __init__(
        self,
        nodes: Iterable[int],
        timing: Timing,
        log: Callable[[float, str], None] | None = None,
        core: type[Election] = Election,
    ) -> None:
        self.timing = timing
        self.time = 0.0
        self.machines = {node: Machine(node) for node in nodes}
        self.messages: Counter[Kind] = Counter()
        self.leader_changes = 0
        self.weather: Weather | None = None
        self.blocked: set[Link] = set()
        self.slow: dict[Link, float] = {}
        self.duplicating: set[Link] = set()
        self.reordering: set[Link] = set()
        self._transcript = log
        self._core = core
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0
        self._links: dict[Link, tuple[int, int]] = {}  # connected, between which incarnations
        self._arrivals: dict[Link, float] = {}  # of the last message, for order
        self._sent: Counter[Link] = Counter()
        self._terms: dict[Epoch, int] = {}
        self._touched: dict[Link, float] = {}  # when a link last changed
        self._stormy = 0.0  # when the weather last changed
        self._answers = 0  # that a node which reads what was waiting may still give to one message
        self._minute = (0, 0)  # the running heartbeat interval, and the messages in it
        self._longest = max(
            timing.leader_timeout, timing.settle, timing.coordinator_timeout, len(self.machines) * timing.turn
        )

    # -- what can happen -----------------------------------------------------------------------------

    def start(self, node: int, dials: bool = True) -> None:
        machine = self.machines[node]
        machine.touched = self.time
        if machine.election is not None:
            return
        machine.incarnation += 1
        machine.paused = False
        machine.inbox.clear()
        machine.lost.clear()
        machine.phase = machine.leader = None
        self._log(f"{node} starts" + (f", saved {machine.disk}" if machine.disk != NEVER else ""))
        machine.election = self._core(
            node, self.machines, self.timing, saved=machine.disk, now=machine.clock(self.time)
        )
        if machine.election.epoch < machine.highest:
            raise Violation(f"{node} was in {machine.highest}, and restarts in {machine.election.epoch}")
        if not machine.eligible:
            self._step(machine, EligibilityChanged(False))
        else:
            self._step(machine, Tick())
        if dials:
            self._dial()

    def kill(self, node: int) -> None:
        machine = self.machines[node]
        machine.touched = self.time
        if machine.election is None:
            return
        self._log(f"{node} dies")
        machine.election = None
        machine.timer += 1
        machine.paused = False
        self._links = {link: ends for link, ends in self._links.items() if link[0] != node}
        self._dial()

    def pause(self, node: int) -> None:
        machine = self.machines[node]
        machine.touched = self.time
        if machine.election is not None and not machine.paused:
            self._log(f"{node} pauses")
            machine.paused = True

    def resume(self, node: int, timers_first: bool = False) -> None:
        machine = self.machines[node]
        machine.touched = self.time
        if not machine.paused:
            return
        self._log(f"{node} resumes, {len(machine.inbox)} messages waiting")
        machine.paused = False
        if timers_first:
            self._step(machine, Tick())
        while machine.inbox:
            self._answers = len(
                self.machines
            )  # what waited is answered one by one, at once: no storm, but bounded, too
            self._step(machine, machine.inbox.pop(0))
        self._answers = 0
        self._step(machine, Tick())
        self._dial()

    def set_eligible(self, node: int, eligible: bool) -> None:
        machine = self.machines[node]
        machine.touched = self.time
        if machine.eligible == eligible:
            return
        machine.eligible = eligible
        self._log(f"{node} is {'eligible' if eligible else 'ineligible'}")
        self._give(machine, EligibilityChanged(eligible))

    def block(self, links: Iterable[Link]) -> None:
        """Lose everything on these links from now on, silently."""
        links = set(links)
        self.blocked |= links
        self._touched.update(dict.fromkeys(links, self.time))

    def unblock(self, links: Iterable[Link]) -> None:
        links = set(links)
        self.blocked -= links
        self._touched.update(dict.fromkeys(links, self.time))
        self._dial()

    def heal(self) -> None:
        altered = {*self.blocked, *self.slow, *self.duplicating, *self.reordering}
        self.slow.clear()
        self.duplicating.clear()
        self.reordering.clear()
        self.unblock(altered)

    def set_weather(self, weather: Weather | None) -> None:
        self.weather = weather
        self._stormy = self.time

    def break_link(self, link: Link) -> None:
        """Break a connection; both ends are there, so it will be dialled again."""
        if link in self._links:
            self._lose(link)
            self._dial([link])

    def drift(self, node: int, rate: float) -> None:
        machine = self.machines[node]
        if machine.election is None:
            machine.rate = rate

    def advance(self, seconds: float) -> None:
        end = self.time + seconds
        while self._queue and self._queue[0][0] <= end:
            self.time, _, happen = heapq.heappop(self._queue)
            happen()
        self.time = end

    # -- what is the case ----------------------------------------------------------------------------

    def running(self) -> dict[int, Election]:
        return {node: machine.election for node, machine in self.machines.items() if machine.election is not None}

    def awake(self) -> dict[int, Election]:
        return {node: core for node, core in self.running().items() if not self.machines[node].paused}

    def reaches(self, a: int, b: int) -> bool:
        """Messages from `a` get to `b`: both are awake, and the link is up and not cut."""
        awake = self.awake()
        return a in awake and b in awake and (a, b) in self._links and (a, b) not in self.blocked

    def talk(self, a: int, b: int) -> bool:
        return self.reaches(a, b) and self.reaches(b, a)

    def chatter(self) -> int:
        """Messages so far, heartbeats not counted."""
        return self.messages.total() - self.messages[Kind.HEARTBEAT]

    # -- the network ---------------------------------------------------------------------------------

    def _dial(self, links: Iterable[Link] | None = None) -> None:
        """Break what cannot hold, connect what can be connected: as the drivers do, in little time."""
        for link in links or [(a, b) for a in self.machines for b in self.machines if a != b]:
            a, b = (self.machines[end] for end in link)
            if a.election is None or link in self.blocked or link[::-1] in self.blocked:
                continue
            ends = (a.incarnation, b.incarnation)
            if link in self._links and (b.election is None or self._links[link] != ends):
                self._after(NOTICE, self._maybe_lose, link)
            elif link not in self._links and b.election is not None and not b.paused:
                self._after(DELAY, self._connect, link)

    def _maybe_lose(self, link: Link) -> None:
        a, b = (self.machines[end] for end in link)
        if link in self._links and (b.election is None or self._links[link] != (a.incarnation, b.incarnation)):
            self._lose(link)
            self._dial([link])

    def _lose(self, link: Link) -> None:
        del self._links[link]
        self._touched[link] = self.time
        self._give(self.machines[link[0]], PeerLost(link[1]))

    def _connect(self, link: Link) -> None:
        a, b = (self.machines[end] for end in link)
        if link in self._links or a.election is None or b.election is None or b.paused:
            return
        if link in self.blocked or link[::-1] in self.blocked:
            return
        self._links[link] = (a.incarnation, b.incarnation)
        self._touched[link] = self.time
        self._give(a, PeerConnected(link[1]))

    def _transmit(self, sender: Machine, to: int, message: Message) -> str:
        """Put a message on its way. Return what happens to it, for the transcript."""
        link = (sender.node, to)
        receiver = self.machines[to]
        self.messages[message.kind] += 1
        if message.kind is not Kind.HEARTBEAT:
            self._check_storm()
        self._sent[link] += 1
        if link not in self._links or link in self.blocked or receiver.election is None:
            return "lost"
        delay = self.slow.get(link, DELAY)
        copies = 2 if link in self.duplicating else 1
        late = REORDERED if link in self.reordering and self._sent[link] % 2 else 0.0
        if self.weather is not None:
            chance = random.Random(f"{self.weather.seed} {link} {self._sent[link]}")
            if chance.random() < self.weather.loss:
                return "lost"
            delay += chance.random() * self.weather.delay
            copies += chance.random() < self.weather.duplicate
            late += (chance.random() < self.weather.reorder) * chance.random() * 5 * self.weather.delay
        arrival = max(self.time + delay, self._arrivals.get(link, 0.0))
        if not late:
            self._arrivals[link] = arrival
        incarnation = receiver.incarnation
        for copy in range(copies):
            self._at(arrival + late + copy * DELAY, self._arrive, link, incarnation, message)
        return "late" if late else "twice" if copies > 1 else ""

    def _arrive(self, link: Link, incarnation: int, message: Message) -> None:
        receiver = self.machines[link[1]]
        if receiver.incarnation == incarnation and link not in self.blocked:
            self._give(receiver, Received(link[0], message))

    def _after(self, delay: float, action: Callable[[Link], None], link: Link) -> None:
        self._at(self.time + delay, action, link)

    def _at(self, time: float, action: Callable[..., None], *arguments: object) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (time, self._serial, lambda: action(*arguments)))

    # -- the driver ----------------------------------------------------------------------------------

    def _give(self, machine: Machine, event: Event) -> None:
        if machine.paused:
            machine.inbox.append(event)
        elif machine.election is not None:
            self._step(machine, event)

    def _timer(self, machine: Machine, serial: int) -> None:
        if serial == machine.timer and machine.election is not None and not machine.paused:
            self._step(machine, Tick())

    def _step(self, machine: Machine, event: Event) -> None:
        core = machine.election
        assert core is not None
        now = machine.clock(self.time)
        match event:
            case PeerConnected(peer):
                machine.lost.pop(peer, None)
            case PeerLost(peer):
                machine.lost[peer] = core.epoch
        led, asked = core.epoch if core.leads else None, core.phase in (Phase.CANDIDATE, Phase.RENEWING)
        if _vouched(core):
            machine.vouched = self.time
        try:
            effects = core.step(now, event)
        except UnknownTransition as error:
            raise Violation(f"no such transition: {error}") from None
        lines: dict[tuple[Message, str], list[int]] = {}
        for effect in effects:
            match effect:
                case Save(epoch):
                    machine.disk = epoch
                case Send(to, message):
                    lines.setdefault((message, self._transmit(machine, to, message)), []).append(to)
                case LeaderDown(_, cause):
                    machine.cause = cause
                case LeaderChanged():
                    self.leader_changes += 1
        if self._transcript is not None:
            self._log_step(machine, core, lines)
        self._check(machine, core, now, led, behind=bool(machine.inbox) and (asked or isinstance(event, Received)))
        due = core.next_call()
        machine.timer += 1
        if due is not None:
            self._at(self.time + max(due - now, 0.0) / machine.rate + 1e-6, self._timer, machine, machine.timer)

    def _log(self, text: str) -> None:
        if self._transcript is not None:
            self._transcript(self.time, text)

    def _log_step(self, machine: Machine, core: Election, sent: dict[tuple[Message, str], list[int]]) -> None:
        """Write down what a node has become and what it sent."""
        if (core.phase, core.leader) != (machine.phase, machine.leader):
            self._log_role(machine, core)
        for (message, fate), receivers in sent.items():
            if message.kind is not Kind.HEARTBEAT:
                heard = message.leader if message.kind in (Kind.ANSWER, Kind.RESIGN) else None
                text = f"{message.kind.name} {message.epoch}" + (f', "I hear {heard}"' if heard else "")
                text += f"  ({fate})" if fate else ""
                self._log(f"  {machine.node} -> {' '.join(map(str, receivers))}  {text}")

    def _log_role(self, machine: Machine, core: Election) -> None:
        node, why = machine.node, f" ({machine.leader}: {machine.cause.value})" if machine.cause else ""
        match core.phase:
            case Phase.LEADER:
                text = f"leads in {core.epoch}"
            case Phase.WORKER:
                text = f"follows {core.leader}"
            case Phase.QUEUED:
                text = "waits for its turn"
            case Phase.CANDIDATE:
                text = "asks"
            case Phase.DEFERRING:
                text = "waits for a leader"
            case Phase.VOUCHED:
                text = f"follows vouched leader {core.leader}"
            case Phase.RENEWING:
                text = f"asks again about vouched leader {core.leader}"
            case Phase.OBSERVER:
                text = "has no leader and is ineligible"
            case Phase.STARTING:
                text = ""
        if text:
            self._log(f"{node} {text}{why}")
        machine.phase, machine.leader, machine.cause = core.phase, core.leader, None

    # -- what must hold at any time ------------------------------------------------------------------

    def _check_storm(self) -> None:
        if self._answers:
            self._answers -= 1
            return
        interval = int(self.time / self.timing.heartbeat)
        said = self._minute[1] + 1 if self._minute[0] == interval else 1
        self._minute = (interval, said)
        if said > 5 * len(self.machines) ** 2 + 20:
            raise Violation(f"a storm: {said} messages within a heartbeat")

    def steady(self, a: int, b: int) -> bool:
        """For a while there has been no fault of `b` or between the two."""
        links = {(a, b), (b, a)}
        touched = [self._stormy, self.machines[b].touched, *(self._touched.get(link, 0.0) for link in links)]
        return (
            self.weather is None
            and not links & (self.slow.keys() | self.reordering)
            and self.time - max(touched) > self.timing.leader_timeout + self.timing.heartbeat
            and self.talk(a, b)
        )

    def _check_usurper(self, node: int) -> None:
        """No node begins to lead while it can reach a better one, as far as it knows."""
        for other, better in self.awake().items():
            # A node that followed a vouched leader does not answer: a vouch is not passed on.
            since = 0.0 if _vouched(better) else self.time - self.machines[other].vouched
            answers = since > 1.2 * self.timing.answer_timeout
            knows_lost = other in self.machines[node].lost  # and not yet that it is connected again
            if other > node and better.eligible and answers and not knows_lost and self.steady(node, other):
                raise Violation(f"{node} begins to lead, where {other} ({better.phase.value}) should")

    def _check(self, machine: Machine, core: Election, now: float, led: Epoch | None, behind: bool) -> None:
        """`behind`: answers, or other messages, that came while it was paused are still unread."""
        node = machine.node
        if core.epoch < machine.highest:
            raise Violation(f"{node} falls from {machine.highest} to {core.epoch}")
        machine.highest = core.epoch
        if core.leads:
            if core.epoch.leader != node or core.leader != node or not core.eligible:
                raise Violation(f"{node} leads in {core.epoch}, which it must not")
            if core.epoch != led and core.epoch in self._terms:
                raise Violation(f"{node} begins {core.epoch}, which has been led before")
            self._terms[core.epoch] = node
            if led is None and not behind:  # what waits for it is what it does not know yet
                self._check_usurper(node)
        elif core.leader == node:
            raise Violation(f"{node} follows itself")
        if core.phase is Phase.WORKER:
            lost = machine.lost.get(core.leader or 0)
            if lost is not None and core.epoch <= lost:
                raise Violation(f"{node} follows {core.leader}, whose link broke, because of an old message")
            if core.eligible and (core.leader or 0) < node:
                raise Violation(f"{node} is eligible, and follows {core.leader}")
        if core.phase is Phase.OBSERVER:
            if core.eligible:
                raise Violation(f"{node} is eligible, and only observes")
        elif core.deadline is None or not now < core.deadline <= now + self._longest + 1e-6:
            raise Violation(f"{node} has no proper timer: {core.phase}, {core.deadline} at {now}")


def _vouched(core: Election) -> bool:
    return core.phase in (Phase.VOUCHED, Phase.RENEWING)
