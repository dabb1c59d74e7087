"""Three nodes, all orders of events: no violation is reachable, and agreement always is."""

from safelight.election.bully import PeerConnected

from .explore import LINKS, State, explore


def test_every_order_of_events_after_the_cluster_has_settled() -> None:
    assert explore(State.settled(), depth=7) > 5_000


def test_every_order_of_events_from_a_cold_start() -> None:
    state = State()
    for a, b in LINKS:
        state.flying[b, a] += (PeerConnected(b),)
    assert explore(state, depth=6) > 5_000
