"""What each step of an image costs a node, in seconds of a core: `python -m bench.costs`, into bench/costs.json.

It is what the model in `bench.model` is fed with. Counted is the processor time of whole node processes on this
machine, kernel included, so nothing that a node does for a message is left out: over rounds of real offers and
uploads by a session whose lines stand, and over the heartbeats of nodes that do nothing else.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from bench.memory import image_of, under_another_name
from bench.speed import SMALL, run
from safelight.client.requests.feedback import NullFeedback
from safelight.client.requests.status import wait_for_leader
from safelight.client.session import Session
from safelight.config import Config
from safelight.local.cluster import LocalCluster, ephemeral_config
from safelight.node.work.balance import Balancer
from safelight.node.work.load import LoadTracker
from safelight.wire.messages import Offer, Refusal

FILE = Path(__file__).with_suffix(".json")

LARGE = 4
"""MiB of a large image, of which one in five is."""

OFFERS, SMALL_IMAGES, LARGE_IMAGES = 2000, 300, 60
HEARTBEAT, HEARTBEATS_FOR = 0.05, 20.0
"""Seconds between heartbeats, and for how long they are counted."""

MANY = 100
"""Nodes among which the choice is timed."""


class Costs(NamedTuple):
    """Seconds of one core."""

    decline: float
    """A worker's, for an offer."""
    grant: float
    """The leader's, for an offer."""
    choice: float
    """The leader's, for each node that it chooses among."""
    report: float
    """Of either side, for a report of load."""
    image: float
    """The working node's, for an image, whatever its size: kept, synced and handed back."""
    byte: float
    """And for each byte of it."""


def load() -> Costs:
    return Costs(**json.loads(FILE.read_text()))


def processor_time(pid: int) -> float:
    """Seconds of processor time that a process has used: fields 14 and 15 of proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure() -> Costs:
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="safelight-bench-", dir=parent) as directory:
        place = Path(directory)
        config = ephemeral_config(place / "working")
        with LocalCluster(config, lambda node, line: None) as cluster:
            cluster.start()
            leader = asyncio.run(wait_for_leader(config, 30))
            pids = {node: cluster.pid(node) for node in config.addresses}
            offers, small, large = run(_uploads(config, place, pids))
        decline = statistics.mean(used for node, used in offers.items() if node != leader) / OFFERS
        grant = offers[leader] / OFFERS
        one_small, one_large = small[leader] / SMALL_IMAGES - grant, large[leader] / LARGE_IMAGES - grant
        byte = (one_large - one_small) / ((LARGE << 20) - SMALL)
        return Costs(decline, grant, _choice(), _report(place / "idle"), one_small - SMALL * byte, byte)


async def _uploads(config: Config, place: Path, pids: dict[int, int]) -> list[dict[int, float]]:
    """What each node used for all offers, for all small images, and for all large ones."""
    large = image_of(place / "large.png", LARGE)
    small = place / "small.png"
    small.write_bytes(large.read_bytes()[:SMALL])
    async with Session(config, "alice") as session:

        async def upload(image: Path) -> None:
            with under_another_name(image) as path:
                (await session.seal(path, to=place / "out", feedback=NullFeedback())).path.unlink()

        async def offer() -> None:
            offer = Offer("alice", secrets.token_hex(16), "photo.png", SMALL)
            for answer in await asyncio.gather(
                *(session._account.offer(node, offer) for node in pids), return_exceptions=True
            ):
                assert not isinstance(answer, BaseException) or isinstance(answer, Refusal), answer

        async def used(times: int, work: Callable[[], Awaitable[None]]) -> dict[int, float]:
            before = {node: processor_time(pid) for node, pid in pids.items()}
            for _ in range(times):
                await work()
            return {node: processor_time(pid) - before[node] for node, pid in pids.items()}

        await used(10, lambda: upload(small))
        return [
            await used(OFFERS, offer),
            await used(SMALL_IMAGES, lambda: upload(small)),
            await used(LARGE_IMAGES, lambda: upload(large)),
        ]


def _report(place: Path) -> float:
    """Of nodes that do nothing but heartbeats: what one costs on either side."""
    config = ephemeral_config(place, heartbeat=HEARTBEAT)
    with LocalCluster(config, lambda node, line: None) as cluster:
        cluster.start()
        leader = asyncio.run(wait_for_leader(config, 30))
        before = processor_time(cluster.pid(leader))
        time.sleep(HEARTBEATS_FOR)
        used = processor_time(cluster.pid(leader)) - before
    messages = 2 * (len(config.addresses) - 1) * HEARTBEATS_FOR / HEARTBEAT  # one each way, with each worker
    return used / messages


def _choice() -> float:
    """Choosing among many nodes, a node: as the scheduler does it."""
    book = LoadTracker(MANY, MANY, 60.0, 256, 0)
    for node in range(1, MANY):
        own = LoadTracker(node, MANY, 60.0, 256, 0).own()
        book.received(node, [own], MANY)
    balance = Balancer()
    began = time.process_time()
    for number in range(OFFERS):
        in_hand = {
            load.node: load.weight
            for load in [book.own(), *book.peers()]
            if load.free_slots > balance.waiting(load.node)
        }
        balance.assign(f"{number}", SMALL, in_hand, number / 1000)
    return (time.process_time() - began) / OFFERS / MANY


def main() -> None:
    costs = measure()
    FILE.write_text(json.dumps(costs._asdict(), indent=2) + "\n")
    for name, seconds in costs._asdict().items():
        print(f"{name:8} {1e6 * seconds:10.4f} µs")


if __name__ == "__main__":
    main()
