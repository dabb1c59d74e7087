"""The highest live id leads, in whatever order nodes come and go."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mission.support import status_of, wait_until_all_follow
from tests.running import SETTLED, Running, running


def victories(cluster: Running, node: int) -> int:
    return sum("I am the new leader!" in line for line in cluster.said(node))


def test_with_all_nodes_up_node_3_leads(shared_cluster: Running) -> None:
    wait_until_all_follow(shared_cluster.config, 3)
    roles = {node: status_of(shared_cluster.config, node)[node].role for node in (1, 2, 3)}
    assert roles == {1: "worker", 2: "worker", 3: "leader"}
    assert shared_cluster.wait_for_line(3, "I am the new leader!").startswith("Node 3: ")
    assert shared_cluster.wait_for_line(1, "is the leader").startswith("Node 1: Node 3 is the leader")


def test_each_higher_node_that_starts_later_takes_over(tmp_path: Path) -> None:
    with running(tmp_path, start=False, heartbeat=0.1) as cluster:
        for node in (1, 2, 3):
            cluster.cluster.start(node)
            cluster.wait_for_line(node, "I am the new leader!")
            cluster.wait_until_leader(node)
        wait_until_all_follow(cluster.config, 3)


@pytest.mark.parametrize("order", [(3, 2, 1), (2, 3, 1)], ids=str)
def test_nodes_that_start_after_the_highest_follow_it(tmp_path: Path, order: tuple[int, ...]) -> None:
    with running(tmp_path, start=False, heartbeat=0.5) as cluster:
        cluster.cluster.start(*order[: order.index(3) + 1])
        cluster.wait_until_leader(3)
        cluster.cluster.start(*order[order.index(3) + 1 :])
        wait_until_all_follow(cluster.config, 3)
        assert victories(cluster, 1) == 0


def test_five_nodes_follow_the_highest_that_lives(tmp_path: Path) -> None:
    with running(tmp_path, nodes=5, heartbeat=SETTLED) as cluster:
        wait_until_all_follow(cluster.config, 5)
        cluster.cluster.kill(5)
        cluster.cluster.kill(2)
        cluster.wait_for_line(4, "I am the new leader!")
        cluster.wait_until_leader(4)
        assert victories(cluster, 1) == victories(cluster, 3) == 0
        cluster.cluster.start(2, 5)
        cluster.wait_until_leader(5)


def test_an_epoch_never_comes_twice_even_after_everybody_died(tmp_path: Path) -> None:
    with running(tmp_path, heartbeat=SETTLED) as cluster:
        before = status_of(cluster.config, 3)[3].counter
        for node in (1, 2, 3):
            cluster.cluster.kill(node)
        cluster.cluster.start()
        cluster.wait_until_leader(3)
        assert status_of(cluster.config, 3)[3].counter > before
