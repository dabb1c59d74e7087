"""What the nodes have to do and have done: counted where it is done, and known everywhere."""

from __future__ import annotations

import asyncio
import http.client
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from safelight.client.requests.status import survey
from safelight.wire.messages import Load
from tests.mission.support import contents, enrolled, open_, seal, status_of
from tests.running import Running, eventually, running


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """With heartbeats often enough to wait for what they tell."""
    with running(tmp_path_factory.mktemp("cluster"), heartbeat=1.0) as it:
        yield it


@contextmanager
def half_an_upload(cluster: Running, node: int) -> Iterator[http.client.HTTPConnection]:
    """A plain upload of 100 bytes of which 50 have been sent."""
    token = enrolled(cluster.config, "alice")
    address = cluster.config.addresses[node]
    connection = http.client.HTTPConnection(address.host, address.port, timeout=30)
    connection.putrequest("PUT", f"/v1/images/{secrets.token_hex(8)}.png")
    connection.putheader("Authorization", f"Bearer {token}")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"x" * 50)
    try:
        yield connection
    finally:
        connection.close()


def test_images_bytes_and_declines_are_counted_and_heard_through_every_node(
    cluster: Running, tmp_path: Path, photograph: Path
) -> None:
    config = cluster.config
    before = {node: status_of(config, node)[node] for node in (1, 2, 3)}
    seal(config, photograph, tmp_path / "images")
    sealed = tmp_path / "images" / contents(tmp_path / "images")[0]
    open_(config, sealed, tmp_path / "opened")

    after = {node: status_of(config, node)[node] for node in (1, 2, 3)}
    assert [after[node].images - before[node].images for node in (1, 2, 3)] == [0, 0, 2]
    size = photograph.stat().st_size + sealed.stat().st_size
    assert [after[node].bytes - before[node].bytes for node in (1, 2, 3)] == [0, 0, size]
    assert [after[node].declines - before[node].declines for node in (1, 2, 3)] == [2, 2, 0]
    assert [after[node].in_flight for node in (1, 2, 3)] == [0, 0, 0]
    assert all(after[node].uptime > before[node].uptime for node in (1, 2, 3))

    for teller in (1, 2, 3):
        eventually(lambda: counters(status_of(config, teller)) == counters(after), f"node {teller} knows it all")  # noqa: B023


def counters(loads: dict[int, Load]) -> dict[int, tuple[int, int, int]]:
    return {node: (load.images, load.bytes, load.declines) for node, load in loads.items()}


def test_an_upload_in_flight_is_seen_everywhere_until_it_ends(cluster: Running) -> None:
    def in_flight(teller: int) -> int:
        loads = status_of(cluster.config, teller)
        return loads[3].in_flight if 3 in loads else -1

    done = status_of(cluster.config, 3)[3].images
    with half_an_upload(cluster, 3) as connection:
        for teller in (3, 1, 2):
            eventually(lambda: in_flight(teller) == 1, f"node {teller} knows of it")  # noqa: B023
        connection.send(b"x" * 50)
        assert connection.getresponse().status == 201
    for teller in (3, 1, 2):
        eventually(lambda: in_flight(teller) == 0, f"node {teller} knows of its end")  # noqa: B023
    assert status_of(cluster.config, 3)[3].images == done + 1


def test_an_upload_that_breaks_off_is_no_image(cluster: Running) -> None:
    done = status_of(cluster.config, 3)[3].images
    with half_an_upload(cluster, 3):
        eventually(lambda: status_of(cluster.config, 3)[3].in_flight == 1, "it is in flight")
    eventually(lambda: status_of(cluster.config, 3)[3].in_flight == 0, "it is given up")
    assert status_of(cluster.config, 3)[3].images == done


def test_a_node_that_does_not_answer_is_shown_as_such_with_what_the_others_heard(tmp_path: Path) -> None:
    with running(tmp_path, heartbeat=1.0) as cluster:
        eventually(lambda: 1 in status_of(cluster.config, 3), "the leader has heard of node 1")
        cluster.suspend(1)
        first, *others = asyncio.run(survey(cluster.config))
        assert first.problem == "no answer in time"
        assert first.heard
        assert first.load is not None
        assert first.load.role == "worker"
        assert [(each.problem, each.heard) for each in others] == [("", False), ("", False)]
        cluster.cluster.kill(1)
        assert asyncio.run(survey(cluster.config))[0].problem == "connection refused"
