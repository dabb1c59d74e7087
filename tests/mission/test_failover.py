"""However the leader goes, the next highest leads and uploads go on; when it returns it leads again."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import aiohttp
import msgspec
import pytest

from safelight.node.election.handshake import Hello, PeerIdentity, Proof
from safelight.node.state import data_directory
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
from tests.running import GENEROUS, SETTLED, Running, eventually, running

DOWN = "Leader 3 is DOWN! Starting new election..."
VICTORY = "I am the new leader!"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_when_the_leader_dies_the_next_highest_leads_down_to_the_last(
    tmp_path: Path, photograph: Path, how: signal.Signals
) -> None:
    images = tmp_path / "images"
    with running(tmp_path, heartbeat=SETTLED) as cluster:
        assert seal(cluster.config, photograph, images).node == 3

        cluster.cluster.kill(3, how)
        for worker in (1, 2):
            assert cluster.wait_for_line(worker, DOWN).startswith(f"Node {worker}: {DOWN}")
        assert cluster.wait_for_line(2, VICTORY).startswith(f"Node 2: {VICTORY}")
        assert seal(cluster.config, photograph, images).node == 2

        cluster.wait_for_line(1, "Node 2 is the leader")  # it leads before the last worker hears of it
        cluster.cluster.kill(2, how)
        cluster.wait_for_line(1, "Leader 2 is DOWN! Starting new election...")
        cluster.wait_for_line(1, VICTORY)
        assert seal(cluster.config, photograph, images).node == 1

        cluster.wait_until_ended(2, 3)
        cluster.cluster.start(2, 3)
        wait_until_all_follow(cluster.config, 3)
        assert seal(cluster.config, photograph, images).node == 3

        assert len(contents(images)) == 4
        for name in contents(images):
            assert opens_to(cluster.config, images / name, photograph, tmp_path / "opened")


def test_a_broken_link_is_noticed_without_waiting_for_a_heartbeat(tmp_path: Path, photograph: Path) -> None:
    # Heartbeats are missed after three of 20 s; everything here waits for half of that at most.
    with running(tmp_path, heartbeat=20.0) as cluster:
        cluster.cluster.kill(3)
        assert "its link broke" in cluster.wait_for_line(2, DOWN)
        cluster.wait_for_line(2, VICTORY)
        assert seal(cluster.config, photograph, tmp_path / "images").node == 2


def test_a_leader_that_could_not_be_dialed_yet_is_missed_at_once_too(tmp_path: Path) -> None:
    """As when it is killed right after its start: its link to us is all that there is to break."""

    async def lead_from_an_unreachable_port(cluster: Running) -> None:
        party = PeerIdentity(data_directory.load_keys(cluster.config.data_dir, create=False), 3, "0" * 16)
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(f"{cluster.config.addresses[2].url}/v1/peer") as link:
                ours = party.hello()
                await link.send_bytes(msgspec.json.encode(ours))
                theirs = msgspec.json.decode(await link.receive_bytes(timeout=GENEROUS), type=Hello)
                await link.send_bytes(msgspec.json.encode(Proof(party.proof("dialer", ours, theirs))))
                await link.send_bytes(b'{"kind":"coordinator","counter":9,"epoch_leader":3,"leader":3}')
                await asyncio.to_thread(cluster.wait_for_line, 2, "Node 3 is the leader (epoch 9.3)")
            await asyncio.to_thread(cluster.wait_for_line, 2, DOWN)

    with running(tmp_path, start=False, heartbeat=20.0) as cluster:
        cluster.cluster.start(2)
        cluster.wait_for_line(2, "listening on")
        asyncio.run(lead_from_an_unreachable_port(cluster))


def test_a_leader_that_hangs_is_replaced_and_leads_again_when_it_goes_on(tmp_path: Path, photograph: Path) -> None:
    images = tmp_path / "images"
    with running(tmp_path, heartbeat=0.2) as cluster:
        said = len(cluster.said(2))
        cluster.suspend(3)
        assert "its heartbeats stopped" in cluster.wait_for_line(2, DOWN, after=said)
        cluster.wait_for_line(2, VICTORY, after=said)
        assert seal(cluster.config, photograph, images).node in (1, 2)

        cluster.cluster.kill(3, signal.SIGCONT)
        wait_until_all_follow(cluster.config, 3)
        eventually(lambda: leaders(cluster) == [3], "node 3 alone says that it leads")
        assert seal(cluster.config, photograph, images).node == 3
        for name in contents(images):
            assert opens_to(cluster.config, images / name, photograph, tmp_path / "opened")


def test_a_leader_that_is_told_to_stop_finishes_what_it_granted(tmp_path: Path, photograph: Path) -> None:
    images = tmp_path / "images"
    with running(tmp_path, heartbeat=SETTLED) as cluster:
        stop = Witness().at_progress(0.2, lambda: cluster.cluster.kill(3, signal.SIGTERM))
        image = image_of(16 * MEBIBYTE, tmp_path / "large.png", photograph)
        assert seal(cluster.config, image, images, feedback=stop).node == 3
        cluster.wait_until_ended(3)
        assert "Node 3: stopped" in cluster.said(3)
        assert opens_to(cluster.config, images / contents(images)[0], image, tmp_path / "opened")


def leaders(cluster: Running) -> list[int]:
    return [node for node in cluster.config.addresses if status_of(cluster.config, node)[node].role == "leader"]
