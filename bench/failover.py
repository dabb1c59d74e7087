"""How long nobody serves when the leader goes: `python bench/failover.py [--rounds 30]`.

Prints a Markdown table for bench/RESULTS.md. The client is one session that keeps its connections; an upload begins
in the moment in which the leader is struck, and the time is over when its sealed file is synced and in place. Where
etcd is installed (Debian: etcd-server), the same is done to three nodes of it with default settings, beside it: there
the time is over when a put, offered to both remaining nodes again and again, has succeeded.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from safelight import samples
from safelight.client.requests.feedback import NullFeedback
from safelight.client.requests.status import survey
from safelight.client.session import Session
from safelight.config import Config
from safelight.errors import SafelightError
from safelight.local.cluster import LocalCluster, ephemeral_config
from safelight.node.state.crash_record import record_stop

PATIENCE = 30.0
"""Seconds for what should be there in one: a cluster in which all nodes follow the highest."""

IMAGE = 10_000
"""Bytes."""

AROUND = 1.0
"""Seconds of uploads before a leader is told to stop, and after it has."""

IDLE = 20.0
"""Seconds over which an idle node's use of the processor is counted."""

ETCD_ATTEMPT = 0.2
"""Seconds that one put may take, before it is tried again: ten times what it takes when there is a leader."""


class Row(NamedTuple):
    what: str
    goal: str
    measured: str


# -- Safelight ---------------------------------------------------------------------------------------


class Bench:
    """A cluster, and one user's session at it."""

    def __init__(self, cluster: LocalCluster, session: Session, work: Path) -> None:
        self.cluster = cluster
        self.leader = max(cluster.config.addresses)
        self._session = session
        self._images = work / "images"
        self._original = work / "cat.png"
        self._original.write_bytes(samples.path("lighthouse.png").read_bytes()[:IMAGE])

    async def upload(self) -> int:
        """Upload the image; the node that sealed it."""
        return (await self._session.seal(self._original, to=self._images, feedback=NullFeedback())).node

    def strike(self, blow: signal.Signals) -> None:
        os.kill(self.cluster.pid(self.leader), blow)

    async def whole(self) -> None:
        """Return when all nodes follow the highest, and the session's connections to them are warm."""
        give_up = time.monotonic() + PATIENCE
        while not all(each.load and each.load.leader == self.leader for each in await survey(self.cluster.config)):
            if time.monotonic() > give_up:
                raise SystemExit("the cluster did not recover: see its log")
            await asyncio.sleep(0.05)
        for _ in range(3):
            await self.upload()

    async def start_again(self) -> None:
        """Once the leader's process has ended."""
        await asyncio.to_thread(self.cluster.stop, self.leader)
        record_stop(self.cluster.config.data_dir, self.leader)  # else it would soon give way to others for a minute
        self.cluster.start(self.leader)
        await self.whole()


@asynccontextmanager
async def bench(**settings: Any) -> AsyncIterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="safelight-bench-") as directory:
        config = ephemeral_config(Path(directory), **settings)
        with LocalCluster(config, lambda node, line: None) as cluster:
            cluster.start()
            await asyncio.to_thread(cluster.wait_until_listening)
            async with Session(config, "alice") as session:
                it = Bench(cluster, session, Path(directory))
                await it.whole()
                yield it


async def undisturbed(rounds: int) -> list[float]:
    """Seconds that an upload takes as long as nothing happens."""
    times = []
    async with bench() as it:
        for _ in range(rounds):
            started = time.perf_counter()
            await it.upload()
            times.append(time.perf_counter() - started)
    return times


async def until_the_next_upload(rounds: int, blow: signal.Signals, heartbeat: float) -> list[float]:
    """Seconds from the blow to the leader until an upload that began with it is acknowledged."""
    times = []
    async with bench(heartbeat=heartbeat) as it:
        for _ in range(rounds):
            started = time.perf_counter()
            it.strike(blow)
            node = await it.upload()
            times.append(time.perf_counter() - started)
            assert node != it.leader
            if blow is signal.SIGSTOP:
                it.strike(signal.SIGCONT)
                await it.whole()
            else:
                await it.start_again()
    return times


async def handover(rounds: int) -> tuple[list[float], list[float], int, int]:
    """Uploads without a pause, while the leader is told to stop, and ends: the longest gap between two that were
    acknowledged, in each round; the longest before it was told; how many failed, of how many.
    """
    gaps, usual, failed, total = [], [], 0, 0

    async with bench() as it:
        for _ in range(rounds):
            acknowledged: list[float] = []
            struck, end = 0.0, time.perf_counter() + AROUND
            while (now := time.perf_counter()) < end or it.leader in it.cluster.running:
                if not struck and now >= end:
                    it.strike(signal.SIGTERM)
                    struck, end = now, now + AROUND
                total += 1
                try:
                    await it.upload()
                    acknowledged.append(time.perf_counter())
                except SafelightError:
                    failed += 1
            gaps.append(max(b - a for a, b in pairwise(acknowledged) if b >= struck))
            usual.append(max(b - a for a, b in pairwise(acknowledged) if b < struck))
            await it.start_again()
    return gaps, usual, failed, total


async def idle() -> dict[int, float]:
    """Each idle node's share of one core, of the default heartbeat."""
    async with bench() as it:
        before = {node: _busy(it.cluster.pid(node)) for node in it.cluster.running}
        await asyncio.sleep(IDLE)
        return {node: (_busy(it.cluster.pid(node)) - was) / IDLE for node, was in before.items()}


def _busy(pid: int) -> float:
    """Seconds of processor time, user's and system's, of a process: proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# -- etcd --------------------------------------------------------------------------------------------


class Etcd:
    """Three nodes of etcd with default settings, as processes of ours."""

    def __init__(self, directory: Path, http: aiohttp.ClientSession) -> None:
        config = ephemeral_config(directory, nodes=6)
        urls = [address.url for address in config.addresses.values()]
        self._clients = dict(enumerate(urls[:3], start=1))
        self._peers = dict(enumerate(urls[3:], start=1))
        self._directory, self._http = directory, http
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, node: int) -> None:
        members = ",".join(f"node{number}={url}" for number, url in self._peers.items())
        data = self._directory / f"node{node}"
        settings = {
            "name": f"node{node}",
            "data-dir": str(data),
            "listen-client-urls": self._clients[node],
            "advertise-client-urls": self._clients[node],
            "listen-peer-urls": self._peers[node],
            "initial-advertise-peer-urls": self._peers[node],
            "initial-cluster": members,
            "initial-cluster-state": "existing" if data.exists() else "new",
        }
        self._processes[node] = subprocess.Popen(
            ["etcd", *(f"--{name}={value}" for name, value in settings.items())],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self, node: int) -> None:
        self._processes[node].kill()
        self._processes[node].wait()

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as ends:
            for node in self._clients:
                self.start(node)
                ends.callback(self.kill, node)
            yield

    async def put(self, *nodes: int) -> None:
        """Put a key, at whichever of these nodes does it first."""
        done, pending = await asyncio.wait(
            [asyncio.create_task(self._put(node)) for node in nodes], return_when=asyncio.FIRST_COMPLETED
        )
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            task.result()

    async def leader(self) -> int:
        """The leader, when all nodes agree on it and have taken a put each."""
        while True:
            with suppress(aiohttp.ClientError, TimeoutError, KeyError, ValueError):
                async with asyncio.timeout(PATIENCE):
                    states = {node: await self._ask(node, "maintenance/status", {}) for node in self._clients}
                led = {state["leader"] for state in states.values()}
                ids = {state["header"]["member_id"]: node for node, state in states.items()}
                if len(led) == 1:
                    leader = ids[led.pop()]
                    for node in self._clients:
                        await self.put(node)
                    return leader
            await asyncio.sleep(0.1)

    async def _put(self, node: int) -> None:
        pair = {"key": base64.b64encode(b"cat").decode(), "value": base64.b64encode(b"sealed").decode()}
        while True:
            with suppress(aiohttp.ClientError, TimeoutError):
                async with asyncio.timeout(ETCD_ATTEMPT):
                    await self._ask(node, "kv/put", pair)
                    return
            await asyncio.sleep(0.005)

    async def _ask(self, node: int, path: str, message: dict[str, str]) -> Any:
        async with self._http.post(f"{self._clients[node]}/v3/{path}", json=message, raise_for_status=True) as response:
            return await response.json()


async def etcd(rounds: int) -> list[float]:
    times = []
    with tempfile.TemporaryDirectory(prefix="safelight-bench-") as directory:
        async with aiohttp.ClientSession() as http:
            cluster = Etcd(Path(directory), http)
            with cluster.running():
                for _ in range(rounds):
                    leader = await cluster.leader()
                    started = time.perf_counter()
                    cluster.kill(leader)
                    await cluster.put(*({1, 2, 3} - {leader}))
                    times.append(time.perf_counter() - started)
                    cluster.start(leader)
    return times


# -- the table ---------------------------------------------------------------------------------------


def rows(rounds: int) -> Iterator[Row]:
    few = max(1, rounds // 3)

    def failover(title: str, goal: str, count: int, measure: Callable[[], Coroutine[Any, Any, list[float]]]) -> Row:
        times = asyncio.run(measure())
        return Row(
            f"{title}, {count} rounds", goal, f"median {_time(statistics.median(times))}, worst {_time(max(times))}"
        )

    yield failover(
        "an upload without a failure, which all rows below include", "", rounds, partial(undisturbed, rounds)
    )
    title = "of the leader until the next upload is acknowledged"
    kill, stop = signal.SIGKILL, signal.SIGSTOP
    default = Config().timing.heartbeat
    yield failover(
        f"SIGKILL {title}",
        "median ≤ 50 ms, worst ≤ 250 ms",
        rounds,
        partial(until_the_next_upload, rounds, kill, default),
    )
    for heartbeat, goal in ((default, "≤ 3 s"), (0.2, "≤ 1 s")):
        measure = partial(until_the_next_upload, few, stop, heartbeat)
        yield failover(f"SIGSTOP {title}, heartbeat {heartbeat:g} s", goal, few, measure)
    gaps, usual, failed, total = asyncio.run(handover(few))
    yield Row(
        f"SIGTERM of the leader, longest gap between acknowledged uploads, {few} rounds",
        "none fails, ≤ 50 ms",
        f"{failed} of {total} failed; median {_time(statistics.median(gaps))}, worst {_time(max(gaps))} "
        f"(without SIGTERM: {_time(statistics.median(usual))}, {_time(max(usual))})",
    )
    shares = asyncio.run(idle())
    yield Row(
        f"processor use of an idle node, over {IDLE:g} s",
        "≤ 0.5 % of a core",
        ", ".join(f"node {node}: {share:.2%}" for node, share in sorted(shares.items())),
    )
    if shutil.which("etcd") is None:
        yield Row("etcd: SIGKILL of the leader until the next put", "", "skipped: no `etcd` here (Debian: etcd-server)")
    else:
        yield failover("etcd: SIGKILL of the leader until the next put", "", few, partial(etcd, few))


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def machine() -> str:
    """What the figures hold for."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    versions = [
        f"Python {platform.python_version()}",
        *(f"{name} {version(name)}" for name in ("safelight", "aiohttp")),
    ]
    if shutil.which("etcd"):
        said = subprocess.run(["etcd", "--version"], capture_output=True, text=True, check=True).stdout
        versions.append(f"etcd {said.partition(':')[2].split()[0]}")
    system = f"{platform.system()} {platform.release()}"
    return f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {system}; {', '.join(versions)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=30, help="of SIGKILL; a third as many of the others")
    rounds = parser.parse_args().rounds
    print(f"{machine()}\n\n| what | goal | measured |\n|---|---|---|")
    for row in rows(rounds):
        print(f"| {' | '.join(row)} |")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
