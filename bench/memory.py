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
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from safelight import samples
from safelight.client.requests.feedback import NullFeedback
from safelight.client.requests.status import wait_for_leader
from safelight.client.session import Session
from safelight.config import Config
from safelight.local.cluster import LocalCluster, ephemeral_config

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


_numbers = count(1)


@contextmanager
def under_another_name(image: Path) -> Iterator[Path]:
    """The same image under a name that it never had, as people's images have: one that is taken is counted on."""
    path = image.with_name(f"{image.stem}-{next(_numbers)}{image.suffix}")
    path.hardlink_to(image)
    try:
        yield path
    finally:
        path.unlink()


Journey = Callable[[Session, Path, Path], AsyncIterator[tuple[str, Path]]]
"""What a session does with an image, using a directory: after each leg its name and the file that came of it."""


def travel(config: Config, image: Path, work: Path, journey: Journey) -> None:
    """A client process: does the journey, prints its figures, and compares what came back with the image."""
    size = image.stat().st_size / MIB

    async def go() -> Path:
        async with Session(config, "alice") as session:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            began, arrived = time.monotonic(), image
            async for leg, path in journey(session, image, work):
                arrived = path
                print(f"{leg} {size:.0f} MiB in {time.monotonic() - began:.1f} s")
                began = time.monotonic()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"client    peak {before:.0f} MiB before, {after:.0f} MiB after")
        return arrived

    with image.open("rb") as original, asyncio.run(go()).open("rb") as copy:
        while chunk := original.read(MIB):
            assert chunk == copy.read(MIB), "the image that came back differs"


async def _encrypt_and_open(session: Session, image: Path, work: Path) -> AsyncIterator[tuple[str, Path]]:
    sealed = await session.seal(image, to=work / "images", feedback=NullFeedback())
    yield "encrypted", sealed.path
    opened = await session.open(sealed.path, to=work / "decrypted", feedback=NullFeedback())
    yield "opened", opened.path


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    with tempfile.TemporaryDirectory(prefix="safelight-bench-") as directory:
        work = Path(directory)
        image = image_of(work / "image.png", size)
        config = ephemeral_config(work)
        with LocalCluster(config, lambda node, line: None) as cluster:
            cluster.start()
            leader = asyncio.run(wait_for_leader(config, 30))
            before = {node: peak(cluster.pid(node)) for node in cluster.running}
            process = multiprocessing.get_context("spawn").Process(
                target=travel, args=(config, image, work, _encrypt_and_open)
            )
            process.start()
            process.join()
            for node, was in before.items():
                role = "leader" if node == leader else "worker"
                print(f"node {node}    peak {was:.0f} MiB before, {peak(cluster.pid(node)):.0f} MiB after  ({role})")
        sys.exit(process.exitcode)


if __name__ == "__main__":
    main()
