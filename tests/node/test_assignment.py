"""Which nodes a leader assigns work to: the scheduler's conditions, one by one, without nodes."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import msgspec
import pytest

from safelight.config import Config
from safelight.encryption import Scheme
from safelight.node.work.load import LoadTracker
from safelight.node.work.scheduler import Scheduler
from safelight.wire.messages import Action, Load, Problem, Refusal
from safelight.wire.tickets import Scope

LEADER, WORKER, MOST = 3, 1, 4
FREE = Load(WORKER, "worker", 1, LEADER, free_slots=MOST)
FULL = msgspec.structs.replace(FREE, free_slots=0)


def leader(worker: Load) -> tuple[Scheduler, LoadTracker]:
    """The leader's, which has received this load of one worker."""
    load = LoadTracker(LEADER, 3, 60.0, MOST, 0)
    load.received(WORKER, [worker], LEADER)
    config = Config(servers=("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"), balance="least-loaded", max_in_flight=MOST)
    return Scheduler(config, LEADER, load), load


def chosen(scheduler: Scheduler, number: int = 0, user: str = "alice", *, linked: tuple[int, ...] = (WORKER,)) -> int:
    scope = Scope(user, f"{number:032x}", "a.png", 100, Action.SEAL, Scheme.SEALED)
    return scheduler.assign(scope, [LEADER], linked)


def test_a_worker_that_can_is_taken() -> None:
    assert chosen(leader(FREE)[0]) == WORKER


@pytest.mark.parametrize(
    ("changes", "linked"),
    [
        ({"free_slots": 0}, (WORKER,)),
        ({"ineligible": "its disk is full"}, (WORKER,)),
        ({"leader": 2}, (WORKER,)),
        ({"leader": None}, (WORKER,)),
        ({}, ()),
    ],
    ids=["full", "ineligible", "follows another", "follows none", "is not linked"],
)
def test_a_worker_that_cannot_is_spared(changes: dict[str, Any], linked: tuple[int, ...]) -> None:
    load = msgspec.structs.replace(FREE, **changes)
    assert chosen(leader(load)[0], linked=linked) == LEADER


def test_a_grant_takes_a_slot_at_once() -> None:
    it, _ = leader(msgspec.structs.replace(FREE, free_slots=1))
    assert [chosen(it, number, f"user {number}") for number in range(3)] == [WORKER, LEADER, LEADER]


def test_a_user_of_a_cluster_at_capacity_is_refused() -> None:
    it, load = leader(FULL)
    with ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(load.work("alice", 100))
        with pytest.raises(Refusal) as refusal:
            chosen(it)
        assert refusal.value.problem is Problem.BUSY


def test_where_all_nodes_are_full_of_one_user_the_leader_takes_anothers_share() -> None:
    it, load = leader(FULL)
    with ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(load.work("alice", 100))
        with pytest.raises(Refusal):
            chosen(it, 1)  # alice's; she waits now, too
        assert [chosen(it, number, "bob") for number in (2, 3)] == [LEADER] * 2
        with pytest.raises(Refusal) as refusal:
            chosen(it, 4, "bob")
        assert refusal.value.problem is Problem.BUSY


def test_slow_bodies_and_responses_take_no_slot() -> None:
    _, load = leader(FREE)
    with load.work("alice", 100) as slot, load.answering("alice"):
        assert load.own().free_slots == MOST - 1
        slot.set_slow(True)
        assert load.own().free_slots == MOST


def test_one_user_cannot_take_all_slots_without_using_them() -> None:
    it, _ = leader(FREE)
    for number in range(MOST // 2):
        chosen(it, number)
    with pytest.raises(Refusal) as refusal:
        chosen(it, 99)
    assert refusal.value.problem is Problem.BUSY
    assert chosen(it, 100, "bob") in (LEADER, WORKER)
    assert chosen(it, 0) in (LEADER, WORKER)  # one that is offered again counts once
