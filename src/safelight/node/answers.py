"""Answers with an image or a sealed file in them: sent piece by piece, and broken off visibly if it comes to that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from safelight.encryption.stream import Bytes
from safelight.errors import SafelightError
from safelight.http import web
from safelight.pour import File, can_pour, pour, unsent
from safelight.vault.records import Image
from safelight.vault.vault import Vault, sealed_size_of


class Interrupted(Exception):
    """A response broke off in its middle; it is too late for another."""

    def __init__(self, response: web.StreamResponse, reason: str) -> None:
        super().__init__(reason)
        self.response = response


async def send(
    request: web.Request, response: web.StreamResponse, chunks: AsyncGenerator[Bytes], patience: float
) -> web.StreamResponse:
    """Send the response with `chunks` as its body. Closes `chunks`.

    `patience`: seconds within which the client must take something.

    Raises Interrupted, and before anything was sent whatever the first chunk raises. HEAD asks for no chunk.
    """
    async with aclosing(chunks):
        first = b"" if request.method == "HEAD" else await anext(chunks, b"")
        await response.prepare(request)
        try:
            if request.method != "HEAD":
                await _write(request, response, first, patience)
                async for chunk in chunks:
                    await _write(request, response, chunk, patience)
        except (SafelightError, TimeoutError, OSError) as error:
            raise _broken_off(request, response, error) from None
        await response.write_eof()
        return response


async def _send_file(
    request: web.Request, response: web.StreamResponse, beginning: bytes, file: File, end: int, patience: float
) -> web.StreamResponse:
    """Send the response: `beginning`, and the file's bytes from there up to `end`. Closes the file.

    Raises Interrupted.
    """
    try:
        await response.prepare(request)
        try:
            await response.write(beginning)
            assert request.transport is not None
            await pour(request.transport, file, len(beginning), end, patience=patience)
        except (EOFError, TimeoutError, OSError) as error:
            raise _broken_off(request, response, error) from None
        await response.write_eof()
        return response
    finally:
        file.close()


async def send_whole(
    request: web.Request, response: web.StreamResponse, body: bytes, patience: float
) -> web.StreamResponse:
    """Send the response with all of its body at once: for small ones. `patience` and Interrupted are as with `send`."""
    await response.prepare(request)
    try:
        await _write(request, response, body, patience)
        await response.write_eof()
    except (TimeoutError, OSError) as error:
        raise _broken_off(request, response, error) from None
    return response


async def send_sealed(
    request: web.Request, response: web.StreamResponse, vault: Vault, image: Image, patience: float
) -> web.StreamResponse:
    """Send the response with the sealed file of an image as its body. Raises as `send`."""
    pours = request.method != "HEAD" and can_pour(request.transport)
    file = await vault.sealed_file(image) if pours else None
    if file is None:
        return await send(request, response, _first_two_joined(vault.sealed(image)), patience)
    return await _send_file(request, response, image.header, file, sealed_size_of(image), patience)


async def _first_two_joined(chunks: AsyncGenerator[Bytes]) -> AsyncGenerator[Bytes]:
    """The same bytes. A sealed file's header is in the record: it must not go out before its body has been found."""
    async with aclosing(chunks):
        yield bytes(await anext(chunks, b"")) + await anext(chunks, b"")
        async for chunk in chunks:
            yield chunk


async def _write(request: web.Request, response: web.StreamResponse, chunk: Bytes, patience: float) -> None:
    """Raises TimeoutError if the client takes nothing for `patience` seconds."""
    left = unsent(request.transport) + len(chunk)
    writing = asyncio.ensure_future(response.write(chunk))
    try:
        while not (await asyncio.wait([writing], timeout=patience))[0]:
            if (now := unsent(request.transport)) >= left:
                raise TimeoutError("the client takes nothing more")
            left = now
        writing.result()
    finally:
        writing.cancel()


def _broken_off(request: web.Request, response: web.StreamResponse, error: BaseException) -> Interrupted:
    """Too late for another status: break off visibly, so that nobody takes a part for the whole."""
    if request.transport is not None:
        request.transport.abort()
    return Interrupted(response, str(error))
