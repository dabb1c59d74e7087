"""Three nodes on three machines, and the leader's cable is pulled: nothing tells of it but silence."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from safelight.cli.admin import users as admin
from safelight.node.state import data_directory
from tests.chaos.network import Network, NoNetwork, network
from tests.mission.support import (
    MEBIBYTE,
    Witness,
    contents,
    image_of,
    opens_to,
    seal,
    status_of,
    wait_until_all_follow,
)
from tests.running import Running, as_user, eventually, running

pytestmark = pytest.mark.slow

HOSTS = {1: "one", 2: "two", 3: "three"}


@pytest.fixture
def cables() -> Iterator[Network]:
    try:
        with network(*HOSTS.values(), "client") as it:
            yield it
    except NoNetwork as reason:
        pytest.skip(f"a cable to cut is missing: {reason}")


@pytest.fixture
def apart(tmp_path: Path, cables: Network) -> Iterator[Running]:
    """Nodes 1, 2 and 3 on a host each, with node 3 as their leader, and alice a user; the test is on a fourth host."""
    servers = tuple(f"{cables.addresses[host]}:8001" for host in HOSTS.values())
    with (
        cables.inside("client"),
        running(
            tmp_path,
            start=False,
            servers=servers,
            vault=(tmp_path / "vault").as_uri(),
            insecure_http=True,
            heartbeat=0.3,
        ) as cluster,
    ):
        data_directory.create_cluster(cluster.config.data_dir)
        for node, host in HOSTS.items():
            with cables.inside(host):
                cluster.cluster.start(node)
        wait_until_all_follow(cluster.config, 3)
        fingerprint = as_user(cluster.config, "alice", lambda session: session.fingerprint())
        asyncio.run(admin.add(cluster.config, "alice", fingerprint))
        yield cluster


def test_when_the_leaders_cable_is_cut_uploads_go_on_and_when_it_is_back_it_leads_again(
    tmp_path: Path, photograph: Path, cables: Network, apart: Running
) -> None:
    images = tmp_path / "images"
    assert seal(apart.config, photograph, images).node == 3

    said = {node: len(apart.said(node)) for node in HOSTS}
    large = image_of(64 * MEBIBYTE, tmp_path / "large.png", photograph)
    cut = Witness().at_progress(0.1, lambda: cables.cut("three"))
    assert seal(apart.config, large, tmp_path / "large", feedback=cut).node == 2
    for worker in (1, 2):
        assert "its heartbeats stopped" in apart.wait_for_line(worker, "Leader 3 is DOWN!", after=said[worker])
    assert seal(apart.config, photograph, images).node == 2

    with cables.inside("three"):  # beyond the cut there is a leader, too, for whoever is there
        assert seal(apart.config, photograph, images).node == 3

    cables.mend("three")
    wait_until_all_follow(apart.config, 3)
    eventually(lambda: leaders(apart) == [3], "node 3 alone says that it leads")
    assert seal(apart.config, photograph, images).node == 3

    assert len(contents(images)) == 4
    for name in contents(images):
        assert opens_to(apart.config, images / name, photograph, tmp_path / "opened")
    (name,) = contents(tmp_path / "large")
    assert opens_to(apart.config, tmp_path / "large" / name, large, tmp_path / "opened")


def leaders(cluster: Running) -> list[int]:
    return [node for node in cluster.config.addresses if status_of(cluster.config, node)[node].role == "leader"]
