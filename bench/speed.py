"""The figures of `make bench`: each is one round of one thing, ours and a peer's, one right after the other."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from subprocess import DEVNULL
from typing import Any, NamedTuple

import uvloop

from bench import peers
from bench.memory import MIB, image_of, peak, travel, under_another_name
from bench.vault import keep_and_fetch
from safelight.client.requests.feedback import NullFeedback
from safelight.client.requests.status import wait_for_leader
from safelight.client.session import Session
from safelight.client.transport import tokens
from safelight.config import Config
from safelight.encryption import Opener, Scheme, Sealer, open_, seal
from safelight.encryption.keys import Keyring
from safelight.local.cluster import LocalCluster, environment, ephemeral_config
from safelight.runtime.allocator import keep_segments

SMALL = 100_000
"""Bytes of a small image."""

_names = count()


class Scale(NamedTuple):
    """How much of everything: a whole run's, or a quick one's."""

    large: int
    """MiB of the large image."""
    huge: int
    """MiB of the image that memory is measured with."""
    images: int
    """Small images, in a session and in a directory."""
    seconds: int
    """Of load on a server."""


WHOLE, QUICK = Scale(512, 2048, 1000, 4), Scale(32, 64, 40, 1)


class Figure(NamedTuple):
    """One round: by what name, how much, and of the peer how much."""

    name: str
    ours: float
    peer: float | None = None


class Place:
    """A cluster, a web server and files in one directory, and a user's session."""

    def __init__(self, directory: Path, scale: Scale, stack: ExitStack) -> None:
        self.directory, self.scale = directory, scale
        self.large = image_of(directory / "large.png", scale.large)
        self.small = directory / "small.png"
        self.small.write_bytes(self.large.read_bytes()[:SMALL] if scale.large < 64 else _beginning(self.large, SMALL))
        self.out = directory / "out"
        self.out.mkdir()
        self.config = ephemeral_config(directory)
        self.cluster = stack.enter_context(LocalCluster(self.config, lambda node, line: None))
        self.cluster.start()
        self.leader = asyncio.run(wait_for_leader(self.config, 30))
        self.url = f"{self.config.addresses[self.leader].url}/v1/images/"
        self.token = run(self._enrol())
        try:
            self.web: str | None = stack.enter_context(peers.nginx(directory / "nginx"))
        except peers.Absent:
            self.web = None

    async def _enrol(self) -> str:
        async with self.session() as session:
            saved = await session.seal(self.small, to=self.out, feedback=NullFeedback())
            saved.path.unlink()
        (file,) = self.config.client_dir.glob("tokens/*/alice")
        token = tokens.load(self.config.client_dir, file.parent.name, "alice")
        assert token is not None
        return str(token)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        async with Session(self.config, "alice") as session:
            yield session

    def server(self) -> str:
        """The web server's URL. Raises Absent."""
        if self.web is None:
            peers.need("nginx", "curl")
        assert self.web is not None
        return self.web

    def forget(self, name: str) -> None:
        """Remove an image, so that the next round finds as much room."""

        async def remove() -> None:
            async with self.session() as session:
                await session.remove(name, feedback=NullFeedback())

        run(remove())


@contextmanager
def placed(parent: str | None, scale: Scale) -> Iterator[Place]:
    """A place below `parent`, or below the system's directory for temporary files."""
    with tempfile.TemporaryDirectory(prefix="safelight-bench-", dir=parent) as directory, ExitStack() as stack:
        yield Place(Path(directory), scale, stack)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """In an event loop as the commands have."""
    keep_segments()
    return uvloop.run(work)


# -- without a place -----------------------------------------------------------------------------------


def in_memory(scale: Scale) -> Iterator[Figure]:
    """Seal and open 64 MiB, one thread, as a node does: mebibyte by mebibyte, and what came out is gone; MB/s."""
    keep_segments()
    keyring, image = Keyring.new(), os.urandom(64 * MIB)
    sealer = seal(Scheme.SEALED, "alice", keyring)
    sealed = b"".join([*sealer.update(image), sealer.finish()])
    sealing = _passing(seal(Scheme.SEALED, "alice", keyring), image)
    opening = _passing(open_(Scheme.SEALED, "alice", keyring), sealed)
    limit = peers.gcm()
    yield Figure("seal in memory", sealing, limit)
    yield Figure("open in memory", opening, limit)


def _passing(cipher: Sealer | Opener, data: bytes) -> float:
    """MB/s of this through a cipher."""
    view, began = memoryview(data), time.perf_counter()
    for start in range(0, len(data), MIB):
        cipher.update(view[start : start + MIB])
    cipher.finish()
    return len(data) / (time.perf_counter() - began) / 1e6


def start(scale: Scale) -> Iterator[Figure]:
    """Whole processes; seconds."""
    safelight = [sys.executable, "-m", "safelight"]
    yield Figure("safelight --help", peers.timed(*safelight, "--help"), peers.timed(sys.executable, "-c", "pass"))
    with tempfile.TemporaryDirectory(prefix="safelight-bench-") as directory:
        config = ephemeral_config(Path(directory))
        image = image_of(Path(directory) / "image.png", 1)
        image.write_bytes(_beginning(image, SMALL))
        began = time.perf_counter()
        cluster = subprocess.Popen([*safelight, "up"], env=environment(config), stdout=DEVNULL, stderr=DEVNULL)
        try:
            run(_upload(config, image, Path(directory)))
            yield Figure("safelight up, until an upload is done", time.perf_counter() - began)
            command = [*safelight, "upload", str(image), "--user", "alice", "--to", directory]
            began = time.perf_counter()
            subprocess.run(command, env=environment(config), check=True, capture_output=True)
            yield Figure("safelight upload", time.perf_counter() - began)
        finally:
            cluster.terminate()
            cluster.wait()


async def _upload(config: Config, image: Path, to: Path) -> None:
    await wait_for_leader(config, 30)
    async with Session(config, "alice") as session:
        await session.seal(image, to=to, feedback=NullFeedback())


def memory(scale: Scale) -> Iterator[Figure]:
    """What a large image adds to the peak memory of the leader and of the client; MiB."""
    with tempfile.TemporaryDirectory(prefix="safelight-bench-") as directory:
        work = Path(directory)
        image, config = image_of(work / "large.png", scale.huge), ephemeral_config(work)
        with LocalCluster(config, lambda node, line: None) as cluster:
            cluster.start()
            leader = asyncio.run(wait_for_leader(config, 30))
            before = peak(cluster.pid(leader))
            said, say = multiprocessing.Pipe(duplex=False)
            process = multiprocessing.get_context("spawn").Process(target=_client, args=(say, config, image, work))
            process.start()
            grown = said.recv()
            process.join()
            yield Figure("memory of the leader", peak(cluster.pid(leader)) - before)
            yield Figure("memory of the client", grown)


def _client(say: Any, config: Config, image: Path, work: Path) -> None:
    keep_segments()
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 — for as long as the process lives
    before = peak(os.getpid())
    travel(config, image, work, keep_and_fetch)
    say.send(peak(os.getpid()) - before)


# -- at a place ----------------------------------------------------------------------------------------


def large(place: Place) -> Iterator[Figure]:
    """One large image: MB/s of it, however often it crosses the wire."""
    size, web = place.large.stat().st_size / 1e6, place.server()
    there, back = place.directory / "nginx" / "www" / "large.png", place.out / "back"
    put = peers.timed("curl", "-sSf", "-T", place.large, f"{web}/large.png")
    get = peers.timed("curl", "-sSf", "-o", back, f"{web}/large.png")
    there.unlink()
    back.unlink()

    name = f"large-{next(_names)}.png"
    header = place.directory / "curl.header"
    header.touch(0o600)
    header.write_text(f"Authorization: Bearer {place.token}\nPrefer: return=minimal\n")
    kept = peers.timed("curl", "-sSf", "-T", place.large, "-H", f"@{header}", place.url + name)
    place.forget(name)
    yield Figure("kept", size / kept, size / put)

    async def ours() -> tuple[float, float, str]:
        async with place.session() as session:
            began = time.perf_counter()
            saved = await session.seal(place.large, to=place.out, feedback=NullFeedback())
            sent = time.perf_counter() - began
            saved.path.unlink()
            image = await session.images.find(saved.path.name)
            began = time.perf_counter()
            fetched = await session.fetch(image, to=place.out, force=True, progress=lambda done, total: None)
            got = time.perf_counter() - began
            fetched.path.unlink()
            return sent, got, saved.path.name

    sent, got, name = run(ours())
    place.forget(name)
    yield Figure("kept and handed back", size / sent, size / (put + get))
    yield Figure("get", size / got, size / get)


def one_after_the_other(place: Place) -> Iterator[Figure]:
    """Small images, one client session, as the REPL does; images a second."""
    images = place.scale.images // 3

    async def ours() -> float:
        async with place.session() as session:
            for _ in range(5):
                (await session.seal(place.small, to=place.out, feedback=NullFeedback())).path.unlink()
            began = time.perf_counter()
            for _ in range(images):
                with under_another_name(place.small) as path:
                    await session.seal(path, to=place.out, feedback=NullFeedback())
            return images / (time.perf_counter() - began)

    yield Figure("one after the other", run(ours()))


def directory(place: Place) -> Iterator[Figure]:
    """`upload DIR`, the whole command; images a second."""
    images, here = place.scale.images, place.directory / f"many-{next(_names)}"
    here.mkdir()
    for number in range(images):
        (here / f"{number}.png").write_bytes(place.small.read_bytes())
    to = str(place.out / here.name)
    command = [sys.executable, "-m", "safelight", "upload", str(here), "--user", "alice", "--to", to, "--quiet"]
    began = time.perf_counter()
    subprocess.run(command, env=environment(place.config), check=True, capture_output=True)
    yield Figure("upload DIR", images / (time.perf_counter() - began))


def eight_at_once(place: Place) -> Iterator[Figure]:
    """Small images, eight connections of a client that costs nothing; images a second."""
    web, seconds = place.server(), place.scale.seconds
    theirs = peers.wrk(f"{web}/small-", place.small, {}, place.directory, seconds=seconds)
    said = {"Authorization": f"Bearer {place.token}", "Prefer": "return=minimal"}
    ours = peers.wrk(f"{place.url}small-", place.small, said, place.directory, seconds=seconds)
    yield Figure("eight at once", ours, theirs)


def limits(place: Place) -> Iterator[Figure]:
    """What a large file costs elsewhere; MB/s."""
    size, out = place.large.stat().st_size / 1e6, place.out / "encrypted"
    with peers.sink() as url:
        peers.need("curl")
        took = peers.timed("curl", "-sSf", "-T", place.large, f"{url}/x")
        yield Figure("curl to a sink of bare aiohttp", size / took)
    peers.need("openssl")
    cipher = ("openssl", "enc", "-aes-128-ctr", "-K", "0" * 32, "-iv", "0" * 32)
    yield Figure("openssl enc, file to file", size / peers.timed(*cipher, "-in", place.large, "-out", out))
    peers.need("age")
    recipient = "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg"  # of age's own documentation
    yield Figure("age, file to file", size / peers.timed("age", "-r", recipient, "-o", out, place.large))


def _beginning(file: Path, size: int) -> bytes:
    with file.open("rb") as beginning:
        return beginning.read(size)


ALONE: dict[str, Callable[[Scale], Iterator[Figure]]] = {"cipher": in_memory, "start": start, "memory": memory}
AT_A_PLACE: dict[str, Callable[[Place], Iterator[Figure]]] = {
    "large": large,
    "sequence": one_after_the_other,
    "directory": directory,
    "eight": eight_at_once,
    "limits": limits,
}
