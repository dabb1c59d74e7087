"""A node's end of the lines, with answers that a test holds back."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiohttp.typedefs import Handler

from safelight.node.http.offer_channel import AT_ONCE, OfferChannels
from tests.running import GENEROUS

OFFER = msgspec.json.encode({"number": 1, "offer": {}})


def test_one_user_has_so_many_offers_in_work_over_however_many_lines() -> None:
    """And another user's are answered meanwhile."""
    in_work, most = 0, 0

    async def go() -> None:
        nonlocal in_work, most
        full, go_on = asyncio.Event(), asyncio.Event()

        async def answer(request: web.Request, offer: bytes) -> web.StreamResponse:
            nonlocal in_work, most
            if request.query["user"] == "alice":
                in_work += 1
                most = max(most, in_work)
                if in_work == AT_ONCE:
                    full.set()
                await go_on.wait()
                in_work -= 1
            return web.Response(body=b"{}")

        lines = OfferChannels(answer, GENEROUS)

        async def accept(request: web.Request) -> web.StreamResponse:
            return await lines.accept(request, request.query["user"])

        app = web.Application()
        app.router.add_get("/", accept)
        runner = web.AppRunner(app)
        await runner.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(runner, listener).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/?user="
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(aiohttp.ClientSession())
            alices = [await stack.enter_async_context(http.ws_connect(url + "alice")) for _ in range(3)]
            for line in alices:
                for _ in range(AT_ONCE):
                    await line.send_bytes(OFFER)
            bob = await stack.enter_async_context(http.ws_connect(url + "bob"))
            await bob.send_bytes(OFFER)
            await bob.receive_bytes(timeout=GENEROUS)
            await asyncio.wait_for(full.wait(), GENEROUS)
            go_on.set()
            for line in alices:
                for _ in range(AT_ONCE):
                    await line.receive_bytes(timeout=GENEROUS)
        await runner.cleanup()

    asyncio.run(go())
    assert most == AT_ONCE


def test_lines_that_break_off_with_an_offer_give_its_place_back() -> None:
    """Its task may be cancelled before it has begun."""

    async def go() -> None:
        async def answer(request: web.Request, offer: bytes) -> web.StreamResponse:
            return web.Response(body=b"{}")

        lines = OfferChannels(answer, GENEROUS)

        async def accept(request: web.Request) -> web.StreamResponse:
            return await lines.accept(request, "alice")

        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(TestServer(_application(accept)))
            http = await stack.enter_async_context(aiohttp.ClientSession())
            kept = await stack.enter_async_context(http.ws_connect(server.make_url("/")))
            for _ in range(AT_ONCE + 1):
                broken = await http.ws_connect(server.make_url("/"))
                assert broken._conn is not None
                transport = broken._conn.transport
                assert transport is not None
                transport.write(_frame(OFFER) + _frame(b"{"))  # at once, so that both are read in one step
                await broken.receive(timeout=GENEROUS)
                await broken.close()
            await kept.send_bytes(OFFER)
            await kept.receive_bytes(timeout=GENEROUS)

    asyncio.run(go())


def _application(handler: Handler) -> web.Application:
    app = web.Application()
    app.router.add_get("/", handler)
    return app


def _frame(data: bytes) -> bytes:
    """A binary message from a client, masked with zeros (RFC 6455, 5.2)."""
    return bytes([0x82, 0x80 | len(data)]) + bytes(4) + data
