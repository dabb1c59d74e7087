"""The channels for a client's offers: WebSockets that stay open from one image to the next.

The first offer is a POST. From the second on, the client opens a channel in the background, and offers use it as soon
as it is open; if it breaks or cannot be opened, the next offers are POSTs again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from itertools import count

import msgspec

from safelight.client.transport.servers import TRANSPORT_ERRORS, Servers
from safelight.decoding import Malformed, decode
from safelight.runtime.http import aiohttp
from safelight.wire.messages import (
    API,
    MAX_JSON,
    Grant,
    NumberedAnswer,
    NumberedOffer,
    Offer,
    Problem,
    Refusal,
    read_problem,
)

PATH = f"{API}/offers"

PATIENCE = 2.0
"""Seconds that a server may take to open a line."""

ALIVE = 6.0
"""Seconds between two pings; a line whose other end says nothing for half of that is given up, as what lies between may
have forgotten it (NAT, a machine that slept).
"""

GOODBYE = 0.2
"""Seconds that a server has to answer when it is hung up on."""

LATER = 5.0
"""Seconds until a line is tried again that could not be had."""


class OfferChannels:
    """One client's lines to its servers."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._made: Counter[int] = Counter()
        self._lines: dict[int, _Channel] = {}
        self._dialing: dict[int, asyncio.Task[None]] = {}
        self._not_before: dict[int, float] = {}

    async def offer(self, server: int, offer: Offer, bearer: str) -> Grant:
        """One server's answer to an offer. Raises Refusal, and `TRANSPORT_ERRORS` where no answer comes."""
        self._made[server] += 1
        line = self._lines.get(server)
        if line is not None and not line.broken:
            return await line.offer(offer)
        may = server not in self._dialing and time.monotonic() >= self._not_before.get(server, 0.0)
        if may and self._made[server] > 1:
            self._dialing[server] = asyncio.create_task(self._dial(server, bearer))
        return await self._servers.ask(server, "POST", PATH, Grant, authorization=bearer, message=offer)

    async def _dial(self, server: int, bearer: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                socket = await self._servers.http.ws_connect(
                    self._servers.at(server, PATH),
                    headers={"Authorization": bearer},
                    max_msg_size=MAX_JSON,
                    compress=0,
                    heartbeat=ALIVE,
                    timeout=aiohttp.ClientWSTimeout(ws_close=GOODBYE),
                )
            if (old := self._lines.get(server)) is not None:
                await old.close()
            self._lines[server] = _Channel(socket)
        except TRANSPORT_ERRORS:
            self._not_before[server] = time.monotonic() + LATER
        finally:
            del self._dialing[server]

    async def close(self) -> None:
        """Hang up. Who does not answer to that is waited for no longer than `GOODBYE`."""
        for dialing in self._dialing.values():
            dialing.cancel()
        await asyncio.gather(*self._dialing.values(), return_exceptions=True)
        await asyncio.gather(*(line.close() for line in self._lines.values()))


class _Channel:
    """A line that stands."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[NumberedAnswer]] = {}
        self.broken = False
        self._reading = asyncio.create_task(self._read())

    async def offer(self, offer: Offer) -> Grant:
        number, answer = next(self._numbers), asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            await self._socket.send_bytes(
                msgspec.json.encode(NumberedOffer(number, msgspec.Raw(msgspec.json.encode(offer))))
            )
            said: NumberedAnswer = await answer
        finally:
            del self._waiting[number]
        if said.status != 201:
            raise read_problem(said.status, bytes(said.body))
        try:
            return decode(said.body, Grant)
        except Malformed:
            raise Refusal(Problem.INTERNAL, "what answers there is not a Safelight node") from None

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._socket.close()

    async def _read(self) -> None:
        try:
            while (message := await self._socket.receive()).type is aiohttp.WSMsgType.BINARY:
                said = decode(message.data, NumberedAnswer)
                if (answer := self._waiting.get(said.number)) is not None and not answer.done():
                    answer.set_result(said)
        except (Malformed, *TRANSPORT_ERRORS):
            pass
        finally:
            self.broken = True
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(aiohttp.ServerDisconnectedError())
