"""Servers without a network for `RequestMachine`: they answer when a test says so, and what must never happen is
noticed here.

The rules are stated by what a user could see, and by the retry policy's table; the machine's own state is not asked.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

from safelight.client.requests.leader_request_state import (
    BodyDone,
    BodyRefused,
    BrokeOff,
    CancelBody,
    CancelOffers,
    CheckServer,
    Effect,
    Event,
    Fail,
    Granted,
    Report,
    RequestMachine,
    SendBody,
    SendOffer,
    ServerChecked,
    Succeed,
)
from safelight.client.requests.leader_search import (
    CUT_OFF,
    OFFER_TIMEOUT,
    OfferFailed,
    OfferGranted,
    OfferRefused,
    Reply,
)
from safelight.client.requests.retry_policy import ATTEMPTS, MIN_TRIES, Limit, policy
from safelight.client.transport.deadline import ALL_DOWN, BUSY_FACTOR
from safelight.errors import SafelightError
from safelight.wire.messages import Problem, Refusal

LATENCY = 0.01
"""Seconds in which a server answers that always answers the same."""

UNCOUNTED = (Limit.BUSY, Limit.TIMEOUT)


class Violation(Exception):
    """A rule was broken."""


class World:
    """One request and its servers. Time passes only in `advance` and `pass_time`."""

    def __init__(
        self,
        servers: int,
        timeout: float,
        body_timeout: float,
        core: type[RequestMachine] = RequestMachine,
        on_effect: Callable[[Effect], None] = lambda effect: None,
    ) -> None:
        self.time = 0.0
        self.timeout, self.body_timeout = timeout, body_timeout
        self.servers = tuple(range(1, servers + 1))
        self.machine = core(
            0.0, self.servers, timeout=timeout, body_timeout=body_timeout, preferred=servers, jitter=lambda: 1.0
        )
        self._on_effect = on_effect
        self.offers: dict[int, float] = {}  # when each one that is not answered was sent
        self.checks: dict[int, float] = {}
        self.body: Granted | None = None
        self.always: dict[int, Event] = {}  # what servers answer every offer with, after LATENCY
        self.always_body: Event | None = None  # the same, for requests
        self.body_sent = 0.0
        self.end: Succeed | Fail | None = None
        self.done = False
        self.searching: float | None = None  # since when
        self.replies: dict[int, Reply] = {}
        self.replies_changed = 0.0
        self.sent = 0  # requests that count
        self.problems: tuple[tuple[int, Problem], ...] = ()  # of requests: what refused them
        self.no_vault: tuple[float, ...] = ()
        self.unknown_node = False

    def twin(self) -> World:
        """A copy that goes its own way."""
        twin = copy.copy(self)
        twin.offers, twin.checks, twin.replies = dict(self.offers), dict(self.checks), dict(self.replies)
        machine = twin.machine = copy.copy(self.machine)
        machine._effects, machine._offered, machine._full = [], set(machine._offered), set(machine._full)
        machine._no_vault, machine._nodes = list(machine._no_vault), dict(machine._nodes)
        machine._reported = set(machine._reported)
        if machine._search is not None:
            search = machine._search = copy.copy(machine._search)
            search.grants, search.replies, search._next = [], dict(search.replies), dict(search._next)
            search._deadline = copy.copy(search._deadline)
            search._backoff = {server: copy.copy(each) for server, each in search._backoff.items()}
        return twin

    # -- what happens --------------------------------------------------------------------------------

    def step(self, *events: Event) -> None:
        """One event after the other, as the driver does; those that an effect has cancelled meanwhile never happen."""
        for event in events or (None,):
            if event is None or self._is_awaited(event):
                self._step(event)

    def _is_awaited(self, event: Event) -> bool:
        match event:
            case OfferGranted(server) | OfferRefused(server) | OfferFailed(server):
                return server in self.offers
            case ServerChecked(server):
                return server in self.checks
            case _:
                return self.body is not None

    def _step(self, event: Event | None) -> None:
        if event is not None:
            self._note(event)
        effects = self.machine.step(self.time, event)
        if self.end is not None and effects:
            raise Violation(f"after the end: {effects}")
        for effect in effects:
            self._on_effect(effect)
            self._apply(effect)
        due = self.machine.next_call()
        if self.end is None and (due is None or due <= self.time):
            raise Violation(f"the machine has lost its timer: {due}")

    def next_time(self) -> float:
        times = [time + (LATENCY if at in self.always else OFFER_TIMEOUT) for at, time in self.offers.items()]
        times += [time + OFFER_TIMEOUT for time in self.checks.values()]
        if self.body is not None and self.always_body is not None:
            times.append(self.body_sent + LATENCY)
        return min([*times, self.machine.next_call() or float("inf")])

    def pass_time(self) -> None:
        """Until the next timer, the next answer that always comes, or the next timeout of an offer or a check."""
        self.time = self.next_time()
        answers = [self.always[at] for at, sent in self.offers.items() if at in self.always and self._by_now(sent)]
        if self.body is not None and self.always_body is not None and self._by_now(self.body_sent):
            answers.append(self.always_body)
        late = [server for server, time in self.offers.items() if time + OFFER_TIMEOUT <= self.time]
        checked = [server for server, time in self.checks.items() if time + OFFER_TIMEOUT <= self.time]
        self.step(
            *answers,
            *(OfferFailed(server, "no answer in time", connected=True) for server in late if server not in self.always),
            *(ServerChecked(server, hangs=True) for server in checked),
        )

    def _by_now(self, sent: float) -> bool:
        return sent + LATENCY <= self.time

    def advance(self, seconds: float, *, moving: bool = False) -> None:
        """`moving`: the body's bytes move all this time."""
        end = self.time + seconds
        while self.end is None and self.next_time() <= end:
            if moving:
                self.machine.moved = self.next_time()
            self.pass_time()
        self.time = end

    def _note(self, event: Event) -> None:
        match event:
            case OfferGranted(server) | OfferRefused(server) | OfferFailed(server):
                del self.offers[server]
                if isinstance(event, OfferGranted):
                    assigned = event.grant.assigned
                    self.unknown_node = assigned is not None and event.at is None and assigned not in self.servers
                elif self.replies.get(server) != event:
                    self.replies[server] = event
                    self.replies_changed = self.time
            case ServerChecked(server):
                del self.checks[server]
            case _:
                assert self.body is not None
                self.done = isinstance(event, BodyDone)
                if isinstance(event, BodyRefused):
                    problem = event.refusal.problem
                    self.problems += ((self.body.server, problem),)
                    self.sent -= policy(event.refusal).request in UNCOUNTED
                    if problem is Problem.VAULT_AWAY:
                        self.no_vault += (self.time,)
                self.body, self.searching = None, None

    # -- what the machine does about it --------------------------------------------------------------

    def _apply(self, effect: Effect) -> None:
        match effect:
            case SendOffer() | SendBody() if self.done:
                raise Violation(f"after success: {effect}")
            case SendOffer(server):
                if server in self.offers:
                    raise Violation(f"two offers at once to server {server}")
                if self.searching is None and self.body is None:
                    self.searching, self.replies = self.time, {}
                self.offers[server] = self.time
            case CancelOffers():
                self.offers.clear()
            case SendBody(granted):
                if self.body is not None:
                    raise Violation("two bodies in flight")
                self.body, self.searching = granted, None
                self.sent += 1
                self.body_sent = self.time
            case CancelBody():
                if self.body is None:
                    raise Violation("no body in flight")
                self.body, self.searching = None, None
            case CheckServer(server):
                self.checks[server] = self.time
            case Succeed():
                if not self.done:
                    raise Violation("success, and the request was not carried out")
                self.end = effect
            case Fail(error):
                self.end = effect
                if not self._may_fail(error):
                    raise Violation(f"it gives up while a retry is allowed: {error}")
            case Report():
                pass

    def _may_fail(self, error: SafelightError) -> bool:
        if isinstance(error, BrokeOff):
            return self.sent >= ATTEMPTS
        if not isinstance(error, Refusal):
            return self._may_find_nobody()
        if self.searching is not None:
            replied_by_all = len(self.replies) == len(self.servers)
            return not policy(error).offer and (replied_by_all or self.time - self.searching >= OFFER_TIMEOUT)
        match policy(error).request:
            case None:
                return True
            case Limit.BUSY:
                return self.time >= BUSY_FACTOR * self.timeout
            case Limit.PER_SERVER if self.problems[-1] in self.problems[:-1]:
                return True
        return self.sent >= ATTEMPTS or self.problems[-1][0] in [s for s, p in self.problems[:-1] if _once(p)]

    def _may_find_nobody(self) -> bool:
        if self.searching is None:
            return len(self.no_vault) >= MIN_TRIES and self.time - self.no_vault[0] >= self.timeout
        waited, failures = self.time - self.searching, [*self.replies.values()]
        lost = [reply for reply in failures if isinstance(reply, OfferFailed)]
        all_down = len(lost) == len(self.servers) and not any(reply.connected for reply in lost)
        cut_off = self.time - self.replies_changed >= CUT_OFF and all(reply.final for reply in lost)
        return (
            self.unknown_node or cut_off or waited >= (min(ALL_DOWN, self.timeout) if all_down else self.timeout) - 1e-9
        )


def _once(problem: Problem) -> bool:
    return policy(Refusal(problem, "")).request is Limit.PER_SERVER
