"""What a client believes of an answer: nothing but the whole of what must come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from safelight.client.errand import NoLeader
from safelight.client.feedback import Silence
from safelight.client.session import Session
from safelight.cluster import throwaway
from safelight.config import Config
from safelight.protocol import Cluster, Grant


@asynccontextmanager
async def leader(config: Config, status: int, answer: bytes) -> AsyncIterator[None]:
    """A server that grants everything, and answers each body with the same."""

    async def cluster(request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(Cluster("ab" * 16, 1, "0", True)))

    async def offer(request: web.Request) -> web.Response:
        url = f"{config.addresses[1].url}/v1/images/x"
        return web.Response(status=201, body=msgspec.json.encode(Grant(1, 1, url, "ticket")))

    async def image(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=status, body=answer)

    app = web.Application(client_max_size=1 << 30)
    app.router.add_get("/v1/cluster", cluster)
    app.router.add_post("/v1/offers", offer)
    app.router.add_put("/v1/images/{name}", image)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", config.addresses[1].port).start()
    try:
        yield
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize("answer", [b"", b"thank you", bytes(5 << 20)], ids=["nothing", "too little", "too much"])
def test_an_answer_that_is_not_the_sealed_file_is_no_success(
    tmp_path: Path, photograph: Path, status: int, answer: bytes
) -> None:
    config = throwaway(tmp_path, 1)

    async def go() -> None:
        async with leader(config, status, answer), Session(config, "alice") as session:
            await session.seal(photograph, to=tmp_path / "images", feedback=Silence())

    with pytest.raises(NoLeader, match="broke off"):
        asyncio.run(go())
    assert list((tmp_path / "images").iterdir()) == []
