"""Every order in which things can happen to one request, down to a stated depth.

At each step any offer that is out may be granted or refused, the request may end in any way, a byte may move, or time
may pass until the next timer. States that differ only in the hour are one state. From `SAMPLE` states of the
last level, servers that answer in one way from then on must lead to an end in time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import NamedTuple

from safelight.client.requests.leader_request_state import (
    BodyDone,
    BodyFailed,
    BodyRefused,
    Event,
    Fail,
    RequestMachine,
    ServerChecked,
    Succeed,
)
from safelight.client.requests.leader_search import OfferFailed, OfferGranted, OfferRefused
from safelight.client.requests.retry_policy import ATTEMPTS
from safelight.client.transport.deadline import BUSY_FACTOR
from safelight.wire.messages import Grant, Problem, Refusal
from tests.client.machine_world import Violation, World

SAMPLE = 50
"""States of the last level that are followed to their ends."""

TIMEOUT, BODY_TIMEOUT = 3.0, 2.0  # seconds


class Story(NamedTuple):
    """Which problems servers have in an exploration, so that each is small enough to be complete."""

    offers: tuple[Problem, ...]
    bodies: tuple[Problem, ...]
    assigns: bool = False


def choices(world: World, story: Story) -> Iterator[Callable[[World], None]]:
    """All that may happen next."""
    yield World.pass_time
    events: list[Event] = []
    for server in world.offers:
        events += [OfferGranted(server, Grant(server, server, "", "")), OfferFailed(server, "refused", final=True)]
        events += [OfferRefused(server, _refusal(problem, server)) for problem in story.offers]
        if story.assigns:
            events += [OfferGranted(server, Grant(server, 1, "", "", assigned=other)) for other in world.servers]
    if world.body is not None:
        events += [BodyDone(), BodyFailed("broken")]
        events += [BodyRefused(_refusal(problem, world.body.server)) for problem in story.bodies]
        yield _move
    for server in world.checks:
        events += [ServerChecked(server, hangs=hangs) for hangs in (False, True)]
    for event in events:
        yield lambda state, event=event: state.step(event)  # type: ignore[misc]


def explore(story: Story, depth: int, servers: int = 2, core: type[RequestMachine] = RequestMachine) -> int:
    """Visit every state within `depth` events of the beginning; return how many there are. Raises `Violation`."""
    world = World(servers, TIMEOUT, BODY_TIMEOUT, core)
    world.step()
    level, seen = [world], {key(world)}
    for _ in range(depth):
        following = []
        for state in level:
            for choice in choices(state, story) if state.end is None else ():
                twin = state.twin()
                choice(twin)
                if (found := key(twin)) not in seen:
                    seen.add(found)
                    following.append(twin)
        level = following
    for state in level[:: max(1, len(level) // SAMPLE)]:
        ends(state)
    return len(seen)


def ends(state: World) -> None:
    """Whatever servers answer from now on, the request ends in time; and it succeeds if they let it."""
    granted = {server: OfferGranted(server, Grant(server, 99, "", "")) for server in state.servers}
    refused = {server: OfferRefused(server, _refusal(Problem.NO_LEADER, server)) for server in state.servers}
    ways: list[tuple[dict[int, Event], Event | None]] = [
        ({**granted}, BodyDone()),
        ({**granted}, BodyFailed("broken")),
        ({**granted}, BodyRefused(_refusal(Problem.INTERNAL, 1))),
        ({**granted}, BodyRefused(_refusal(Problem.VAULT_AWAY, 1))),
        ({**granted}, None),
        ({**refused}, None),
        ({}, None),
    ]
    for offers, body in ways:
        world = state.twin()
        world.always, world.always_body = offers, body
        world.advance((BUSY_FACTOR + 2) * TIMEOUT + ATTEMPTS * (TIMEOUT + BODY_TIMEOUT))
        if world.end is None:
            raise Violation(f"it never ends: {offers}, {body}")
        if isinstance(body, BodyDone) and isinstance(world.end, Fail) and state.end is None and world.sent > state.sent:
            raise Violation(f"it fails although the servers let it succeed: {world.end.error}")
        assert isinstance(world.end, Succeed | Fail)


def key(world: World) -> Hashable:
    """What tells two states apart, whatever the time is."""
    machine, now = world.machine, world.time
    search = machine._search

    def ago(time: float) -> float:
        return round(time - now, 3)

    searching = search and (
        ago(search.started),
        tuple((server, ago(search._due_at(server))) for server in sorted(search._next)),
        tuple(sorted((server, str(reply)) for server, reply in search.replies.items())),
        tuple(backoff._pause for backoff in search._backoff.values()),
        search._final is not None,
        search._slow,
        search._named and ago(search._named),
        ago(search._deadline._since),
    )
    return (
        machine.phase,
        searching,
        ago(machine.moved) if world.body else None,
        ago(machine._due),
        machine._attempts,
        tuple(machine._avoid),
        tuple(sorted(machine._full)),
        tuple(map(ago, machine._no_vault)),
        repr(machine._instead),
        repr(machine._granted),
        machine._silent,
        tuple(sorted(machine._reported)),
        tuple((server, ago(sent)) for server, sent in sorted(world.offers.items())),
        tuple((server, ago(sent)) for server, sent in sorted(world.checks.items())),
        repr(world.body),
        world.end is not None,
        world.problems,
    )


def _move(world: World) -> None:
    world.machine.moved = world.time
    world.pass_time()


def _refusal(problem: Problem, node: int) -> Refusal:
    leader = 2 if problem is Problem.NOT_THE_LEADER else None
    return Refusal(problem, problem.slug, node=node, leader=leader)
