"""What a client makes of what servers say of images: names are not believed, and a server that dies costs nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from itertools import count
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from safelight.cli.output.console import ConsoleReporter
from safelight.cli.user.commands import Commands
from safelight.client.requests.feedback import NullFeedback
from safelight.client.requests.leader_search import NoLeader
from safelight.client.session import Session
from safelight.config import Config
from safelight.local.cluster import ephemeral_config
from safelight.wire.messages import ClusterInfo, Grant, Kept, Listing, Problem, Refusal, problem_body
from tests.mission.support import MEBIBYTE, contents, image_of, seal
from tests.running import Running, as_user

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
BYTES = bytes(range(256)) * 40


@asynccontextmanager
async def serving(config: Config, number: int, **handlers: Handler) -> AsyncIterator[None]:
    """A server of our own making: `images` and `image` are GET, `remove` is DELETE."""

    async def cluster(request: web.Request) -> web.StreamResponse:
        return web.Response(body=msgspec.json.encode(ClusterInfo("ab" * 16, number, "0", True)))

    async def offer(request: web.Request) -> web.StreamResponse:
        url = f"{config.addresses[number].url}/v1/images/x"
        return web.Response(status=201, body=msgspec.json.encode(Grant(number, 1, url, f"{next(tickets)}")))

    tickets = count()
    app = web.Application()
    app.router.add_get("/v1/cluster", cluster)
    app.router.add_post("/v1/offers", offer)
    for path, method, name in (("", "GET", "images"), ("/{name}", "GET", "image"), ("/{name}", "DELETE", "remove")):
        if name in handlers:
            app.router.add_route(method, f"/v1/images{path}", handlers[name])
            if name == "image":
                app.router.add_head("/v1/images/{name}", handlers[name])
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", config.addresses[number].port).start()
    try:
        yield
    finally:
        await runner.cleanup()


def refusing(problem: Problem) -> Handler:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.Response(status=problem.status, body=problem_body(Refusal(problem, "no")))

    return refuse


def listing(*images: Kept) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=msgspec.json.encode(Listing([*images])))

    return answer


async def whole(request: web.Request) -> web.StreamResponse:
    if request.match_info["name"] == "*":
        return web.Response(status=404, body=problem_body(Refusal(Problem.NOT_FOUND, "no")))
    return web.Response(body=BYTES, headers={"ETag": '"1"', "Last-Modified": "Mon, 03 Feb 2020 04:05:06 GMT"})


def kept(name: str, original: str, **more: Decimal) -> Kept:
    return Kept(name, len(BYTES), "image/png", 1_700_000_000.0, original, **more)


HOSTILE = {
    "../../escaped.png": "_./.._escaped.png".replace("/", "_"),
    "/etc/passwd": "_etc_passwd",
    "..": "sealed.png",
    ".": "sealed.png",
    "": "sealed.png",
    ".bashrc": "_bashrc",
    ".0123456789abcdef.part": "_0123456789abcdef.part",
    "a\nb\x1b[31m\x00.png": "a_b_[31m_.png",
    "x" * 300: "x" * 255,
    "ä" * 200: "ä" * 127,
    "-rf": "-rf",
}


def fetched(directory: Path, original: str, modified: str) -> dict[str, bytes]:
    """The files that `get '*'` makes of an image of which a server says this; none of them is elsewhere."""
    config, to = ephemeral_config(directory / "cluster", 1), directory / "a" / "b"

    async def go() -> bool:
        images = listing(kept("sealed.png", original, modified=Decimal(modified)))
        async with serving(config, 1, images=images, image=whole), Session(config, "alice") as session:
            commands = Commands(session, ConsoleReporter(dialogue=True))
            return await commands.get(["*"], to=to, sealed=False, force=False)

    before = contents(directory)
    assert asyncio.run(go())
    assert {*contents(directory)} - {*before} <= {"a", "cluster"}
    return {path.name: path.read_bytes() for path in to.iterdir()}


@pytest.mark.parametrize(("original", "file"), HOSTILE.items(), ids=[ascii(name)[:20] for name in HOSTILE])
def test_a_name_that_a_server_says_leads_nowhere_else(tmp_path: Path, original: str, file: str) -> None:
    assert fetched(tmp_path, original, "1e300") == {file: BYTES}


@pytest.mark.parametrize("modified", ["1e300", "1e999999999", "-1e-999999999", "NaN", "-Infinity", "9" * 5000])
def test_a_time_that_a_server_says_harms_nobody(tmp_path: Path, modified: str) -> None:
    for _ in range(2):
        assert fetched(tmp_path, "x.png", modified) == {"x.png": BYTES}


def test_a_listing_cannot_drive_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ephemeral_config(tmp_path, 1)

    async def go() -> None:
        evil = msgspec.structs.replace(kept("n\x1b[2Jame", "\u202egnp\r\n.png"), type="\x07", created=1e300)
        async with serving(config, 1, images=listing(evil)), Session(config, "alice") as session:
            await Commands(session, ConsoleReporter(dialogue=True)).ls(None)

    asyncio.run(go())
    out = capsys.readouterr().out
    assert not set("\x1b\x07\r\u202e") & set(out)
    assert out.count("\n") == 2


def test_a_listing_goes_on_with_another_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ephemeral_config(tmp_path, 3)  # nobody is at the third's address
    asked: list[tuple[int, str | None]] = []

    def page(number: int) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            after = request.query.get("after")
            asked.append((number, after))
            if number == 2 and after is not None:
                return web.Response(status=500, body=b"dying")
            at = int(after or 0)
            images = [kept(f"{at + each}.png", "") for each in range(3)]
            return web.Response(body=msgspec.json.encode(Listing(images, str(at + 3) if at < 6 else None)))

        return answer

    async def go() -> None:
        async with AsyncExitStack() as stack:
            for number in (1, 2):
                await stack.enter_async_context(serving(config, number, images=page(number)))
            session = await stack.enter_async_context(Session(config, "alice"))
            await Commands(session, ConsoleReporter(dialogue=True)).ls(None, output="jsonl")

    asyncio.run(go())
    names = [msgspec.json.decode(line, type=Kept).name for line in capsys.readouterr().out.splitlines()]
    assert names == [f"{number}.png" for number in range(9)]
    assert asked == [(2, None), (2, "3"), (1, "3"), (1, "6")]


@pytest.mark.parametrize("changed", [False, True])
def test_a_download_goes_on_where_it_broke_off_unless_the_image_is_another_by_now(
    tmp_path: Path, changed: bool
) -> None:
    config = ephemeral_config(tmp_path, 2)
    ranges: list[str | None] = []

    async def breaking(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"ETag": '"1"', "Content-Length": str(len(BYTES))})
        await response.prepare(request)
        await response.write(BYTES[:1000])
        assert request.transport is not None
        request.transport.close()
        return response

    async def rest(request: web.Request) -> web.StreamResponse:
        ranges.append(request.headers.get("Range"))
        assert request.headers["If-Range"] == '"1"'
        if changed:
            return web.Response(body=BYTES[::-1], headers={"ETag": '"2"'})
        start = int(str(ranges[-1]).removeprefix("bytes=").removesuffix("-"))
        content_range = f"bytes {start}-{len(BYTES) - 1}/{len(BYTES)}"
        return web.Response(status=206, body=BYTES[start:], headers={"Content-Range": content_range})

    async def go() -> Path:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(serving(config, 1, image=rest))
            await stack.enter_async_context(serving(config, 2, image=breaking))
            session = await stack.enter_async_context(Session(config, "alice"))
            image = kept("x.png", "x.png")
            return (await session.fetch(image, to=tmp_path / "out", progress=lambda done, total: None)).path

    assert asyncio.run(go()).read_bytes() == (BYTES[::-1] if changed else BYTES)
    assert ranges == ["bytes=1000-"]
    assert contents(tmp_path / "out") == ["x.png"]


def test_a_download_that_never_ends_leaves_nothing(tmp_path: Path) -> None:
    config = ephemeral_config(tmp_path, 1, timeout=0.5)

    async def short(request: web.Request) -> web.StreamResponse:
        return web.Response(body=BYTES[:-1])

    async def go() -> None:
        async with serving(config, 1, image=short), Session(config, "alice") as session:
            await session.fetch(kept("x.png", "x.png"), to=tmp_path / "out", progress=lambda done, total: None)

    with pytest.raises(NoLeader, match="server 1"):
        asyncio.run(go())
    assert contents(tmp_path / "out") == []


def test_a_removal_whose_answer_was_lost_is_one(tmp_path: Path) -> None:
    config = ephemeral_config(tmp_path, 1)
    asked: list[str] = []

    async def remove(request: web.Request) -> web.StreamResponse:
        if request.headers["Authorization"] in asked:  # HTTP libraries repeat by themselves what may be repeated
            return await refusing(Problem.BAD_TICKET)(request)
        asked.append(request.headers["Authorization"])
        if len(asked) > 1:
            return await refusing(Problem.NOT_FOUND)(request)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def go() -> int:
        async with serving(config, 1, remove=remove), Session(config, "alice") as session:
            return await session.remove("x", feedback=NullFeedback())

    assert asyncio.run(go()) == 1
    assert len(asked) == 2


def test_a_large_image_survives_the_node_that_serves_it(cluster: Running, tmp_path: Path, photograph: Path) -> None:
    config = cluster.config
    original = image_of(48 * MEBIBYTE, tmp_path / "large.png", photograph)
    os.utime(original, (1_000_000_000, 1_000_000_000))
    name = seal(config, original, tmp_path / "images").path.name
    nodes, dead = [3, 2, 1], list[int]()

    def progress(done: int, total: int) -> None:
        if len(dead) < 2 and done > total * (len(dead) + 1) // 4:
            dead.append(nodes[len(dead)])
            cluster.cluster.kill(dead[-1])

    async def get(session: Session) -> tuple[Path, int]:
        saved = await session.fetch(await session.images.find(name), to=tmp_path / "out", progress=progress)
        return saved.path, saved.node

    path, node = as_user(config, "alice", get)
    assert (dead, node) == ([3, 2], 1)
    assert path.read_bytes() == original.read_bytes()
    assert path.stat().st_mtime == 1_000_000_000
    assert contents(tmp_path / "out") == ["large.png"]


def test_a_name_that_the_vault_has_counts_on(
    cluster: Running, tmp_path: Path, photograph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three machines of one user, in the same second: none knows what the others have in images/."""
    monkeypatch.setattr("safelight.client.session.time.time", lambda: 1_700_000_000.0)
    made = [seal(cluster.config, photograph, tmp_path / machine).path.name for machine in "abc"]
    assert made == [f"encrypted_lighthouse_{1_700_000_000 + number}.png" for number in range(3)]
