"""One user who takes all that a node gives, and gives it back as slowly as it can; and what another user feels of it.

`python -m bench.hostile HOST:PORT` is that user: it reads its token from standard input, holds so many uploads and
reads at so few bytes a second, and asks again for each that is refused or closed. It is a process of its own, so that
what it does costs the other user's client nothing.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import PIPE, Popen

from bench.memory import MIB, image_of, under_another_name
from safelight.client.requests.feedback import NullFeedback
from safelight.client.session import Session
from safelight.config import Config
from safelight.runtime.http import aiohttp

UPLOADS, READERS = 64, 192
RATE = 1600
"""Bytes a second of each: above what a node always asks for, below what it asks for while others wait."""

TICK = 0.5
"""Seconds between two pieces."""

NAME, SIZE = "large.png", 16
"""The image that is read, and its MiB: more than a connection's buffers hold."""

ROUNDS = 200
WARM = 10.0
"""Seconds that the hostile user has to take its places: longer than those of `shares`."""


async def hold(netloc: str, token: str) -> None:
    """All at once, until cancelled; a line every second on what is held."""
    held = Counter[str]()

    async def one(kind: str) -> None:
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                await (_upload if kind == "uploads" else _read)(netloc, token, held)
            await asyncio.sleep(1)

    async with asyncio.TaskGroup() as group:
        for kind, many in (("uploads", UPLOADS), ("readers", READERS)):
            for _ in range(many):
                group.create_task(one(kind))
        while True:
            print(f"{held['uploads']} uploads, {held['readers']} readers", flush=True)
            await asyncio.sleep(1)


async def _upload(netloc: str, token: str, held: Counter[str]) -> None:
    reader, writer = await asyncio.open_connection(*netloc.split(":"))
    try:
        writer.write(_head(f"PUT /v1/images/{secrets.token_hex(8)}.png", netloc, token, "Content-Length: 100000000"))
        answer = asyncio.create_task(reader.readline())
        held["uploads"] += 1
        try:
            while not answer.done():
                writer.write(bytes(int(RATE * TICK)))
                await asyncio.wait([answer], timeout=TICK)
            await answer
        finally:
            held["uploads"] -= 1
    finally:
        writer.close()


async def _read(netloc: str, token: str, held: Counter[str]) -> None:
    host, port = netloc.split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that little is on its way unread
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(connection, (host, int(port)))
        await loop.sock_sendall(connection, _head(f"GET /v1/images/{NAME}", netloc, token))
        if b" 200 " not in await loop.sock_recv(connection, int(RATE * TICK)):
            return
        held["readers"] += 1
        try:
            async for _ in _ticks():
                if not await loop.sock_recv(connection, int(RATE * TICK)):
                    break
        finally:
            held["readers"] -= 1
    finally:
        connection.close()


async def _ticks() -> AsyncIterator[None]:
    while True:
        yield
        await asyncio.sleep(TICK)


def _head(start: str, netloc: str, token: str, *headers: str) -> bytes:
    lines = [f"{start} HTTP/1.1", f"Host: {netloc}", f"Authorization: Bearer {token}", *headers, "", ""]
    return "\r\n".join(lines).encode()


# -- the other user ----------------------------------------------------------------------------------


async def ordinary(config: Config, image: Path, to: Path) -> list[list[float]]:
    """Seconds of each of many uploads, and of fetching each again, one after the other."""
    times: list[list[float]] = [[], []]
    async with Session(config, "ordinary") as session:
        for _ in range(ROUNDS):
            with under_another_name(image) as own:
                began = time.perf_counter()
                done = await session.seal(own, to=to, feedback=NullFeedback())
                sealed = time.perf_counter()
                kept = await session.images.find(done.path.name)
                saved = await session.fetch(kept, to=to, progress=lambda done, total: None)
                times[0].append(sealed - began)
                times[1].append(time.perf_counter() - sealed)
                saved.path.unlink()
                done.path.unlink()
    return times


@contextmanager
def hostile(netloc: str) -> Iterator[list[str]]:
    """The hostile user at work, at its best; its last words on what it holds."""
    token = f"slt_{secrets.token_urlsafe(32)}"
    asyncio.run(_prepare(netloc, token))
    said: list[str] = []
    with Popen([sys.executable, "-m", "bench.hostile", netloc], stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{token}\n")
        process.stdin.flush()
        began = time.monotonic()
        while time.monotonic() - began < WARM:
            said[:] = [process.stdout.readline().strip()]
        yield said
        process.kill()


async def _prepare(netloc: str, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}", "Prefer": "return=minimal"}
    with tempfile.TemporaryDirectory() as directory:
        body = image_of(Path(directory) / NAME, SIZE).read_bytes()
    async with aiohttp.ClientSession(f"http://{netloc}", headers=headers, raise_for_status=True) as http:
        await http.put("/v1/users/hostile")
        await http.put(f"/v1/images/{NAME}", data=body)


def figures(config: Config, leader: int, directory: Path) -> list[str]:
    """What an ordinary user's work takes alone, and beside a hostile one: lines."""
    image = image_of(directory / "ordinary.png", 1)
    alone = asyncio.run(ordinary(config, image, directory / "ordinary"))
    with hostile(config.addresses[leader].netloc) as held:
        beside = asyncio.run(ordinary(config, image, directory / "ordinary"))
    lines = [
        f"a hostile user holds {held[0]}, at {RATE / 1000:g} kB/s each; "
        f"another user, {image.stat().st_size / MIB:g} MiB:"
    ]
    for what, first, then in zip(("an upload", "a fetch"), alone, beside, strict=True):
        both = [_p99(first), _p99(then)]
        lines.append(
            f"{what}: alone median {_ms(statistics.median(first))}, p99 {_ms(both[0])}; "
            f"with it median {_ms(statistics.median(then))}, p99 {_ms(both[1])}: {both[1] / both[0]:.1f} × (goal: 3)"
        )
    return lines


def _p99(times: list[float]) -> float:
    return sorted(times)[int(0.99 * len(times))]


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


async def _main() -> None:
    token = sys.stdin.readline().strip()
    await hold(sys.argv[1], token)


if __name__ == "__main__":
    asyncio.run(_main())
