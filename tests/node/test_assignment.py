"""Which nodes a leader takes into account at all: the gate's conditions, one by one, without nodes."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from safelight.config import Config
from safelight.election.bully import Epoch
from safelight.encryption import Scheme
from safelight.encryption.keys import Keyring
from safelight.node.http.admission import Admission
from safelight.node.work.balance import Balancer
from safelight.node.work.load import LoadTracker
from safelight.wire.messages import Action, Load, Problem, Refusal
from safelight.wire.tickets import Scope

LEADER, WORKER, MOST = 3, 1, 4
FIT = Load(WORKER, "worker", 1, LEADER, room=MOST)


def gate(worker: Load, incarnation: str | None = "an incarnation") -> tuple[Admission, LoadTracker]:
    """The leader's, which has heard this of one worker."""
    book = LoadTracker(LEADER, lambda: ("leader", Epoch(1, LEADER), LEADER), str, 60.0, lambda: None, MOST, 0)
    book.heard(WORKER, [worker])
    config = Config(servers=("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"), balance="least-loaded", max_in_flight=MOST)
    election: Any = SimpleNamespace(incarnation_of=lambda node: incarnation)
    users: Any = None
    return Admission(config, LEADER, "our incarnation", Keyring.new(), users, election, book, Balancer()), book


def chosen(gate: Admission, number: int = 0, user: str = "alice", avoid: list[int] | None = None) -> int:
    job = Scope(user, f"{number:032x}", "a.png", 100, Action.SEAL, Scheme.SEALED)
    return gate._worker(job, [LEADER] if avoid is None else avoid)[0]


def test_a_worker_that_can_is_taken() -> None:
    assert chosen(gate(FIT)[0]) == WORKER


@pytest.mark.parametrize(
    ("changes", "incarnation"),
    [
        ({"room": 0}, "an incarnation"),
        ({"ineligible": "its disk is full"}, "an incarnation"),
        ({"leader": 2}, "an incarnation"),
        ({"leader": None}, "an incarnation"),
        ({}, None),
    ],
    ids=["full", "ineligible", "follows another", "follows nobody", "is not linked"],
)
def test_a_worker_that_cannot_is_spared(changes: dict[str, Any], incarnation: str | None) -> None:
    load = msgspec.structs.replace(FIT, **changes)
    assert chosen(gate(load, incarnation)[0]) == LEADER


def test_what_was_granted_takes_room_at_once() -> None:
    it, _ = gate(Load(WORKER, "worker", 1, LEADER, room=1))
    assert [chosen(it, number, f"user {number}") for number in range(3)] == [WORKER, LEADER, LEADER]


def test_who_is_full_on_all_nodes_says_so() -> None:
    it, book = gate(Load(WORKER, "worker", 1, LEADER, room=0))
    with ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(book.work("alice", 100))
        with pytest.raises(Refusal) as refusal:
            chosen(it)
        assert refusal.value.problem is Problem.BUSY


def test_where_all_nodes_are_full_of_one_user_the_leader_takes_anothers_share() -> None:
    it, book = gate(Load(WORKER, "worker", 1, LEADER, room=0))
    with ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(book.work("alice", 100))
        with pytest.raises(Refusal):
            chosen(it, 1)  # alice's; she waits now, too
        assert [chosen(it, number, "bob") for number in (2, 3)] == [LEADER] * 2
        with pytest.raises(Refusal) as refusal:
            chosen(it, 4, "bob")
        assert refusal.value.problem is Problem.BUSY


def test_crawling_bodies_and_answers_take_no_place() -> None:
    _, book = gate(FIT)
    with book.work("alice", 100) as work, book.answering("alice"):
        assert book.own().room == MOST - 1
        work.crawls(True)
        assert book.own().room == MOST


def test_one_user_cannot_take_all_places_without_using_them() -> None:
    it, _ = gate(FIT)
    for number in range(MOST // 2):
        chosen(it, number)
    with pytest.raises(Refusal) as refusal:
        chosen(it, 99)
    assert refusal.value.problem is Problem.BUSY
    assert chosen(it, 100, "bob") in (LEADER, WORKER)
    assert chosen(it, 0) in (LEADER, WORKER)  # one that is offered again counts once
