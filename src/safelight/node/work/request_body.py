"""A request's body, as its client sends it: no longer than announced, and within a time limit.

A body without a byte for `body_timeout`, or slower than `PACE` for that long, is stalled: the request is refused. A
slow body occupies no slot; it costs a little memory. While other users wait, a body must reach `min_rate`, or it is
closed: see `fair_share`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from safelight.node.work.fair_share import Slot
from safelight.runtime.http import StreamReader
from safelight.wire.messages import Problem, Refusal

PACE = 1024
"""Bytes per second below which a body counts as stalled."""

SLOW = 1.0
"""Seconds of waiting after which a body counts as slow."""


class RequestBody:
    """One body. Only the time counts that we wait for the client: who is held up by our disk is not slow."""

    def __init__(
        self,
        reader: StreamReader,
        *,
        announced: int | None,
        limit: int,
        stall_timeout: float,
        place: Slot,
    ) -> None:
        """`announced` and `limit` in bytes. `place` hears how fast it comes."""
        self._reader, self._announced, self._limit = reader, announced, limit
        self._stall_timeout, self._place = stall_timeout, place
        self._waited, self._came = 0.0, 0  # seconds and bytes since the pace was last looked at

    async def chunks(self) -> AsyncIterator[bytes]:
        """All of it, as it comes. Raises Refusal."""
        received = 0
        while chunk := await self._next():
            received += len(chunk)
            if received > self._limit:
                raise Refusal(Problem.TOO_LARGE, f"the body is larger than the {self._limit} bytes taken here")
            yield chunk
        if received == 0:
            raise Refusal(Problem.BAD_REQUEST, "the body is empty: there is nothing to encrypt or to open")
        if self._announced is not None and received != self._announced:
            raise Refusal(Problem.BAD_LENGTH, f"{self._announced} bytes were announced, {received} came")

    async def _next(self) -> bytes:
        """Some of it; nothing at its end."""
        while True:
            if chunk := self._reader.read_nowait():  # most of the time it is there already, and needs no timer
                self._keep_pace(0.0, len(chunk))
                return chunk
            chunk, waited = await self._waited_for()
            if not chunk and self._reader.at_eof():
                self._place.crawls(False)
                return b""
            self._keep_pace(waited, len(chunk))
            if chunk:  # else a chunk of Transfer-Encoding: chunked has ended
                return chunk

    async def _waited_for(self) -> tuple[bytes, float]:
        """What comes next, and the seconds since the pace was last looked at. Raises Refusal."""
        started = looked = time.monotonic()
        while True:
            try:
                chunk = await self._within(min(SLOW, started + self._stall_timeout - looked))
            except TimeoutError:
                now = time.monotonic()
                if now - started >= self._stall_timeout:
                    raise Refusal(
                        Problem.STALLED, f"no byte came for {self._stall_timeout:g} s: send the image again"
                    ) from None
                self._keep_pace(now - looked, 0)
                self._place.crawls(True)
                looked = now
            else:
                return chunk, time.monotonic() - looked

    async def _within(self, seconds: float) -> bytes:
        async with asyncio.timeout(seconds):
            chunk, _ = await self._reader.readchunk()  # as the socket gave it: `readany` would join, and copy
            return chunk

    def _keep_pace(self, waited: float, came: int) -> None:
        self._waited += waited
        self._came += came
        self._place.moved(waited, came)
        slow = self._came < PACE * self._waited
        self._place.crawls(slow and self._waited >= SLOW)
        if self._waited < self._stall_timeout:
            return
        if slow:
            raise Refusal(
                Problem.STALLED,
                f"{self._came} bytes came within {self._waited:.0f} s, {PACE} a second are the least: send it again",
            )
        self._waited, self._came = 0.0, 0
