"""Answers with an image or a sealed file in them: sent piece by piece, and broken off visibly if it comes to that.

How fast a client takes one is measured by what it has acknowledged (`pour.unsent`), not by what was written.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager

from safelight.encryption.errors import CannotOpen, OtherCluster
from safelight.encryption.stream import Bytes
from safelight.errors import SafelightError
from safelight.node.work.fair_share import Slot
from safelight.runtime.http import web
from safelight.runtime.sendfile import LOOK, FileBody, can_sendfile, sendfile, unacknowledged_bytes
from safelight.vault.records import Image, OtherKey
from safelight.vault.vault import Vault, sealed_size_of
from safelight.wire.messages import Problem, Refusal


@contextmanager
def from_the_vault(user: str, say: Callable[[str], None]) -> Iterator[None]:
    """For work with what the vault keeps for a user: that it does not open is the vault's damage, not the request's."""
    try:
        yield
    except OtherCluster as error:  # which another node may have
        raise OtherKey(f"An image of {user} in the vault cannot be opened: {error}", error.key_id) from None
    except CannotOpen as error:
        say(f"An image of {user} in the vault cannot be opened: {error}")
        raise Refusal(Problem.DAMAGED, f"the image in the vault cannot be opened: {error}") from None


class Interrupted(Exception):
    """A response broke off in its middle; it is too late for another."""

    def __init__(self, response: web.StreamResponse, reason: str) -> None:
        super().__init__(reason)
        self.response = response


async def send(
    request: web.Request,
    response: web.StreamResponse,
    chunks: AsyncGenerator[Bytes],
    stall_timeout: float,
    place: Slot,
) -> web.StreamResponse:
    """Send the response with `chunks` as its body. Closes `chunks`.

    `stall_timeout`: seconds within which the client must take something. `place` measures how fast it does.

    Raises Interrupted, and before anything was sent whatever the first chunk raises. HEAD asks for no chunk.
    """
    async with aclosing(chunks):
        first = b"" if request.method == "HEAD" else await anext(chunks, b"")
        await response.prepare(request)
        try:
            if request.method != "HEAD":
                await _write(request, response, first, stall_timeout, place)
                async for chunk in chunks:
                    await _write(request, response, chunk, stall_timeout, place)
        except (SafelightError, TimeoutError, OSError) as error:
            raise _broken_off(request, response, error) from None
        await response.write_eof()
        return response


async def _send_file(
    request: web.Request,
    response: web.StreamResponse,
    beginning: bytes,
    file: FileBody,
    end: int,
    stall_timeout: float,
    place: Slot,
) -> web.StreamResponse:
    """Send the response: `beginning`, and the file's bytes from there up to `end`. Closes the file.

    Raises Interrupted.
    """
    try:
        await response.prepare(request)
        try:
            await response.write(beginning)
            if request.transport is None:
                raise ConnectionResetError("the client went away")
            await sendfile(request.transport, file, len(beginning), end, stall_timeout=stall_timeout, taken=place.moved)
        except (SafelightError, EOFError, TimeoutError, OSError) as error:
            raise _broken_off(request, response, error) from None
        await response.write_eof()
        return response
    finally:
        file.close()


async def send_whole(
    request: web.Request, response: web.StreamResponse, body: bytes, stall_timeout: float, place: Slot | None = None
) -> web.StreamResponse:
    """Send the response with all of its body at once, for small ones. Arguments and Interrupted: as `send`."""
    await response.prepare(request)
    try:
        if request.method != "HEAD":
            await _write(request, response, body, stall_timeout, place)
        await response.write_eof()
    except (SafelightError, TimeoutError, OSError) as error:
        raise _broken_off(request, response, error) from None
    return response


async def send_sealed(
    request: web.Request, response: web.StreamResponse, vault: Vault, image: Image, stall_timeout: float, place: Slot
) -> web.StreamResponse:
    """Send the response with the sealed file of an image as its body. Raises as `send`."""
    pours = request.method != "HEAD" and can_sendfile(request.transport)
    file = await vault.sealed_file(image) if pours else None
    if file is None:
        return await send(request, response, vault.sealed(image), stall_timeout, place)
    return await _send_file(request, response, image.header, file, sealed_size_of(image), stall_timeout, place)


async def _write(
    request: web.Request, response: web.StreamResponse, chunk: Bytes, stall_timeout: float, place: Slot | None = None
) -> None:
    """Raises TimeoutError if the client takes nothing for `stall_timeout` seconds, and as `Place.moved`."""
    left, moved = unacknowledged_bytes(request.transport) + len(chunk), time.monotonic()
    writing, looked = asyncio.ensure_future(response.write(chunk)), moved
    try:
        done: set[asyncio.Future[None]] = set()
        while not done:
            done, _ = await asyncio.wait([writing], timeout=min(LOOK, stall_timeout))
            before, left = left, unacknowledged_bytes(request.transport)
            since, looked = looked, time.monotonic()
            if left < before:
                moved = looked
            if place is not None:
                place.moved(looked - since, max(0, before - left))
            if not done and looked - moved >= stall_timeout:
                raise TimeoutError("the client takes nothing more")
        writing.result()
    finally:
        writing.cancel()


def _broken_off(request: web.Request, response: web.StreamResponse, error: BaseException) -> Interrupted:
    """Too late for another status: break off visibly, so that nobody takes a part for the whole.

    What a slow client has yet to take is thrown away with it (SO_LINGER, socket(7)): the system would go on offering it
    those megabytes, for as long as it likes.
    """
    if request.transport is not None:
        if isinstance(error, Refusal | TimeoutError):
            connection = request.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return Interrupted(response, str(error))
