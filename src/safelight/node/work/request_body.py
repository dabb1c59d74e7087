"""The body of a request: no longer than announced, and not slower than `PACE`.

A body is refused if nothing arrives for `body_timeout`, or less than `PACE` on average during that time. Until then a
slow body uses no capacity: it costs a little memory, but no work. While other users wait, a body has to be faster, or
is closed for them: see `fair_share`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from safelight.node.work.fair_share import Slot
from safelight.runtime.http import StreamReader
from safelight.wire.messages import Problem, Refusal

PACE = 1024
"""Bytes a second; a slower body is refused after `body_timeout`."""

SLOW = 1.0
"""Seconds of waiting after which a body counts as slow."""


class RequestBody:
    """One body. Only the time counts for which the node waits for the client: a slow disk makes no body slow."""

    def __init__(
        self,
        reader: StreamReader,
        *,
        announced: int | None,
        limit: int,
        stall_timeout: float,
        slot: Slot,
    ) -> None:
        """`announced` and `limit` in bytes, `stall_timeout` in seconds. `slot` learns how fast the body arrives."""
        self._reader, self._announced, self._limit = reader, announced, limit
        self._stall_timeout, self._slot = stall_timeout, slot
        self._waited, self._received = 0.0, 0  # seconds and bytes since the pace was last checked

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, as it arrives. Raises Refusal (TOO_LARGE, BAD_REQUEST, BAD_LENGTH, STALLED)."""
        received = 0
        while chunk := await self._next():
            received += len(chunk)
            if received > self._limit:
                raise Refusal(
                    Problem.TOO_LARGE, f"the body is larger than the {self._limit} bytes that this node takes"
                )
            yield chunk
        if received == 0:
            raise Refusal(Problem.BAD_REQUEST, "the body is empty: there is nothing to encrypt or decrypt")
        if self._announced is not None and received != self._announced:
            raise Refusal(Problem.BAD_LENGTH, f"{self._announced} bytes were announced, and {received} arrived")

    async def _next(self) -> bytes:
        """The next chunk; empty at the end."""
        while True:
            if chunk := self._reader.read_nowait():  # usually it is there already, and needs no timer
                self._check_pace(0.0, len(chunk))
                return chunk
            chunk, waited = await self._waited_for()
            if not chunk and self._reader.at_eof():
                self._slot.set_slow(False)
                return b""
            self._check_pace(waited, len(chunk))
            if chunk:  # else a chunk of Transfer-Encoding: chunked has ended
                return chunk

    async def _waited_for(self) -> tuple[bytes, float]:
        """The next chunk, and the seconds since the pace was last checked. Raises Refusal (STALLED)."""
        started = checked = time.monotonic()
        while True:
            try:
                chunk = await self._within(min(SLOW, started + self._stall_timeout - checked))
            except TimeoutError:
                now = time.monotonic()
                if now - started >= self._stall_timeout:
                    raise Refusal(
                        Problem.STALLED, f"no byte arrived for {self._stall_timeout:g} s: send the image again"
                    ) from None
                self._check_pace(now - checked, 0)
                self._slot.set_slow(True)
                checked = now
            else:
                return chunk, time.monotonic() - checked

    async def _within(self, seconds: float) -> bytes:
        async with asyncio.timeout(seconds):
            chunk, _ = await self._reader.readchunk()  # as the socket returned it: `readany` would join, and copy
            return chunk

    def _check_pace(self, waited: float, received: int) -> None:
        self._waited += waited
        self._received += received
        self._slot.moved(waited, received)
        slow = self._received < PACE * self._waited
        self._slot.set_slow(slow and self._waited >= SLOW)
        if self._waited < self._stall_timeout:
            return
        if slow:
            raise Refusal(
                Problem.STALLED,
                f"{self._received} bytes arrived within {self._waited:.0f} s, less than {PACE} a second: send it again",
            )
        self._waited, self._received = 0.0, 0
