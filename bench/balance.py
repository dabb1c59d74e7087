"""Who does how much: `python -m bench.balance [--seconds 20] [--share 0.15]`.

Each of three nodes gets that share of one core, by a control group. Clients that are not the bottleneck upload small
and large images, first to a cluster in which the leader does all, then to one with `least-loaded`, and once
more with node 1 slowed to half its share. Work is weighed as the leader weighs it: bytes, and 256 KiB for each image.
Writes its table into bench/RESULTS.md and what was done in each second into bench/balance.json, and draws balance.svg.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench import results
from bench.costs import LARGE
from bench.memory import image_of, under_another_name
from bench.picture import BALANCE, SECONDS, balance
from bench.speed import SMALL, run
from safelight.client.requests.feedback import NullFeedback
from safelight.client.requests.status import wait_for_leader
from safelight.client.session import Session
from safelight.config import Config
from safelight.local.cluster import LocalCluster, ephemeral_config
from safelight.node.work.balance import weight

GROUPS = Path("/sys/fs/cgroup")
PERIOD = 20_000
"""Microseconds within which a node gets its share: short, or it would look like one that hangs."""

AT_ONCE = 16
WARM_UP = 3.0
"""Seconds before it counts."""


class Done(NamedTuple):
    """One image: when, in seconds since it counts, by which node, and how heavy it was."""

    when: float
    node: int
    weight: int


class Group:
    """A control group of processes: at most a share of one core together. Of version 1 or 2."""

    def __init__(self, name: str) -> None:
        """Raises OSError where this may not be done."""
        self._new = (GROUPS / "cgroup.controllers").exists()
        self._path = GROUPS / ("" if self._new else "cpu") / name
        if self._new:
            (GROUPS / "cgroup.subtree_control").write_text("+cpu")
        self._path.mkdir()

    def limit(self, share: float) -> None:
        quota = round(share * PERIOD)
        if self._new:
            (self._path / "cpu.max").write_text(f"{quota} {PERIOD}")
        else:
            (self._path / "cpu.cfs_period_us").write_text(str(PERIOD))
            (self._path / "cpu.cfs_quota_us").write_text(str(quota))

    def take(self, pid: int) -> None:
        (self._path / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        give_up = time.monotonic() + 5
        while True:
            try:
                return self._path.rmdir()
            except OSError:  # its processes have yet to be reaped
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.05)


@contextmanager
def shared(names: list[str]) -> Iterator[list[Group]]:
    groups: list[Group] = []
    try:
        groups += map(Group, names)
        yield groups
    finally:
        for group in groups:
            group.remove()


def measure(balance: str, shares: dict[int, float], seconds: float) -> list[Done]:
    """What was done by whom, by nodes with these shares of a core."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    names = [f"safelight-bench-{os.getpid()}-{node}" for node in shares]
    with tempfile.TemporaryDirectory(prefix="safelight-bench-", dir=parent) as directory, shared(names) as groups:
        work = Path(directory)
        large = image_of(work / "large.png", LARGE)
        small = work / "small.png"
        small.write_bytes(large.read_bytes()[:SMALL])
        config = ephemeral_config(work, len(shares), balance=balance)
        with LocalCluster(config, lambda node, line: None) as cluster:
            cluster.start()
            asyncio.run(wait_for_leader(config, 60))
            for group, (node, share) in zip(groups, shares.items(), strict=True):
                group.limit(share)
                group.take(cluster.pid(node))
            done: list[Done] = run(_load(config, small, large, work, seconds))
            return done


async def _load(config: Config, small: Path, large: Path, work: Path, seconds: float) -> list[Done]:
    done: list[Done] = []
    chance = random.Random(5)
    async with Session(config, "alice") as session:
        began = time.monotonic() + WARM_UP

        async def client() -> None:
            while (now := time.monotonic()) < began + seconds:
                image = large if chance.random() < 0.2 else small
                with under_another_name(image) as own:
                    saved = await session.seal(own, to=work / "out", feedback=NullFeedback())
                saved.path.unlink()
                now = time.monotonic()
                if began <= now < began + seconds:
                    done.append(Done(now - began, saved.node, weight(image.stat().st_size)))

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(client())
    return done


def parts(done: list[Done]) -> dict[int, float]:
    """Which part of the work each node did."""
    total = sum(each.weight for each in done)
    nodes = sorted({each.node for each in done})
    return {node: sum(each.weight for each in done if each.node == node) / total for node in nodes}


def by_second(done: list[Done], seconds: int) -> list[list[float]]:
    """For each second the megabytes of work that nodes 1, 2 and 3 did."""
    sums = [[0.0, 0.0, 0.0] for _ in range(seconds)]
    for each in done:
        sums[int(each.when)][each.node - 1] += each.weight / 1e6
    return [[round(megabytes, 1) for megabytes in nodes] for nodes in sums]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.balance", description=__doc__)
    parser.add_argument("--seconds", type=int, default=20, metavar="S")
    parser.add_argument("--share", type=float, default=0.15, metavar="X", help="of one core, for each node")
    options = parser.parse_args()
    equal = dict.fromkeys((1, 2, 3), options.share)
    try:
        runs = {
            "leader": measure("leader", equal, options.seconds),
            "least-loaded": measure("least-loaded", equal, options.seconds),
            "least-loaded, node 1 at half": measure("least-loaded", {**equal, 1: options.share / 2}, options.seconds),
        }
    except OSError as error:
        print(f"Not measured: control groups for processors cannot be made here ({error}). Run it as root.")
        return
    table = "\n".join(_table(runs, equal, options.seconds))
    print(table)
    results.write("balance", table)
    seconds = {name: by_second(done, options.seconds) for name, done in runs.items()}
    SECONDS.write_text(json.dumps(seconds, indent=1) + "\n")
    BALANCE.write_text(balance())


def _table(runs: dict[str, list[Done]], shares: dict[int, float], seconds: float) -> Iterator[str]:
    alone = sum(each.weight for each in runs["leader"])
    yield "| run | images/s | work, MB/s | against the leader alone | node 1 | node 2 | node 3 |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for name, done in runs.items():
        total, by_node = sum(each.weight for each in done), parts(done)
        cells = [f"{100 * by_node.get(node, 0):.0f} %" for node in shares]
        rate, speed = len(done) / seconds, total / 1e6 / seconds
        yield f"| {name} | {rate:.0f} | {speed:.0f} | {total / alone:.2f} × | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
