"""What happens to an image when the leader is missing, dies or hangs while it is on its way."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from safelight.client.requests.leader_search import NoLeader
from safelight.client.session import Saved
from safelight.config import Config
from safelight.errors import SafelightError
from tests.mission.support import (
    MEBIBYTE,
    Witness,
    contents,
    image_of,
    opens_to,
    seal,
    wait_until_all_follow,
)
from tests.running import SETTLED, Running, running

ENDLESS = 60.0
"""A heartbeat with which nodes that miss one of them do not come to an election while a test runs."""

LARGE = 24 * MEBIBYTE
"""More than sockets and buffers hold, so that a leader which dies has not heard the end of it."""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, photograph: Path) -> Path:
    return image_of(LARGE, tmp_path_factory.mktemp("image") / "large.png", photograph)


def leaderless(cluster: Running) -> None:
    """Nodes 1 and 2 run, and wait for node 3."""
    cluster.cluster.start(1, 2)
    for node in (1, 2):
        cluster.wait_for_line(node, "listening on")


def only_file(config: Config, saved: Saved, image: Path, opened: Path) -> bool:
    return contents(saved.path.parent) == [saved.path.name] and opens_to(config, saved.path, image, opened)


def test_an_upload_during_an_election_waits_for_its_end(tmp_path: Path, photograph: Path) -> None:
    with running(tmp_path, start=False, heartbeat=ENDLESS) as cluster:
        leaderless(cluster)
        witness = Witness().at(lambda told: told[0] == "waiting", lambda: cluster.cluster.start(3))
        saved = seal(cluster.config, photograph, tmp_path / "images", feedback=witness)
        assert saved.node == 3
        assert witness.of("waiting")[0] == ("the servers are electing a leader",)
        assert only_file(cluster.config, saved, photograph, tmp_path / "opened")


def test_an_upload_waits_for_a_leader_until_its_time_limit(tmp_path: Path, photograph: Path) -> None:
    with running(tmp_path, start=False, heartbeat=ENDLESS, timeout=1.0) as cluster:
        leaderless(cluster)
        with pytest.raises(NoLeader, match=r"no server took the image within \d+ s") as raised:
            seal(cluster.config, photograph, tmp_path / "images")
        assert "server 1: Node 1 knows no leader: an election is in progress" in str(raised.value)
        assert "server 3: connection refused" in str(raised.value)
        assert "\n" not in str(raised.value)
        assert contents(tmp_path / "images") == []


def test_with_all_servers_down_an_upload_says_how_to_start_them(tmp_path: Path, photograph: Path) -> None:
    with (
        running(tmp_path, start=False, timeout=0.5) as cluster,
        pytest.raises(SafelightError, match=r"no server answers at .*\(connection refused\).*`safelight up`"),
    ):
        seal(cluster.config, photograph, tmp_path / "images")
    assert contents(tmp_path / "images") == []


@pytest.mark.parametrize("share", [0.34, 0.8], ids=["on the way there", "on the way back"])
def test_an_upload_whose_leader_dies_is_sent_again_and_yields_one_file(
    tmp_path: Path, image: Path, share: float
) -> None:
    seen: list[str] = []
    with running(tmp_path, heartbeat=SETTLED) as cluster:

        def die() -> None:
            seen.extend(contents(tmp_path / "images"))
            cluster.cluster.kill(3)

        witness = Witness().at_progress(share, die)
        saved = seal(cluster.config, image, tmp_path / "images", feedback=witness)
        assert saved.node == 2
        assert witness.of("processed") == [(2,)]
        assert any("server 3" in str(reason) for (reason,) in witness.of("waiting"))
        assert [name for name in seen if not name.startswith(".")] == []  # nothing is shown before it is whole
        assert only_file(cluster.config, saved, image, tmp_path / "opened")


def test_an_upload_whose_leader_hangs_is_sent_again_and_yields_one_file(tmp_path: Path, image: Path) -> None:
    with running(tmp_path, heartbeat=0.2, drain_timeout=0.5, body_timeout=300.0) as cluster:
        witness = Witness().at_progress(0.34, lambda: cluster.suspend(3))
        saved = seal(cluster.config, image, tmp_path / "images", feedback=witness)
        assert saved.node in (1, 2)
        assert len(witness.of("processed")) == 1
        cluster.cluster.kill(3, signal.SIGCONT)
        wait_until_all_follow(cluster.config, 3)
        assert only_file(cluster.config, saved, image, tmp_path / "opened")


def test_an_image_survives_the_death_of_two_leaders(tmp_path: Path, image: Path) -> None:
    with running(tmp_path, heartbeat=SETTLED) as cluster:
        witness = Witness()

        def die() -> None:
            cluster.cluster.kill(3)
            witness.at(lambda told: told[0] == "waiting", later)

        def later() -> None:
            witness.at_progress(0.34, lambda: cluster.cluster.kill(2))

        witness.at_progress(0.34, die)
        saved = seal(cluster.config, image, tmp_path / "images", feedback=witness)
        assert saved.node == 1
        assert only_file(cluster.config, saved, image, tmp_path / "opened")
