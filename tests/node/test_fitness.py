"""Who may lead: not a node with something wrong, nor one that had until a moment ago, the less the oftener."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safelight.node.election.eligibility import CALM, FIRST_HOLD, LINGER, LONGEST_HOLD, Fitness
from safelight.node.state.crash_record import Run, next_run


def hold(fitness: Fitness, now: float) -> float:
    """Let the disk fail and recover at `now`; how long the node is held down from then."""
    fitness.observe("disk", False, now)
    fitness.observe("disk", True, now)
    seconds = 0.0
    while not fitness.ready(now + seconds):
        seconds += 0.5
    return seconds


def test_a_node_with_which_nothing_is_wrong_is_ready_from_the_start() -> None:
    fitness = Fitness()
    fitness.observe("disk", True, 0.0)
    assert fitness.ready(0.0)
    assert fitness.why_not(0.0) == ""


def test_a_node_is_unfit_until_everything_is_well_and_a_moment_longer() -> None:
    fitness = Fitness()
    fitness.observe("disk", False, 1.0, "the disk is full")
    fitness.observe("keyring", False, 2.0, "the keyring is gone")
    assert fitness.why_not(2.0) == "the disk is full; the keyring is gone"
    fitness.observe("disk", True, 100.0)
    assert fitness.why_not(1000.0) == "the keyring is gone"
    fitness.observe("keyring", True, 1000.0)
    assert not fitness.ready(1000.0)
    assert fitness.ready(1000.0 + FIRST_HOLD)


def test_of_a_node_without_descriptors_only_that_is_said() -> None:
    fitness = Fitness()
    fitness.observe("vault", False, 1.0, "the vault cannot be used: Too many open files")
    fitness.observe("epoch", False, 1.0, "cannot save the epoch")
    fitness.observe("descriptors", False, 2.0, "it has no free file descriptors")
    assert fitness.why_not(2.0) == "it has no free file descriptors"
    fitness.observe("descriptors", True, 3.0)
    assert "epoch" in fitness.why_not(3.0)


def test_the_hold_down_doubles_with_each_failure_up_to_a_bound() -> None:
    fitness = Fitness()
    holds = [hold(fitness, now) for now in range(0, 100 * 60, 61)]
    assert holds[:4] == [FIRST_HOLD, 2 * FIRST_HOLD, 4 * FIRST_HOLD, 8 * FIRST_HOLD]
    assert set(holds[6:]) == {LONGEST_HOLD}


def test_failures_are_forgotten_after_a_calm_time() -> None:
    fitness = Fitness()
    assert hold(fitness, 0.0) < hold(fitness, 10.0)
    assert hold(fitness, 100.0 + CALM) == FIRST_HOLD


def test_the_same_failure_seen_again_is_no_further_one() -> None:
    fitness = Fitness()
    for now in range(1000):
        fitness.observe("disk", False, now)
    assert hold(fitness, 1000.0) == FIRST_HOLD


def test_a_node_that_leaves_never_stands_again() -> None:
    fitness = Fitness()
    fitness.observe("epoch", False, 0.0)
    fitness.leave()
    fitness.observe("epoch", True, 1.0)
    fitness.step_down(0.0)
    assert not fitness.ready(1e9)


def test_a_node_steps_down_for_as_long_as_it_is_told() -> None:
    fitness = Fitness()
    fitness.step_down(60.0)
    assert not fitness.ready(59.9)
    assert fitness.ready(60.0)  # nothing failed: there is nothing to hold down for
    fitness.step_down(120.0)
    assert not fitness.ready(61.0)
    fitness.step_down(61.0)
    assert fitness.ready(61.0)


def gives_way(crashes: int) -> float:
    """For how long a node stands back if it is started after so many crashes, and another leads."""
    fitness = Fitness()
    fitness.crashed(crashes, 1000.0)
    assert fitness.ready(1000.0) == (not fitness.gives_way(1000.0))
    seconds = 0.0
    while not fitness.ready(1000.0 + seconds):
        seconds += 0.5
    return seconds


def test_the_first_crash_costs_nothing_and_each_further_one_twice_as_much_up_to_a_bound() -> None:
    assert [gives_way(crashes) for crashes in range(6)] == [0.0, 0.0, 2.0, 4.0, 8.0, 16.0]
    assert gives_way(7) == gives_way(10**9) == LONGEST_HOLD


def test_a_node_that_crashed_does_not_give_way_to_nobody() -> None:
    fitness = Fitness()
    fitness.crashed(3, 0.0)
    assert fitness.why_not(0.0) == "it has crashed 3 times lately; 4 s more if another leads"
    fitness.nobody_leads()
    assert fitness.ready(0.0)
    fitness.observe("disk", False, 1.0)
    fitness.observe("disk", True, 2.0)
    fitness.nobody_leads()
    assert not fitness.ready(2.0)  # nobody is better than one with something wrong


@given(starts=st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=50))
def test_whatever_the_clock_says_crashes_are_counted_one_by_one_and_forgotten_after_a_calm_life(
    starts: list[float],
) -> None:
    life = next_run(None, starts[0])
    assert life.crashes == 0
    for now in starts[1:]:
        before, life = life, next_run(life, now)
        assert life == Run(now, 1 if abs(now - before.since) >= CALM else before.crashes + 1)


@pytest.mark.parametrize("cause", ["disk", "keyring", "epoch"])
@given(times=st.lists(st.tuples(st.floats(0, 1000), st.booleans()), max_size=50))
def test_whatever_happens_a_node_that_stays_well_is_ready_in_bounded_time(
    cause: str, times: list[tuple[float, bool]]
) -> None:
    fitness = Fitness()
    now = 0.0
    for passed, ok in times:
        now += passed
        fitness.observe(cause, ok, now)
        assert ok or not fitness.ready(now)
    fitness.observe(cause, True, now)
    assert fitness.ready(now + LONGEST_HOLD)


# -- trouble that all nodes may have -------------------------------------------------------------------


def test_what_may_be_everybodys_trouble_stops_a_node_only_if_another_has_none() -> None:
    fitness = Fitness()
    fitness.hear(True, 0.0)
    fitness.observe("vault", False, 0.0, "the vault hangs")
    assert (fitness.why_not(0.0), fitness.degraded(0.0)) == ("the vault hangs", "")
    fitness.hear(False, LINGER / 2)
    assert fitness.why_not(LINGER / 2) == "the vault hangs"  # the other may be well again in a moment
    fitness.hear(False, LINGER)
    assert (fitness.why_not(LINGER), fitness.degraded(LINGER)) == ("", "the vault hangs")
    fitness.hear(True, 10.0)
    assert fitness.why_not(10.0) == "the vault hangs"


def test_a_node_that_hears_of_nobody_better_when_its_trouble_begins_does_not_step_back_first() -> None:
    fitness = Fitness()
    fitness.hear(True, 0.0)
    fitness.hear(False, 0.1)
    fitness.observe("vault", False, 0.2, "the vault hangs")
    fitness.hear(False, 0.3)
    assert (fitness.ready(0.3), fitness.degraded(0.3)) == (True, "the vault hangs")
    fitness.observe("keyring", False, 0.4, "the keyring is gone")
    assert fitness.why_not(0.4) == "the vault hangs; the keyring is gone"  # which is its own trouble


def test_a_node_that_led_in_spite_of_trouble_is_not_held_down_after_it() -> None:
    for leads in (True, False):
        fitness = Fitness()
        fitness.hear(False, 0.0)
        fitness.observe("vault", False, 0.0, leads=leads)
        fitness.observe("vault", True, 9.0, leads=leads)
        fitness.hear(True, 9.1)
        assert fitness.ready(9.1) == leads
        assert fitness.ready(9.0 + FIRST_HOLD)


def test_a_note_stops_nobody_and_is_told() -> None:
    fitness = Fitness()
    fitness.note("disk", "the disk is full")
    assert (fitness.why_not(0.0), fitness.degraded(0.0)) == ("", "the disk is full")
    fitness.note("disk", "")
    assert fitness.degraded(0.0) == ""


TICK, FRESH = 0.5, 2.0


@settings(max_examples=50, deadline=None)
@given(data=st.data(), nodes=st.integers(1, 5))
def test_in_a_cluster_the_highest_without_trouble_leads_in_the_end_or_the_highest_of_all(
    data: st.DataObject, nodes: int
) -> None:
    """Nodes that hear of each other a tick late, and only while somebody leads; what ails them changes, then stays."""
    fitness = {node: Fitness() for node in range(nodes)}
    heard: dict[int, tuple[float, bool]] = {}  # when a node was last heard of, and whether it was well
    ails, leader, reigns = dict.fromkeys(fitness, False), nodes - 1, list[int | None]()
    changes = data.draw(st.lists(st.tuples(st.integers(0, 60), st.integers(0, nodes - 1)), max_size=12))
    for tick in range(260):
        now = tick * TICK
        for at, node in changes:
            if at == tick:
                ails[node] = not ails[node]
        fresh = {node: well for node, (when, well) in heard.items() if now - when <= FRESH}
        for node, each in fitness.items():
            each.hear(any(well for other, well in fresh.items() if other != node), now)
            each.observe("vault", not ails[node], now, leads=node == leader)
        ready = [node for node, each in fitness.items() if each.ready(now)]
        leader = max(ready, default=-1)
        reigns.append(leader)
        if leader >= 0:  # whose heartbeats, and those to it, tell of all
            for node, each in fitness.items():
                heard[node] = now, not (each.why_not(now) or each.degraded(now))
    well = [node for node in fitness if not ails[node]]
    assert set(reigns[-40:]) == {max(well or fitness)}
    longest = max((len(list(group)) for key, group in groupby(reigns, key=lambda each: each == -1) if key), default=0)
    assert longest * TICK <= FRESH + LINGER  # each took another for well until then: no leader tells that it is not
