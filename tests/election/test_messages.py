"""What an election costs."""

import pytest

from safelight.election.bully import Phase

from .scenario import TIMING
from .world import World


def settled(nodes: int) -> World:
    world = World(range(1, nodes + 1), TIMING)
    for node in range(1, nodes + 1):
        world.start(node, dials=False)
    world.unblock([])
    world.advance(TIMING.settle + 5 * TIMING.heartbeat)
    assert all(core.leader == nodes for core in world.running().values())
    return world


def cost_of_a_dead_leader(nodes: int) -> tuple[int, float]:
    """Messages, without heartbeats, and seconds from the highest node's death until all follow the next."""
    world = settled(nodes)
    before, died = world.chatter(), world.time
    world.kill(nodes)
    while any(core.leader != nodes - 1 for core in world.running().values()):
        world.advance(0.001)
        assert world.time - died < 5 * TIMING.heartbeat
    took = world.time - died
    world.advance(5 * TIMING.heartbeat)
    return world.chatter() - before, took


@pytest.mark.parametrize("nodes", [3, 10, 100])
def test_dead_leader_costs_few_messages(nodes: int) -> None:
    messages, _ = cost_of_a_dead_leader(nodes)
    assert messages <= 2 * nodes


@pytest.mark.parametrize("nodes", [3, 10])
def test_hung_leader_costs_few_messages(nodes: int) -> None:
    world = settled(nodes)
    before = world.chatter()
    world.pause(nodes)
    world.advance(8 * TIMING.heartbeat)
    assert all(core.leader == nodes - 1 for node, core in world.awake().items())
    assert world.chatter() - before <= 4 * nodes


@pytest.mark.parametrize("nodes", [3, 10])
def test_return_of_the_highest_costs_few_messages(nodes: int) -> None:
    world = settled(nodes)
    world.kill(nodes)
    world.advance(8 * TIMING.heartbeat)
    before = world.chatter()
    world.start(nodes)
    world.advance(8 * TIMING.heartbeat)
    assert all(core.leader == nodes for core in world.running().values())
    assert world.running()[nodes].phase is Phase.LEADER
    assert world.chatter() - before <= 4 * nodes


def test_cold_start_costs_few_messages() -> None:
    assert settled(30).chatter() <= 4 * 30
