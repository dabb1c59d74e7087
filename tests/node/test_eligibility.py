"""Who may lead: no node with a fault, nor one that had one a moment ago; the hold-down grows with each failure."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safelight.node.election.eligibility import CALM, FIRST_HOLD, LINGER, LONGEST_HOLD, Eligibility
from safelight.node.state.crash_record import Run, next_run


def hold(eligibility: Eligibility, now: float) -> float:
    """Let the disk fail and recover at `now`; how long the node is held down from then."""
    eligibility.observe("disk", False, now)
    eligibility.observe("disk", True, now)
    seconds = 0.0
    while not eligibility.eligible(now + seconds):
        seconds += 0.5
    return seconds


def test_a_node_without_a_fault_is_eligible_from_the_start() -> None:
    eligibility = Eligibility()
    eligibility.observe("disk", True, 0.0)
    assert eligibility.eligible(0.0)
    assert eligibility.reason(0.0) == ""


def test_a_node_is_ineligible_until_it_has_no_fault_and_a_moment_longer() -> None:
    eligibility = Eligibility()
    eligibility.observe("disk", False, 1.0, "the disk is full")
    eligibility.observe("keyring", False, 2.0, "the keyring is gone")
    assert eligibility.reason(2.0) == "the disk is full; the keyring is gone"
    eligibility.observe("disk", True, 100.0)
    assert eligibility.reason(1000.0) == "the keyring is gone"
    eligibility.observe("keyring", True, 1000.0)
    assert not eligibility.eligible(1000.0)
    assert eligibility.eligible(1000.0 + FIRST_HOLD)


def test_only_the_lack_of_descriptors_is_reported_of_a_node_that_has_none() -> None:
    eligibility = Eligibility()
    eligibility.observe("vault", False, 1.0, "the vault cannot be used: Too many open files")
    eligibility.observe("epoch", False, 1.0, "cannot save the epoch")
    eligibility.observe("descriptors", False, 2.0, "it has no free file descriptors")
    assert eligibility.reason(2.0) == "it has no free file descriptors"
    eligibility.observe("descriptors", True, 3.0)
    assert "epoch" in eligibility.reason(3.0)


def test_the_hold_down_doubles_with_each_failure_up_to_a_bound() -> None:
    eligibility = Eligibility()
    holds = [hold(eligibility, now) for now in range(0, 100 * 60, 61)]
    assert holds[:4] == [FIRST_HOLD, 2 * FIRST_HOLD, 4 * FIRST_HOLD, 8 * FIRST_HOLD]
    assert set(holds[6:]) == {LONGEST_HOLD}


def test_failures_are_forgotten_after_a_calm_time() -> None:
    eligibility = Eligibility()
    assert hold(eligibility, 0.0) < hold(eligibility, 10.0)
    assert hold(eligibility, 100.0 + CALM) == FIRST_HOLD


def test_the_same_failure_seen_again_is_not_counted() -> None:
    eligibility = Eligibility()
    for now in range(1000):
        eligibility.observe("disk", False, now)
    assert hold(eligibility, 1000.0) == FIRST_HOLD


def test_a_node_that_stops_is_never_eligible_again() -> None:
    eligibility = Eligibility()
    eligibility.observe("epoch", False, 0.0)
    eligibility.drain()
    eligibility.observe("epoch", True, 1.0)
    eligibility.step_down(0.0)
    assert not eligibility.eligible(1e9)


def test_a_node_steps_down_for_the_requested_time() -> None:
    eligibility = Eligibility()
    eligibility.step_down(60.0)
    assert not eligibility.eligible(59.9)
    assert eligibility.eligible(60.0)  # nothing failed: there is nothing to hold down for
    eligibility.step_down(120.0)
    assert not eligibility.eligible(61.0)
    eligibility.step_down(61.0)
    assert eligibility.eligible(61.0)


def yields(crashes: int) -> float:
    """For how long a node is ineligible if it is restarted after so many crashes, and another leads."""
    eligibility = Eligibility()
    eligibility.crashed(crashes, 1000.0)
    assert eligibility.eligible(1000.0) == (not eligibility.yields(1000.0))
    seconds = 0.0
    while not eligibility.eligible(1000.0 + seconds):
        seconds += 0.5
    return seconds


def test_the_first_crash_costs_nothing_and_each_further_one_twice_as_much_up_to_a_bound() -> None:
    assert [yields(crashes) for crashes in range(6)] == [0.0, 0.0, 2.0, 4.0, 8.0, 16.0]
    assert yields(7) == yields(10**9) == LONGEST_HOLD


def test_a_node_that_crashed_is_eligible_if_no_node_leads() -> None:
    eligibility = Eligibility()
    eligibility.crashed(3, 0.0)
    assert eligibility.reason(0.0) == "it has crashed 3 times lately; 4 s more if another leads"
    eligibility.no_leader()
    assert eligibility.eligible(0.0)
    eligibility.observe("disk", False, 1.0)
    eligibility.observe("disk", True, 2.0)
    eligibility.no_leader()
    assert not eligibility.eligible(2.0)  # a node with a fault is ineligible even then


@given(starts=st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=50))
def test_whatever_the_clock_says_crashes_are_counted_one_by_one_and_forgotten_after_a_long_run(
    starts: list[float],
) -> None:
    run = next_run(None, starts[0])
    assert run.crashes == 0
    for now in starts[1:]:
        before, run = run, next_run(run, now)
        assert run == Run(now, 1 if abs(now - before.since) >= CALM else before.crashes + 1)


@pytest.mark.parametrize("cause", ["disk", "keyring", "epoch"])
@given(times=st.lists(st.tuples(st.floats(0, 1000), st.booleans()), max_size=50))
def test_whatever_happens_a_node_without_faults_is_eligible_in_bounded_time(
    cause: str, times: list[tuple[float, bool]]
) -> None:
    eligibility = Eligibility()
    now = 0.0
    for passed, ok in times:
        now += passed
        eligibility.observe(cause, ok, now)
        assert ok or not eligibility.eligible(now)
    eligibility.observe(cause, True, now)
    assert eligibility.eligible(now + LONGEST_HOLD)


# -- faults that all nodes may have -------------------------------------------------------------------


def test_a_shared_fault_makes_a_node_ineligible_only_if_another_has_none() -> None:
    eligibility = Eligibility()
    eligibility.hear(True, 0.0)
    eligibility.observe("vault", False, 0.0, "the vault hangs")
    assert (eligibility.reason(0.0), eligibility.degraded(0.0)) == ("the vault hangs", "")
    eligibility.hear(False, LINGER / 2)
    assert eligibility.reason(LINGER / 2) == "the vault hangs"  # the other may be healthy again in a moment
    eligibility.hear(False, LINGER)
    assert (eligibility.reason(LINGER), eligibility.degraded(LINGER)) == ("", "the vault hangs")
    eligibility.hear(True, 10.0)
    assert eligibility.reason(10.0) == "the vault hangs"


def test_a_node_that_hears_of_no_healthy_one_when_its_fault_begins_remains_eligible() -> None:
    eligibility = Eligibility()
    eligibility.hear(True, 0.0)
    eligibility.hear(False, 0.1)
    eligibility.observe("vault", False, 0.2, "the vault hangs")
    eligibility.hear(False, 0.3)
    assert (eligibility.eligible(0.3), eligibility.degraded(0.3)) == (True, "the vault hangs")
    eligibility.observe("keyring", False, 0.4, "the keyring is gone")
    assert eligibility.reason(0.4) == "the vault hangs; the keyring is gone"  # which is its own fault


def test_a_node_that_led_in_spite_of_a_fault_is_not_held_down_after_it() -> None:
    for leads in (True, False):
        eligibility = Eligibility()
        eligibility.hear(False, 0.0)
        eligibility.observe("vault", False, 0.0, leads=leads)
        eligibility.observe("vault", True, 9.0, leads=leads)
        eligibility.hear(True, 9.1)
        assert eligibility.eligible(9.1) == leads
        assert eligibility.eligible(9.0 + FIRST_HOLD)


def test_a_note_makes_no_node_ineligible_and_is_reported() -> None:
    eligibility = Eligibility()
    eligibility.note("disk", "the disk is full")
    assert (eligibility.reason(0.0), eligibility.degraded(0.0)) == ("", "the disk is full")
    eligibility.note("disk", "")
    assert eligibility.degraded(0.0) == ""


TICK, FRESH = 0.5, 2.0


@settings(max_examples=50, deadline=None)
@given(data=st.data(), nodes=st.integers(1, 5))
def test_in_a_cluster_the_highest_healthy_node_leads_in_the_end_or_the_highest_of_all(
    data: st.DataObject, nodes: int
) -> None:
    """Nodes that hear of each other a tick late, and only while one leads; their faults change, then stay."""
    eligibility = {node: Eligibility() for node in range(nodes)}
    heard: dict[int, tuple[float, bool]] = {}  # when a node was last heard of, and whether it was healthy
    faulty, leader, leaders = dict.fromkeys(eligibility, False), nodes - 1, list[int | None]()
    changes = data.draw(st.lists(st.tuples(st.integers(0, 60), st.integers(0, nodes - 1)), max_size=12))
    for tick in range(260):
        now = tick * TICK
        for at, node in changes:
            if at == tick:
                faulty[node] = not faulty[node]
        fresh = {node: well for node, (when, well) in heard.items() if now - when <= FRESH}
        for node, each in eligibility.items():
            each.hear(any(well for other, well in fresh.items() if other != node), now)
            each.observe("vault", not faulty[node], now, leads=node == leader)
        able = [node for node, each in eligibility.items() if each.eligible(now)]
        leader = max(able, default=-1)
        leaders.append(leader)
        if leader >= 0:  # whose heartbeats, and those to it, report on all
            for node, each in eligibility.items():
                heard[node] = now, not (each.reason(now) or each.degraded(now))
    well = [node for node in eligibility if not faulty[node]]
    assert set(leaders[-40:]) == {max(well or eligibility)}
    longest = max((len(list(group)) for key, group in groupby(leaders, key=lambda each: each == -1) if key), default=0)
    assert (
        longest * TICK <= FRESH + LINGER
    )  # each took another for healthy until then: no leader reports that it is not
