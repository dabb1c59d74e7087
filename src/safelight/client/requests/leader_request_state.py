"""What a client does next about a request that only the leader carries out: a pure state machine.

No sockets, no clock, no tasks, no files. What happens is an *event*, given to `RequestMachine.step` with the time at
which it happened; what to do about it are the *effects* that `step` returns, to be carried out in order before the
next event. `RequestMachine.next_call` is when to call it again at the latest. `leader_request` drives it with real
servers; tests/client drives it with scripts, and in every order of events.

    SEARCHING: an offer to every server  --granted-->  SENDING: the request to one server  --done-->  FINISHING
        ^                                                |
        +---- PAUSING  <---- refused, or broke off ------+     (what may be repeated: `retry_policy`)

While the body is stalled, a second search looks for a node that would take the request instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Literal, NamedTuple

from safelight.client.requests import leader_search
from safelight.client.requests.leader_search import (
    OFFER_TIMEOUT,
    LeaderSearch,
    NoLeader,
    OfferFailed,
    OfferGranted,
    OfferRefused,
    Reply,
)
from safelight.client.requests.retry_policy import ATTEMPTS, MIN_TRIES, Limit, policy
from safelight.client.transport.deadline import BUSY_FACTOR
from safelight.errors import SafelightError
from safelight.wire.messages import MAX_AVOIDED, Grant, Problem, Refusal

REPLIES_WAIT = 0.3
"""Seconds after the offer until a finished request stops waiting for the replies of the other servers."""

STALLED = 1.0
"""Seconds without a moving byte after which a client looks for another node."""

TIMED_OUT = "no answer in time"


class BrokeOff(NoLeader):
    """The leader accepted this image again and again, and never finished it."""


class Granted(NamedTuple):
    """A grant, which server gave it, and which is to do the work: the same, or the one that it assigned."""

    leader: int
    server: int
    grant: Grant

    @property
    def node(self) -> int:
        """The node that does the work, as the cluster numbers its nodes."""
        return self.grant.node if self.grant.assigned is None else self.grant.assigned


# -- events: beside these, the replies to offers (see `leader_search`) ---------------------------------


class BodyDone(NamedTuple):
    """The request succeeded."""


class BodyRefused(NamedTuple):
    """The server refused the request."""

    refusal: Refusal


class BodyFailed(NamedTuple):
    """The connection broke, or what came back was not the answer."""

    reason: str


class ServerChecked(NamedTuple):
    """The answer to CheckServer. `hangs`: the server did not even say which cluster it belongs to."""

    server: int
    hangs: bool


Event = OfferGranted | OfferRefused | OfferFailed | BodyDone | BodyRefused | BodyFailed | ServerChecked


# -- effects -------------------------------------------------------------------------------------------


class SendOffer(NamedTuple):
    """Offer to this server, once. It is answered by OfferGranted, OfferRefused or, after OFFER_TIMEOUT, OfferFailed."""

    server: int
    avoid: tuple[int, ...] = ()


class CancelOffers(NamedTuple):
    """Forget all offers that are not answered."""


class SendBody(NamedTuple):
    """Send the request. It is answered by BodyDone, BodyRefused or BodyFailed."""

    granted: Granted


class CancelBody(NamedTuple):
    """Break off the request, and return when it has ended."""


class CheckServer(NamedTuple):
    """Ask a server which cluster it belongs to. It is answered by ServerChecked, after OFFER_TIMEOUT at the latest."""

    server: int


class Report(NamedTuple):
    """Call this method of the Feedback."""

    method: Literal["broadcasting", "declined", "unreachable", "waiting", "processed"]
    arguments: tuple[int | str | None, ...] = ()


class Succeed(NamedTuple):
    """The end: the request was carried out."""

    granted: Granted


class Fail(NamedTuple):
    """The end: raise this."""

    error: SafelightError


Effect = SendOffer | CancelOffers | SendBody | CancelBody | CheckServer | Report | Succeed | Fail


class Phase(Enum):
    """What the request waits for."""

    PAUSING = "pausing"  # before a search
    SEARCHING = "searching"
    SENDING = "sending"
    FINISHING = "finishing"  # done; the other servers have a moment to reply, for the record
    ENDED = "ended"


TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.PAUSING: frozenset({Phase.SEARCHING}),
    Phase.SEARCHING: frozenset({Phase.SENDING, Phase.ENDED}),
    Phase.SENDING: frozenset({Phase.SENDING, Phase.PAUSING, Phase.FINISHING, Phase.ENDED}),
    Phase.FINISHING: frozenset({Phase.ENDED}),
    Phase.ENDED: frozenset(),
}


class RequestMachine:
    """One request, from its first offer to its end. Times are in seconds, of any clock that never goes back."""

    def __init__(
        self,
        now: float,
        servers: Sequence[int],
        *,
        timeout: float,
        body_timeout: float,
        preferred: int,
        jitter: Callable[[], float],
    ) -> None:
        """`preferred`: the server that probably leads. `jitter`: a random factor for pauses, from 0.5 to 1.5."""
        self.phase = Phase.PAUSING
        self.moved = now
        """When a byte of the request last moved; the sender keeps this up to date."""
        self._servers = tuple(servers)
        self._timeout, self._body_timeout, self._jitter = timeout, body_timeout, jitter
        self._preferred = preferred
        self._busy_until = now + BUSY_FACTOR * timeout
        self._due = now  # the end of the pause, the next look for another node, or the end of FINISHING
        self._now = self._planned = self._searched = now
        self._effects: list[Effect] = [Report("broadcasting")]
        self._search: LeaderSearch | None = None
        self._offered: set[int] = set()  # servers whose answer to an offer is out
        self._silent = False  # those offers are not for the user to know of
        self._avoid: tuple[int, ...] = ()
        self._granted: Granted | None = None
        self._instead: Granted | None = None  # takes over if the server that is being checked hangs
        self._attempts = 0
        self._full: set[int] = set()
        self._no_vault: list[float] = []
        self._nodes: dict[int, int] = {}  # the server that a node is, as far as they have said
        self._reported: set[int] = set()
        self._waiting_for = ""
        self._cut_off_reported = False

    def step(self, now: float, event: Event | None = None) -> list[Effect]:
        """What is to be done after this event, before the next event is taken; None: time has passed."""
        if now - self._planned >= 0.75 * STALLED:  # this process itself was suspended: the body is not stalled
            self.moved = now
        self._now = now
        match event:
            case OfferGranted() | OfferRefused() | OfferFailed():
                self._replied(event)
            case BodyDone() if self.phase is Phase.SENDING:
                self._done()
            case BodyRefused(refusal) if self.phase is Phase.SENDING:
                self._refused(refusal)
            case BodyFailed(reason) if self.phase is Phase.SENDING:
                self._broke_off(reason)
            case ServerChecked(server, hangs) if self._instead and self._granted and server == self._granted.server:
                self._checked(self._instead, hangs)
        if self.phase is Phase.SENDING:
            self._watch()
        if self.phase is Phase.PAUSING and now >= self._due:
            self._become(Phase.SEARCHING)
            self._start_search(silent=False)
        if self.phase is Phase.SEARCHING and self._search is not None:
            self._go_on_searching(self._search)
        if self.phase is Phase.FINISHING:
            self._finish()
        self._planned = self.next_call() or math.inf
        effects, self._effects = self._effects, []
        return effects

    def next_call(self) -> float | None:
        """When to call `step` again if nothing happens before; None: never, it has ended."""
        if self.phase is Phase.ENDED:
            return None
        times = [self._due] if self.phase in (Phase.PAUSING, Phase.FINISHING) else []
        if self.phase is Phase.SENDING:
            times.append(self._now + STALLED / 4)
        if self._search is not None:
            times += [time for time in self._search.times() if time > self._now]
        return min(times)

    def _become(self, phase: Phase) -> None:
        assert phase in TRANSITIONS[self.phase], f"{self.phase} -> {phase}"
        self.phase = phase

    def _fail(self, error: SafelightError) -> None:
        self._become(Phase.ENDED)
        self._effects += [CancelOffers(), Fail(error)]

    def _wait_for(self, reason: str) -> None:
        if reason != self._waiting_for:
            self._waiting_for = reason
            self._effects.append(Report("waiting", (reason,)))

    # -- searching -----------------------------------------------------------------------------------

    def _start_search(self, *, silent: bool) -> None:
        self._cancel_offers()
        self._silent, self._waiting_for, self._searched = silent, "", self._now
        likely_first = sorted(self._servers, key=lambda server: server != self._preferred)
        self._search = LeaderSearch(self._now, likely_first, self._timeout, self._jitter)

    def _cancel_offers(self) -> None:
        if self._offered:
            self._effects.append(CancelOffers())
            self._offered.clear()

    def _replied(self, reply: OfferGranted | Reply) -> None:
        self._offered.discard(reply.server)
        if isinstance(reply, OfferGranted):
            self._nodes[reply.grant.node] = reply.server
        else:
            if isinstance(reply, OfferRefused) and reply.refusal.node:
                self._nodes[reply.refusal.node] = reply.server
            if not self._silent:
                self._report(reply)
        if self._search is not None:
            self._search.reply(self._now, reply)

    def _report(self, reply: Reply) -> None:
        """Report what a server replied, once for each server."""
        if reply.server in self._reported:
            return
        if leader_search.is_unreachable(reply):
            self._effects.append(Report("unreachable", (reply.server, reply.reason)))
        elif isinstance(reply, OfferRefused) and reply.refusal.problem in (Problem.NOT_THE_LEADER, Problem.LEAVING):
            self._effects.append(Report("declined", (reply.server, reply.reason)))
        else:
            return
        self._reported.add(reply.server)

    def _go_on_searching(self, search: LeaderSearch) -> None:
        if search.grants:
            self._search = None
            granted = self._best(search.grants)
            if granted.server in self._servers:
                self._send(granted)
            else:
                self._fail(NoLeader(f"the leader assigned node {granted.node}: name its address in --servers, too"))
            return
        if search.cut_off(self._now) and not self._cut_off_reported:
            self._report_cut_off(search)
        if error := search.error(self._now):
            self._fail(error)
            return
        self._send_offers(search)
        if self._now >= search.started + leader_search.QUIET_START:
            self._wait_for(search.waiting_for(self._now))

    def _send_offers(self, search: LeaderSearch) -> None:
        servers = search.due(self._now)
        self._offered.update(servers)
        self._effects += [SendOffer(server, self._avoid) for server in servers]

    def _report_cut_off(self, search: LeaderSearch) -> None:
        leader = search.unreachable_leader
        absent = [server for server, reply in search.replies.items() if leader_search.is_unreachable(reply)]
        if absent and leader is not None:
            self._cut_off_reported = True
            server = leader if leader in absent else absent[-1]
            self._effects.append(Report("unreachable", (server, leader_search.beyond_reach(leader))))

    def _best(self, grants: Sequence[OfferGranted]) -> Granted:
        """The grant of the latest epoch, and where to send the request."""
        leader, grant, at = max(grants, key=lambda granted: granted.grant.epoch)
        if grant.assigned is None:
            return Granted(leader, leader, grant)
        return Granted(leader, self._nodes.get(grant.assigned, grant.assigned) if at is None else at, grant)

    # -- sending -------------------------------------------------------------------------------------

    def _send(self, granted: Granted) -> None:
        self._become(Phase.SENDING)
        self._granted, self._instead, self._preferred = granted, None, granted.leader
        self._attempts += 1
        self.moved = self._due = self._now
        self._effects.append(SendBody(granted))

    def _watch(self) -> None:
        """Look whether the body moves, and for another node while it does not."""
        quiet, granted, search = self._now - self.moved, self._granted, self._search
        assert granted is not None
        if quiet >= self._body_timeout:
            self._effects.append(CancelBody())
            self._broke_off(TIMED_OUT)
        elif search is not None:
            if search.grants:
                self._end_search()
                self._compare(granted, self._best(search.grants))
            elif search.error(self._now) or self._now >= search.started + OFFER_TIMEOUT:
                self._end_search()
            else:
                self._send_offers(search)
        elif self._instead is None and quiet >= STALLED and self._now >= self._due:
            self._start_search(silent=True)
            self._wait_for(f"server {granted.server} does not go on")
            assert self._search is not None
            self._send_offers(self._search)

    def _end_search(self) -> None:
        """The search of a stalled request: it is repeated soon."""
        self._search = None
        self._cancel_offers()
        self._due = self._now + STALLED / 4

    def _compare(self, granted: Granted, other: Granted) -> None:
        """A later epoch has another leader. In the same epoch, the leader assigns another node than one that hangs."""
        if other.server not in self._servers:
            return
        if other.grant.epoch > granted.grant.epoch:
            self._supersede(other)
        elif granted.server not in (granted.leader, other.server):
            self._instead = other
            self._effects.append(CheckServer(granted.server))

    def _checked(self, other: Granted, hangs: bool) -> None:
        self._instead = None
        self._due = self._now + STALLED / 4
        if hangs:
            self._avoid_assigned()
            self._supersede(other)

    def _supersede(self, other: Granted) -> None:
        self._effects.append(CancelBody())
        if self._attempts >= ATTEMPTS:
            self._broke_off(TIMED_OUT)
            return
        self._wait_for("another node takes it: sending again")
        self._send(other)

    def _avoid_assigned(self) -> None:
        """Ask for another node next time, if the one that was assigned did not do it."""
        node = self._granted.grant.assigned if self._granted else None
        if node is not None and node not in self._avoid and len(self._avoid) < MAX_AVOIDED:
            self._avoid += (node,)

    # -- the request's answer ------------------------------------------------------------------------

    def _refused(self, refusal: Refusal) -> None:
        """Repeat the request, or fail, as the retry policy says."""
        assert self._granted is not None
        what, server = policy(refusal), self._granted.server
        match what.request:
            case None:
                self._fail(refusal)
                return
            case Limit.BUSY:
                if self._now >= self._busy_until:
                    self._fail(refusal)
                    return
                self._attempts -= 1
            case Limit.TIMEOUT:
                self._no_vault.append(self._now)
                waited = self._now - self._no_vault[0]
                if waited >= self._timeout and len(self._no_vault) >= MIN_TRIES:
                    self._fail(leader_search.no_vault(waited))
                    return
                self._attempts -= 1
                self._wait_for(leader_search.UNAVAILABLE)
            case Limit.ATTEMPTS | Limit.PER_SERVER:
                if self._attempts >= ATTEMPTS or server in self._full:
                    self._fail(refusal)
                    return
                if what.request is Limit.PER_SERVER:
                    self._full.add(server)
                self._wait_for(f"{refusal}: looking for the leader, then sending again")
        if what.avoid:
            self._avoid_assigned()
        self._pause(what.pause and what.pause * self._jitter())

    def _broke_off(self, reason: str) -> None:
        assert self._granted is not None
        why = f"server {self._granted.server}: {reason}"
        if self._attempts >= ATTEMPTS:
            self._fail(BrokeOff(f"the image broke off {self._attempts} times, last with {why}: try again"))
            return
        self._avoid_assigned()
        self._wait_for(f"{why}: looking for the leader, then sending again")
        self._pause(0.0)

    def _pause(self, seconds: float) -> None:
        self._become(Phase.PAUSING)
        self._search = self._instead = None
        self._due = self._now + seconds

    def _done(self) -> None:
        self._become(Phase.FINISHING)
        self._search = self._instead = None
        if self._silent:
            self._cancel_offers()

    def _finish(self) -> None:
        """For the record of who declined, give the others a moment. Those that have been reported need none."""
        unheard = sorted(self._offered - self._reported)
        self._due = self._searched + REPLIES_WAIT
        if unheard and self._now < self._due:
            return
        for server in unheard:
            self._report(OfferFailed(server, TIMED_OUT))
        granted = self._granted
        assert granted is not None
        self._become(Phase.ENDED)
        by = None if granted.grant.assigned is None else granted.leader
        self._effects += [Report("processed", (granted.server, by)), Succeed(granted)]
