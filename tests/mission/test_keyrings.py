"""One cluster, one keyring: made once, never anew, and the same in all nodes that work together."""

from __future__ import annotations

import dataclasses
import json
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from safelight.client.session import Session
from safelight.encryption.keys import Keyring
from safelight.errors import SafelightError
from safelight.node.state import data_directory
from safelight.runtime import atomic_file
from tests.mission.support import Witness, contents, request, status_of
from tests.running import SETTLED, Running, as_user, running, running_as


def cluster_ids(cluster: Running) -> set[str]:
    answers = [request(cluster.config, node, "GET", "/v1/cluster") for node in cluster.config.addresses]
    return {json.loads(answer.body)["cluster"] for answer in answers}


def test_nodes_started_at_once_on_an_empty_directory_end_with_one_keyring(tmp_path: Path) -> None:
    with running(tmp_path, nodes=5, heartbeat=SETTLED) as cluster:
        data = cluster.config.data_dir
        keyring = data_directory.find_keyring(data).read()
        assert cluster_ids(cluster) == {keyring.cluster_id}
        assert stat.S_IMODE((data / "keyring.json").stat().st_mode) == 0o600
        assert contents(data) == [
            *(f"epoch-{node}.json" for node in range(1, 6)),
            "keyring.json",
            *(f"life-{node}.json" for node in range(1, 6)),
            *(f"probe-{node}" for node in range(1, 6)),
            "vault",
            "vault.json",
        ]


# -- a node that does not belong --


@contextmanager
def misfit(cluster: Running, keyring: Keyring) -> Iterator[Running]:
    """Node 3 in place of the real one, with a data directory of its own and this keyring in it."""
    data = cluster.config.data_dir.with_name("other")
    data_directory.prepare(data)
    atomic_file.create_once(data / "keyring.json", keyring.to_json())
    with running_as(msgspec.structs.replace(cluster.config, data_dir=data)) as other:
        other.cluster.start(3)
        yield other


@pytest.mark.parametrize("same_cluster_id", [False, True], ids=["another cluster", "another keyring"])
def test_a_node_with_another_keyring_is_refused_with_the_reason_on_both_sides(
    tmp_path: Path, photograph: Path, same_cluster_id: bool
) -> None:
    with running(tmp_path, heartbeat=1.0) as cluster:
        ours = data_directory.find_keyring(cluster.config.data_dir).read()
        theirs = Keyring.new()
        if same_cluster_id:
            theirs = dataclasses.replace(theirs, cluster_id=ours.cluster_id)
            reason = "has another keyring than node"
        else:
            reason = "belongs to cluster"
        cluster.cluster.kill(3)
        cluster.wait_until_leader(2)
        with misfit(cluster, theirs) as other:
            for member in (1, 2):
                assert reason in cluster.wait_for_line(member, "refused a link: node 3 ")
                assert reason in cluster.wait_for_line(member, "no link to node 3: ")
                assert reason in other.wait_for_line(3, f"no link to node {member}: ")
            assert reason in other.wait_for_line(3, "refused a link: node ")
            other.wait_for_line(3, "I am the new leader!")  # of itself alone
            for member in (1, 2):
                assert status_of(cluster.config, member)[member].leader == 2
                assert set(status_of(cluster.config, member)) <= {1, 2}
            assert set(status_of(cluster.config, 3)) == {3}


def test_a_session_does_not_take_up_with_another_cluster(tmp_path: Path, photograph: Path) -> None:
    """What that one sealed, the user's own cluster could not open."""
    with running(tmp_path, heartbeat=0.5) as cluster:

        async def go(session: Session) -> None:
            await session.seal(photograph, to=tmp_path / "images", feedback=Witness())
            for node in cluster.config.addresses:
                cluster.cluster.kill(node)
            with misfit(cluster, Keyring.new()) as other:
                other.wait_for_line(3, "I am the new leader!")
                with pytest.raises(SafelightError):
                    await session.seal(photograph, to=tmp_path / "images", feedback=Witness())

        as_user(msgspec.structs.replace(cluster.config, timeout=0.5), "alice", go)


# -- a keyring that is not as it was --


def lose(keyring: Path) -> None:
    keyring.unlink()


def cut(keyring: Path) -> None:
    keyring.write_bytes(keyring.read_bytes()[:100])


def show(keyring: Path) -> None:
    keyring.chmod(0o644)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [(lose, "restore it from a backup"), (cut, "restore it from a backup"), (show, "chmod 600")],
    ids=["lost", "cut", "readable by others"],
)
def test_a_node_does_not_start_on_a_keyring_that_is_not_as_it_was(
    tmp_path: Path, harm: Callable[[Path], None], reason: str
) -> None:
    with running(tmp_path, heartbeat=SETTLED) as cluster:
        keyring = cluster.config.data_dir / "keyring.json"
        cluster.cluster.stop()
        harm(keyring)
        left = keyring.read_bytes() if keyring.exists() else None
        before = {node: len(cluster.said(node)) for node in (1, 2, 3)}
        cluster.cluster.start()
        for node in (1, 2, 3):
            assert "exit status 1" in cluster.wait_for_line(node, "ended with", after=before[node])
            (line, _) = cluster.said(node)[before[node] :]
            assert str(keyring) in line
            assert reason in line
        assert (keyring.read_bytes() if keyring.exists() else None) == left
