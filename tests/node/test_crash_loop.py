"""A node that crashes again and again lets others lead, but never leaves a cluster without a leader."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import msgspec
import pytest

from safelight.node.election.eligibility import CALM, FIRST_HOLD, LONGEST_HOLD
from safelight.node.state.crash_record import Run, record_start, record_stop
from tests.mission.support import wait_until_all_follow
from tests.running import GENEROUS, SETTLED, Running, eventually, running

pytestmark = pytest.mark.slow

HELD, AGAIN = "ineligible to lead: it has crashed", "eligible to lead again"
VICTORY = "I am the new leader!"


def crash(cluster: Running, *nodes: int, times: int = 1) -> None:
    """Kill nodes, for the so-manieth time as far as they will know."""
    for node in nodes:
        cluster.cluster.kill(node)
    for node in nodes if times > 1 else ():
        life = cluster.config.data_dir / f"life-{node}.json"
        life.write_bytes(msgspec.json.encode(Run(time.time(), times - 1)))


def start(cluster: Running, node: int) -> int:
    """Start a node; the number of lines that it said in earlier incarnations."""
    said = len(cluster.said(node))
    cluster.cluster.start(node)
    return said


def test_a_leader_killed_once_leads_again_at_once_and_killed_twice_only_after_a_while(tmp_path: Path) -> None:
    with running(tmp_path, heartbeat=SETTLED) as cluster:
        crash(cluster, 3)
        cluster.wait_until_leader(2)
        start(cluster, 3)
        wait_until_all_follow(cluster.config, 3)
        assert not [line for line in cluster.said(3) if HELD in line]

        crash(cluster, 3)
        cluster.wait_until_leader(2)
        said = start(cluster, 3)
        assert f"{HELD} 2 times lately; {FIRST_HOLD:.0f} s more" in cluster.wait_for_line(3, HELD, after=said)
        cluster.wait_for_line(3, VICTORY, after=said)
        lines = cluster.said(3)[said:]
        assert [word for line in lines for word in (HELD, AGAIN, VICTORY) if word in line] == [
            HELD,
            AGAIN,
            VICTORY,
        ]
        wait_until_all_follow(cluster.config, 3)

        cluster.cluster.kill(3, signal.SIGTERM)  # whoever stops it politely has looked after it
        cluster.wait_until_ended(3)
        cluster.wait_until_leader(2)
        said = start(cluster, 3)
        wait_until_all_follow(cluster.config, 3)
        crash(cluster, 3)
        start(cluster, 3)
        wait_until_all_follow(cluster.config, 3)
        assert not [line for line in cluster.said(3)[said:] if HELD in line]


def test_a_node_in_a_crash_loop_gives_way_to_whoever_leads_and_leads_where_nobody_does(tmp_path: Path) -> None:
    with running(tmp_path, heartbeat=1.0) as cluster:
        crash(cluster, 3, times=100)
        cluster.wait_until_leader(2)
        began = time.monotonic()
        said = start(cluster, 3)
        cluster.wait_for_line(3, f"{HELD} 100 times lately; {LONGEST_HOLD:.0f} s more", after=said)
        wait_until_all_follow(cluster.config, 2)
        crash(cluster, 2)
        cluster.wait_until_leader(1)
        cluster.wait_for_line(3, "Node 1 is the leader", after=said)
        assert not [line for line in cluster.said(3)[said:] if AGAIN in line]
        crash(cluster, 1)
        cluster.wait_for_line(3, AGAIN, after=said)
        cluster.wait_for_line(3, VICTORY, after=said)
        assert time.monotonic() - began < LONGEST_HOLD, "too slow a machine to tell: the hold-down is over"


@pytest.mark.parametrize("nodes", [1, 3])
def test_nodes_that_all_crashed_do_not_wait_for_each_other(tmp_path: Path, nodes: int) -> None:
    with running(tmp_path, nodes) as cluster:
        said = {node: len(cluster.said(node)) for node in cluster.config.addresses}
        crash(cluster, *said, times=100)
        cluster.cluster.start()
        for node, lines in said.items():
            cluster.wait_for_line(node, HELD, after=lines)
        assert GENEROUS < LONGEST_HOLD  # so all that is waited for comes before the hold-down is over
        eventually(
            lambda: any(VICTORY in line for node in said for line in cluster.said(node)[said[node] :]), "one led"
        )
        assert cluster.leader() in said


# -- what a node remembers --


def test_crashes_are_counted_until_a_life_is_long_or_ends_politely(tmp_path: Path) -> None:
    def lives(*starts: float) -> list[int]:
        return [record_start(tmp_path, 3, now).crashes for now in starts]

    assert lives(1e9, 1e9 + 1, 1e9 + 2) == [0, 1, 2]
    assert record_start(tmp_path, 2, 1e9 + 2).crashes == 0  # the memory is each node's own
    assert lives(1e9 + 2 + CALM) == [1]
    record_stop(tmp_path, 3)
    assert lives(1e9 + 3 + CALM, 1e9 + 4 + CALM) == [0, 1]


@pytest.mark.parametrize(
    "memory", [b"", b"\xff\xfe", b"[1e9]", b"[1e9, -7]", b"[1e999, 5]", b'{"since": 5}', b"[" * 100_000], ids=repr
)
def test_a_garbled_memory_is_none(tmp_path: Path, memory: bytes) -> None:
    (tmp_path / "life-3.json").write_bytes(memory)
    assert record_start(tmp_path, 3, 1e9) == Run(1e9, 0)
    assert record_start(tmp_path, 3, 1e9 + 1) == Run(1e9 + 1, 1)


def test_a_disk_without_memory_keeps_no_node_from_starting_and_stopping(tmp_path: Path) -> None:
    (tmp_path / "life-3.json").mkdir()
    assert record_start(tmp_path, 3, 1e9) == record_start(tmp_path / "missing", 3, 1e9) == Run(1e9, 0)
    record_stop(tmp_path, 3)
    record_stop(tmp_path / "missing", 3)
    assert [entry.name for entry in tmp_path.iterdir()] == ["life-3.json"]
