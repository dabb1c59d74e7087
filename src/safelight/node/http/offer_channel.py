"""Offer channels: WebSockets that stay open from one image to the next, over which a client sends its offers.

A frame with an offer gets the response that a POST would get, at a quarter of an HTTP request's cost. Responses come in
any order, each with the number of its offer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

import msgspec

from safelight.decoding import Malformed, decode
from safelight.runtime.http import aiohttp, web
from safelight.wire.messages import MAX_JSON, NumberedAnswer, NumberedOffer

AT_ONCE = 64
"""Offers of one user that are processed at a time, over all its channels; more wait in the sockets."""

Respond = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]
"""The response to a POST of these bytes with the headers of this request."""


class OfferChannels:
    """One node's channels to its clients."""

    def __init__(self, respond: Respond, ping_timeout: float) -> None:
        """`ping_timeout`: seconds that a client may leave a ping unanswered."""
        self._respond, self._ping_timeout = respond, ping_timeout
        self._open: set[web.WebSocketResponse] = set()
        self._free: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()  # by user with a channel

    async def accept(self, request: web.Request, user: str) -> web.StreamResponse:
        """Process a user's offers until the client closes the channel, or sends anything else."""
        socket = web.WebSocketResponse(heartbeat=self._ping_timeout, max_msg_size=MAX_JSON, compress=False)
        await socket.prepare(request)
        self._open.add(socket)
        free = self._free.setdefault(user, asyncio.Semaphore(AT_ONCE))
        tasks = set[asyncio.Task[None]]()

        async def process(number: int, offer: bytes) -> None:
            try:
                response = await self._respond(request, offer)
                body = response.body if isinstance(response, web.Response) else None
                raw = msgspec.Raw(body if isinstance(body, bytes) else b"{}")
                await socket.send_bytes(msgspec.json.encode(NumberedAnswer(number, response.status, raw)))
            except ConnectionError:
                pass  # the client closed the channel

        def processed(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            free.release()  # here, as a task that is cancelled before its first step runs none of its code

        try:
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.BINARY:
                    break
                numbered = decode(message.data, NumberedOffer)
                await free.acquire()
                task = asyncio.create_task(process(numbered.number, bytes(numbered.offer)))
                tasks.add(task)
                task.add_done_callback(processed)
        except (Malformed, ConnectionError):
            pass
        finally:
            self._open.discard(socket)
            for task in tasks:
                task.cancel()
            await socket.close()
        return socket

    async def close(self) -> None:
        """Close all channels."""
        await asyncio.gather(*(socket.close() for socket in set(self._open)))
