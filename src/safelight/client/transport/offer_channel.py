"""Offer channels: WebSockets on which a client sends its offers, open from one image to the next.

The first offer to a server is a POST. The second one starts to open a channel, and later offers use it as soon as it
is open. If the channel breaks or cannot be opened, offers are POSTs again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from itertools import count

import msgspec

from safelight.client.transport.servers import TRANSPORT_ERRORS, Servers, read_answer
from safelight.decoding import Malformed, decode
from safelight.runtime.http import aiohttp
from safelight.runtime.tasks import cancel
from safelight.wire.messages import API, MAX_JSON, Grant, NumberedAnswer, NumberedOffer, Offer, read_problem

PATH = f"{API}/offers"

OPEN_TIMEOUT = 2.0
"""Seconds that a server may take to open a channel."""

PING_INTERVAL = 6.0
"""Seconds between two pings. A channel without a pong for half of that is closed: a NAT may have dropped it, or a
machine may have slept.
"""

CLOSE_TIMEOUT = 0.2
"""Seconds that a server has to confirm that a channel closes."""

RETRY_AFTER = 5.0
"""Seconds until a channel that could not be opened is tried again."""


class OfferChannels:
    """One client's channels, one for each server."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._made: Counter[int] = Counter()
        self._open: dict[int, _Channel] = {}
        self._opening: dict[int, asyncio.Task[None]] = {}
        self._not_before: dict[int, float] = {}

    async def offer(self, server: int, offer: Offer, bearer: str) -> Grant:
        """One server's answer to an offer. Raises Refusal, and `TRANSPORT_ERRORS` where no answer comes."""
        self._made[server] += 1
        channel = self._open.get(server)
        if channel is not None and not channel.broken:
            return await channel.offer(offer)
        may = server not in self._opening and time.monotonic() >= self._not_before.get(server, 0.0)
        if may and self._made[server] > 1:
            self._opening[server] = asyncio.create_task(self._connect(server, bearer))
        return await self._servers.ask(server, "POST", PATH, Grant, authorization=bearer, message=offer)

    async def _connect(self, server: int, bearer: str) -> None:
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                socket = await self._servers.http.ws_connect(
                    self._servers.at(server, PATH),
                    headers={"Authorization": bearer},
                    max_msg_size=MAX_JSON,
                    compress=0,
                    heartbeat=PING_INTERVAL,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT),
                )
            if (old := self._open.get(server)) is not None:
                await old.close()
            self._open[server] = _Channel(socket)
        except TRANSPORT_ERRORS:
            self._not_before[server] = time.monotonic() + RETRY_AFTER
        finally:
            del self._opening[server]

    async def close(self) -> None:
        """Close all channels. A server that does not confirm costs at most `CLOSE_TIMEOUT`."""
        await cancel(*self._opening.values())
        await asyncio.gather(*(channel.close() for channel in self._open.values()))


class _Channel:
    """An open channel."""

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
        return read_answer(said.body, Grant)

    async def close(self) -> None:
        await cancel(self._reading)
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
