"""What the vault costs: `python -m bench.vault [MIB] [IMAGES]` (defaults 2048 and 10000).

A cluster of its own keeps one image of so many MiB, gives it back whole and in part, and lists so many images. Printed
are each process's peak resident memory before and after, and times; a constant memory is what we want.
"""

import asyncio
import http.client
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from bench.memory import MIB, image_of, peak, travel
from safelight.cli.admin.cluster import keyring_file
from safelight.client.requests.feedback import NullFeedback
from safelight.client.requests.status import wait_for_leader
from safelight.client.session import Session
from safelight.client.transport import tokens
from safelight.config import Config
from safelight.encryption import Scheme, seal
from safelight.encryption.sealed import read_header
from safelight.local.cluster import LocalCluster, environment, ephemeral_config
from safelight.vault.bootstrap import open_vault
from safelight.vault.vault import Draft, ImageMetadata, Vault

ROUNDS = 20
RANGE = 1000  # bytes


async def keep_and_fetch(session: Session, image: Path, work: Path) -> AsyncIterator[tuple[str, Path]]:
    saved = await session.seal(image, to=work / "images", feedback=NullFeedback())
    yield "kept", saved.path
    kept = await session.images.find(saved.path.name)
    fetched = await session.fetch(kept, to=work / "fetched", progress=lambda done, total: None)
    yield "fetched", fetched.path


def first_byte(config: Config, name: str, start: int) -> float:
    """Seconds until the first byte of a part of an image is there: median of rounds, each on its own connection."""
    (file,) = config.client_dir.glob("tokens/*/alice")
    token = tokens.load(config.client_dir, file.parent.name, "alice")
    address, times = config.addresses[1], []
    for _ in range(ROUNDS):
        connection = http.client.HTTPConnection(address.host, address.port)
        began = time.perf_counter()
        headers = {"Authorization": f"Bearer {token}", "Range": f"bytes={start}-{start + RANGE - 1}"}
        connection.request("GET", f"/v1/images/{name}", headers=headers)
        answer = connection.getresponse()
        answer.read(1)
        times.append(time.perf_counter() - began)
        assert answer.status == 206, answer.status
        connection.close()
    return statistics.median(times)


async def fill(vault: Vault, user: str, images: int) -> None:
    """Keep so many images of a few bytes, without a node."""

    async def keep(number: int) -> None:
        draft = await vault.begin(user, f"encrypted_photo_{number}.png", f"{number:032x}")
        assert isinstance(draft, Draft)
        sealer, content = seal(Scheme.SEALED, user, vault.keyring()), b"a photograph"
        sealed = b"".join([*sealer.update(content), sealer.finish()])
        await draft.body.write([sealed])
        header = read_header(sealed)
        await vault.commit(
            draft, sealed[: header.length], ImageMetadata(len(content), "image/png", f"photo {number}.png", None)
        )

    for first in range(0, images, 100):
        await asyncio.gather(*map(keep, range(first, min(first + 100, images))))


def in_vault(config: Config, work: Callable[[Vault], Awaitable[None]]) -> None:
    async def go() -> None:
        ring = keyring_file(config).read()
        vault = await open_vault(config.vault_url, config.data_dir, lambda: ring)
        await work(vault)

    asyncio.run(go())


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 2048
    images = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    with tempfile.TemporaryDirectory(prefix="safelight-bench-") as directory:
        work = Path(directory)
        large, small = image_of(work / "large.png", size), image_of(work / "small.png", 1)
        config = ephemeral_config(work)
        with LocalCluster(config, lambda node, line: None) as cluster:
            cluster.start()
            leader = asyncio.run(wait_for_leader(config, 30))
            before = {node: peak(cluster.pid(node)) for node in cluster.running}
            process = multiprocessing.get_context("spawn").Process(
                target=travel, args=(config, large, work, keep_and_fetch)
            )
            process.start()
            process.join()

            async def keep_small() -> str:
                async with Session(config, "alice") as session:
                    return (await session.seal(small, to=work / "images", feedback=NullFeedback())).path.name

            name, (kept,) = asyncio.run(keep_small()), [each.name for each in (work / "images").glob("*large*")]
            near, far = first_byte(config, name, 0), first_byte(config, kept, size * MIB // 2)
            print(
                f"first byte of a small image {1000 * near:.1f} ms, of the middle of the large one {1000 * far:.1f} ms"
            )
            for node, was in before.items():
                role = "leader" if node == leader else "worker"
                print(f"node {node}    peak {was:.0f} MiB before, {peak(cluster.pid(node)):.0f} MiB after  ({role})")

            in_vault(config, lambda vault: fill(vault, "bob", images))
            times, peaks = [], {node: peak(cluster.pid(node)) for node in cluster.running}
            for _ in range(3):
                began = time.monotonic()
                command = [sys.executable, "-m", "safelight", "ls", "--user", "bob", "--json"]
                done = subprocess.run(command, env=environment(config), capture_output=True, check=True)
                times.append(time.monotonic() - began)
                assert done.stdout.count(b"\n") == images
            print(f"ls of {images} images, whole command: {', '.join(f'{each:.2f} s' for each in times)}")
            for node, was in peaks.items():
                print(f"node {node}    peak {was:.0f} MiB before, {peak(cluster.pid(node)):.0f} MiB after")
        sys.exit(process.exitcode)


if __name__ == "__main__":
    main()
