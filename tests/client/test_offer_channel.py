"""A line whose other end has gone without a word is given up, and the next offer goes another way."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from safelight.client.transport import offer_channel
from safelight.client.transport.offer_channel import OfferChannels
from safelight.wire.messages import Grant, Offer
from tests.running import GENEROUS


class Deaf:
    """As `Servers`: a server that opens lines, and never says anything on one, not even to a ping."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self.http, self._url = http, url
        self.posted = 0

    def at(self, server: int, path: str) -> URL:
        return URL(self._url + path)

    async def ask(self, *arguments: Any, **named: Any) -> Grant:
        self.posted += 1
        return Grant(1, 1, "", "")


async def accept(request: web.Request) -> web.StreamResponse:
    socket = web.WebSocketResponse(autoping=False)
    await socket.prepare(request)
    async for _ in socket:
        pass
    return socket


def test_a_line_that_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offer_channel, "PING_INTERVAL", 0.2)

    async def go() -> None:
        app = web.Application()
        app.router.add_get(offer_channel.PATH, accept)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        offer = Offer("alice", "0" * 32, "a.png", 1)
        async with aiohttp.ClientSession() as http:
            servers: Any = Deaf(http, f"http://127.0.0.1:{port}")
            it = OfferChannels(servers)
            async with asyncio.timeout(GENEROUS):
                while not it._open:
                    await it.offer(1, offer, "Bearer x")
                    await asyncio.sleep(0.01)
                posted = servers.posted
                with pytest.raises(aiohttp.ClientError):
                    await it.offer(1, offer, "Bearer x")
                assert servers.posted == posted
                await it.offer(1, offer, "Bearer x")
                assert servers.posted == posted + 1
            await it.close()
        await runner.cleanup()

    asyncio.run(go())
