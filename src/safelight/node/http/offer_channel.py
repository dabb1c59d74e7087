"""The lines over which a client makes its offers: WebSockets that stay open from one image to the next.

An offer in a frame is answered as the same offer in a POST would be, for a quarter of what an HTTP request costs on
both sides. Answers come as they are found, in any order, each with the number of its offer.
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
"""Offers of one user that are answered at the same time, over however many lines; the next ones wait in the sockets."""

Answer = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]
"""What a POST of these bytes, with the headers of this request, is answered."""


class OfferChannels:
    """One node's lines to its clients."""

    def __init__(self, answer: Answer, ping_timeout: float) -> None:
        """`ping_timeout`: seconds that a client may leave a ping unanswered."""
        self._answer, self._ping_timeout = answer, ping_timeout
        self._open: set[web.WebSocketResponse] = set()
        self._free: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()  # by user, who has a line

    async def accept(self, request: web.Request, user: str) -> web.StreamResponse:
        """Take a user's offers until the client goes, or sends what is none."""
        socket = web.WebSocketResponse(heartbeat=self._ping_timeout, max_msg_size=MAX_JSON, compress=False)
        await socket.prepare(request)
        self._open.add(socket)
        free = self._free.setdefault(user, asyncio.Semaphore(AT_ONCE))
        answering = set[asyncio.Task[None]]()

        async def answer(number: int, offer: bytes) -> None:
            try:
                response = await self._answer(request, offer)
                body = response.body if isinstance(response, web.Response) else None
                said = NumberedAnswer(number, response.status, msgspec.Raw(body if isinstance(body, bytes) else b"{}"))
                await socket.send_bytes(msgspec.json.encode(said))
            except ConnectionError:
                pass  # it went without waiting for the answer

        def answered(task: asyncio.Task[None]) -> None:
            answering.discard(task)
            free.release()  # here, as a task that is cancelled before its first step runs nothing of its own

        try:
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.BINARY:
                    break
                said = decode(message.data, NumberedOffer)
                await free.acquire()
                task = asyncio.create_task(answer(said.number, bytes(said.offer)))
                answering.add(task)
                task.add_done_callback(answered)
        except (Malformed, ConnectionError):
            pass
        finally:
            self._open.discard(socket)
            for task in answering:
                task.cancel()
            await socket.close()
        return socket

    async def close(self) -> None:
        """Hang up."""
        await asyncio.gather(*(socket.close() for socket in set(self._open)))
