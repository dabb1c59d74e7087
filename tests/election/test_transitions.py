"""The table of transitions is exact: each is taken in some scenario, and no other ever is."""

import pytest

from safelight.election.bully import ACTIVITIES, TRANSITIONS, Election, Phase, UnknownTransition

from .scenario import TIMING, rewrite
from .test_scenarios import SCENARIOS


def test_each_transition_is_taken_in_a_scenario_and_no_other() -> None:
    taken = set()

    class Recorded(Election):
        def _become(self, phase: Phase, leader: int | None, deadline: float | None) -> None:
            if phase is not self.phase:
                taken.add((self.phase, phase))
            super()._become(phase, leader, deadline)

    for path in SCENARIOS:
        rewrite(path.read_text(encoding="utf-8"), Recorded)
    assert taken == {(phase, following) for phase, transitions in TRANSITIONS.items() for following in transitions}


def test_every_phase_has_a_row() -> None:
    assert set(TRANSITIONS) == set(ACTIVITIES) == set(Phase)


def test_a_transition_that_is_not_in_the_table_changes_nothing() -> None:
    election = Election(1, [2], TIMING)
    with pytest.raises(UnknownTransition, match="node 1: starting -> vouched"):
        election._become(Phase.VOUCHED, 2, 1.0)
    assert (election.phase, election.leader, election.deadline) == (Phase.STARTING, None, TIMING.settle)


def test_simulation_notices_a_transition_that_is_not_in_the_table() -> None:
    class ElectsAtOnce(Election):
        def _queue(self, now: float) -> None:
            self._elect(now)

    happened = rewrite("nodes 1 2\nstart 1 2\nadvance 2s\n", ElectsAtOnce)
    assert "VIOLATION: no such transition: node 1: starting -> candidate" in happened
