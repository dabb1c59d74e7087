"""Responses with an image or a sealed file: sent piece by piece, and reset if they cannot be completed.

What a client has acknowledged (`unacknowledged_bytes`) measures how fast it is, not what was written.
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
def from_the_vault(user: str, log: Callable[[str], None]) -> Iterator[None]:
    """Report an image in the vault that cannot be decrypted as damage of the vault, not as an error of the request."""
    try:
        yield
    except OtherCluster as error:  # another node may have the key
        raise OtherKey(f"An image of {user} in the vault cannot be decrypted: {error}", error.key_id) from None
    except CannotOpen as error:
        log(f"An image of {user} in the vault cannot be decrypted: {error}")
        raise Refusal(Problem.DAMAGED, f"the image in the vault cannot be decrypted: {error}") from None


class Interrupted(Exception):
    """A response ended early; it is too late for another."""

    def __init__(self, response: web.StreamResponse, reason: str) -> None:
        super().__init__(reason)
        self.response = response


async def send(
    request: web.Request,
    response: web.StreamResponse,
    chunks: AsyncGenerator[Bytes],
    stall_timeout: float,
    slot: Slot,
) -> web.StreamResponse:
    """Send the response with `chunks` as its body. Closes `chunks`; for HEAD it reads none.

    `stall_timeout`: seconds within which the client must acknowledge something. `slot` measures how fast it does.

    Raises Interrupted; and what the first chunk raises, before anything was sent.
    """
    async with aclosing(chunks):
        first = b"" if request.method == "HEAD" else await anext(chunks, b"")
        await response.prepare(request)
        try:
            if request.method != "HEAD":
                await _write(request, response, first, stall_timeout, slot)
                async for chunk in chunks:
                    await _write(request, response, chunk, stall_timeout, slot)
        except (SafelightError, TimeoutError, OSError) as error:
            raise _interrupted(request, response, error) from None
        await response.write_eof()
        return response


async def _send_file(
    request: web.Request,
    response: web.StreamResponse,
    beginning: bytes,
    file: FileBody,
    end: int,
    stall_timeout: float,
    slot: Slot,
) -> web.StreamResponse:
    """Send the response: `beginning`, then the file's bytes from there up to `end`. Closes the file.

    Raises Interrupted.
    """
    try:
        await response.prepare(request)
        try:
            await response.write(beginning)
            if request.transport is None:
                raise ConnectionResetError("the client closed the connection")
            await sendfile(request.transport, file, len(beginning), end, stall_timeout=stall_timeout, taken=slot.moved)
        except (SafelightError, EOFError, TimeoutError, OSError) as error:
            raise _interrupted(request, response, error) from None
        await response.write_eof()
        return response
    finally:
        file.close()


async def send_whole(
    request: web.Request, response: web.StreamResponse, body: bytes, stall_timeout: float, slot: Slot | None = None
) -> web.StreamResponse:
    """Send the response with all of its body at once, for small ones. Arguments and Interrupted: as `send`."""
    await response.prepare(request)
    try:
        if request.method != "HEAD":
            await _write(request, response, body, stall_timeout, slot)
        await response.write_eof()
    except (SafelightError, TimeoutError, OSError) as error:
        raise _interrupted(request, response, error) from None
    return response


async def send_sealed(
    request: web.Request, response: web.StreamResponse, vault: Vault, image: Image, stall_timeout: float, slot: Slot
) -> web.StreamResponse:
    """Send the response with the sealed file of an image as its body. Raises as `send`."""
    from_file = request.method != "HEAD" and can_sendfile(request.transport)
    file = await vault.sealed_file(image) if from_file else None
    if file is None:
        return await send(request, response, vault.sealed(image), stall_timeout, slot)
    return await _send_file(request, response, image.header, file, sealed_size_of(image), stall_timeout, slot)


async def _write(
    request: web.Request, response: web.StreamResponse, chunk: Bytes, stall_timeout: float, slot: Slot | None = None
) -> None:
    """Raises TimeoutError if the client takes nothing for `stall_timeout` seconds, and as `Slot.moved`."""
    left, moved = unacknowledged_bytes(request.transport) + len(chunk), time.monotonic()
    writing, checked = asyncio.ensure_future(response.write(chunk)), moved
    try:
        done: set[asyncio.Future[None]] = set()
        while not done:
            done, _ = await asyncio.wait([writing], timeout=min(LOOK, stall_timeout))
            before, left = left, unacknowledged_bytes(request.transport)
            since, checked = checked, time.monotonic()
            if left < before:
                moved = checked
            if slot is not None:
                slot.moved(checked - since, max(0, before - left))
            if not done and checked - moved >= stall_timeout:
                raise TimeoutError("the client stalled")
        writing.result()
    finally:
        writing.cancel()


def _interrupted(request: web.Request, response: web.StreamResponse, error: BaseException) -> Interrupted:
    """Reset the connection, so that no client takes a part for the whole: it is too late for another status.

    What a slow client has not received is discarded (SO_LINGER, socket(7)): the system would keep those megabytes for
    as long as the client likes.
    """
    if request.transport is not None:
        if isinstance(error, Refusal | TimeoutError):
            connection = request.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return Interrupted(response, str(error))
