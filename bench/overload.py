"""A crowd at once, and one hostile user: `python -m bench.overload [--clients 200]`.

So many clients, each a session of its own, upload an image of 1 MB in the same moment to three nodes. Written into
bench/RESULTS.md are how many failed, how long an upload took, what they added to each node's memory, and how long
others wait for `status`. Then one hostile user holds all that it can get, and another works as always: see `hostile`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench import hostile, results
from bench.memory import image_of, peak
from bench.speed import run
from safelight.client.requests.feedback import NullFeedback
from safelight.client.requests.status import wait_for_leader
from safelight.client.session import Session
from safelight.config import Config
from safelight.errors import SafelightError
from safelight.local.cluster import LocalCluster, environment, ephemeral_config

LOOKS = 5
"""Times that somebody new asks for the status."""

LOOK = """
import asyncio, os, time
from safelight.client.requests.status import survey
from safelight.config import load
config = load(None, {"servers": os.environ["SAFELIGHT_SERVERS"]})
began = time.perf_counter()
asyncio.run(survey(config))
print(time.perf_counter() - began)
"""


async def crowd(config: Config, image: Path, to: Path, clients: int) -> tuple[list[float], list[str], list[float]]:
    """How long each upload took, what the failed ones said, and how long each `safelight status` took."""
    times: list[float] = []
    failures: list[str] = []

    async def client(number: int) -> None:
        own = image.with_name(f"image-{number}.png")
        own.hardlink_to(image)
        began = time.perf_counter()
        try:
            async with Session(config, f"user-{number % 10}") as session:
                await session.seal(own, to=to / f"client-{number}", feedback=NullFeedback())
            times.append(time.perf_counter() - began)
        except SafelightError as error:
            failures.append(str(error))

    async def look() -> list[float]:
        found = []
        for _ in range(LOOKS):
            await asyncio.sleep(0.2)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", LOOK, env=environment(config), stdout=asyncio.subprocess.PIPE
            )
            said, _ = await process.communicate()
            found.append(float(said))
        return found

    looking = asyncio.create_task(look())
    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
    return times, failures, await looking


def many(clients: int) -> None:
    with tempfile.TemporaryDirectory(prefix="safelight-bench-") as directory:
        image, config = image_of(Path(directory) / "image.png", 1), ephemeral_config(Path(directory))
        with LocalCluster(config, lambda node, line: None) as cluster:
            cluster.start()
            leader = asyncio.run(wait_for_leader(config, 30))
            before = {node: peak(cluster.pid(node)) for node in config.addresses}
            began = time.perf_counter()
            times, failures, looks = run(crowd(config, image, Path(directory), clients))
            took = time.perf_counter() - began
            times.sort()
            said = [f"{clients} clients at once, 1 MiB each: {len(failures)} failed; all done after {took:.1f} s"]
            said += [f"  {failure}" for failure in failures[:3]]
            median, last = statistics.median(times), times[-1]
            said += [
                f"an upload: median {median:.2f} s, p99 {times[int(0.99 * len(times))]:.2f} s, worst {last:.2f} s",
                f"status, asked by a new process meanwhile: {', '.join(f'{look:.2f} s' for look in looks)}",
            ]
            for node, was in before.items():
                role = "leader" if node == leader else "worker"
                said.append(f"node {node} ({role}): {was:.0f} MiB before, at most {peak(cluster.pid(node)):.0f} MiB")
    _report("overload", said)


def beside_a_hostile_user() -> None:
    with tempfile.TemporaryDirectory(prefix="safelight-bench-") as directory:
        config = ephemeral_config(Path(directory))
        with LocalCluster(config, lambda node, line: None) as cluster:
            cluster.start()
            leader = asyncio.run(wait_for_leader(config, 30))
            said = hostile.figures(config, leader, Path(directory))
            said.append(f"node {leader} (leader): {peak(cluster.pid(leader)):.0f} MiB at most")
    _report("hostile", said)


def _report(section: str, said: list[str]) -> None:
    text = "\n".join(said)
    print(text)
    results.write(section, f"```\n{text}\n```")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description=__doc__)
    parser.add_argument("--clients", type=int, default=200, metavar="N", help="0: only the hostile user")
    if clients := parser.parse_args().clients:
        many(clients)
    beside_a_hostile_user()


if __name__ == "__main__":
    main()
