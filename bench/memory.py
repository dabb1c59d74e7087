"""How much memory an image takes on its way: `python bench/memory.py [MIB]` (default 1024).

Encrypts and opens one image of that size through a cluster of its own, and prints each process's peak resident
memory before and after. A constant number is what we want: it must not grow with the image.
"""

import asyncio
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

from safelight import samples
from safelight.client.feedback import Silence
from safelight.client.session import Session
from safelight.client.status import wait_for_leader
from safelight.cluster import Cluster, throwaway
from safelight.config import Config

MIB = 1 << 20


def peak(pid: int) -> float:
    """VmHWM of a process in MiB, proc(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def image_of(path: Path, size: int) -> Path:
    """A file of so many MiB that begins as an image does."""
    photograph = samples.path("lighthouse.png").read_bytes()[:MIB]
    with path.open("wb") as file:
        for _ in range(size):
            file.write(photograph)
    return path


def client(config: Config, image: Path, work: Path) -> None:
    """A client process: encrypts, opens, compares, prints its own figures."""
    size = image.stat().st_size / MIB

    async def go() -> Path:
        async with Session(config, "alice") as session:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            started = time.monotonic()
            sealed = await session.seal(image, to=work / "images", feedback=Silence())
            between = time.monotonic()
            opened = await session.open(sealed.path, to=work / "decrypted", feedback=Silence())
            ended = time.monotonic()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"encrypted {size:.0f} MiB in {between - started:.1f} s, opened it in {ended - between:.1f} s")
        print(f"client    peak {before:.0f} MiB before, {after:.0f} MiB after")
        return opened.path

    with image.open("rb") as original, asyncio.run(go()).open("rb") as copy:
        while chunk := original.read(MIB):
            assert chunk == copy.read(MIB), "the opened image differs"


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    with tempfile.TemporaryDirectory(prefix="safelight-bench-") as directory:
        work = Path(directory)
        image = image_of(work / "image.png", size)
        config = throwaway(work)
        with Cluster(config, lambda node, line: None) as cluster:
            cluster.start()
            leader = asyncio.run(wait_for_leader(config, 30))
            before = {node: peak(cluster.pid(node)) for node in cluster.running}
            process = multiprocessing.get_context("spawn").Process(target=client, args=(config, image, work))
            process.start()
            process.join()
            for node, was in before.items():
                role = "leader" if node == leader else "worker"
                print(f"node {node}    peak {was:.0f} MiB before, {peak(cluster.pid(node)):.0f} MiB after  ({role})")
        sys.exit(process.exitcode)


if __name__ == "__main__":
    main()
