"""What a client believes of an answer: nothing but the whole of what must come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from safelight.client.requests.feedback import NullFeedback
from safelight.client.requests.leader_search import NoLeader
from safelight.client.session import Session
from safelight.config import Config
from safelight.encryption import Scheme, sealed_size
from safelight.local.cluster import ephemeral_config
from safelight.wire.messages import ClusterInfo, Grant, Problem, Refusal, problem_body

Handler = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def serving(config: Config, number: int, offer: Handler, image: Handler) -> AsyncIterator[None]:
    """A server of our own making."""

    async def cluster(request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(ClusterInfo("ab" * 16, number, "0", True)))

    app = web.Application(client_max_size=1 << 30)
    app.router.add_get("/v1/cluster", cluster)
    app.router.add_post("/v1/offers", offer)
    app.router.add_put("/v1/images/{name}", image)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", config.addresses[number].port).start()
    try:
        yield
    finally:
        await runner.cleanup()


def granting(config: Config, number: int, after: float = 0.0) -> Handler:
    async def grant(request: web.Request) -> web.Response:
        await asyncio.sleep(after)
        url = f"{config.addresses[number].url}/v1/images/x"
        return web.Response(status=201, body=msgspec.json.encode(Grant(number, 1, url, "ticket")))

    return grant


def answering(status: int, body: bytes) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=status, body=body)

    return answer


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize("answer", [b"", b"thank you", bytes(5 << 20)], ids=["nothing", "too little", "too much"])
def test_an_answer_that_is_not_the_sealed_file_is_no_success(
    tmp_path: Path, photograph: Path, status: int, answer: bytes
) -> None:
    config = ephemeral_config(tmp_path, 1)

    async def go() -> None:
        leader = serving(config, 1, granting(config, 1), answering(status, answer))
        async with leader, Session(config, "alice") as session:
            await session.seal(photograph, to=tmp_path / "images", feedback=NullFeedback())

    with pytest.raises(NoLeader, match="broke off"):
        asyncio.run(go())
    assert list((tmp_path / "images").iterdir()) == []


def test_a_workers_refusal_does_not_outrun_a_slow_leaders_grant(tmp_path: Path, photograph: Path) -> None:
    """One machine where the operator forgot alice must not fail what the leader would take."""
    config = ephemeral_config(tmp_path, 2)
    refusal = Refusal(Problem.ENROLMENT_CLOSED, "server 1 does not know alice", node=1)
    sealed = answering(201, bytes(sealed_size(Scheme.SEALED, photograph.stat().st_size, "alice")))
    worker = serving(config, 1, answering(403, problem_body(refusal)), sealed)
    leader = serving(config, 2, granting(config, 2, after=0.4), sealed)  # late, and yet within a round

    async def go() -> int:
        async with worker, leader, Session(config, "alice") as session:
            return (await session.seal(photograph, to=tmp_path / "images", feedback=NullFeedback())).node

    assert asyncio.run(go()) == 2
