"""An image's way to the leader and back: PUT the body, once for each attempt; the answer goes into a part file."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Mapping

from safelight.client.files import source_file
from safelight.client.files.sink import CHUNK as RECEIVED
from safelight.client.files.sink import Sink
from safelight.client.requests.feedback import Feedback
from safelight.client.requests.leader_request_state import Granted
from safelight.client.transport.servers import TRANSPORT_ERRORS, Servers, refusal_in
from safelight.client.transport.tokens import Secret
from safelight.encryption import classic, sealed, sealed_size
from safelight.runtime.http import AbstractStreamWriter, aiohttp
from safelight.runtime.sendfile import can_sendfile, sendfile
from safelight.wire.messages import Action, Offer, Scheme

CHUNK = 1 << 18
"""Bytes that are read at a time, where they are read; a smaller image goes out together with its request's head."""

UNLIMITED = math.inf
"""Seconds that a body may stand still as far as the connection is concerned: `RequestMachine` watches it."""


class Transfer:
    """One image to seal or to open."""

    kept = False
    """Once it is done: whether the vault keeps it."""

    def __init__(
        self,
        servers: Servers,
        offer: Offer,
        source: source_file.SourceFile,
        headers: Mapping[str, str],
        sink: Sink | None,
        feedback: Feedback,
    ) -> None:
        """`sink`: where the response's body goes; None: a receipt is enough, and the vault alone keeps the image."""
        self._servers = servers
        self._upload = offer.upload
        self._source = source
        self._headers = headers
        self._sink = sink
        self._feedback = feedback
        self._expected = _size_of_answer(offer, source) if sink else 0

    async def send(self, granted: Granted, moved: Callable[[], None]) -> None:
        """PUT the body where the grant says, and write the answer into the part file. Call `moved` with each piece.

        Raises Refusal, `TRANSPORT_ERRORS`, and what reading and writing the files raises.
        """
        total = self._source.size + self._expected

        def advance(done: int) -> None:
            moved()
            self._feedback.progress(done, total)

        own_errors: list[Exception] = []
        if self._sink:
            self._sink.restart()
        headers = {
            **self._headers,
            "Authorization": Secret(f"Ticket {granted.grant.ticket}"),
            "Content-Length": str(self._source.size),
            "Safelight-Upload": self._upload,
            **({} if self._sink else {"Prefer": "return=minimal"}),
        }
        try:
            async with self._servers.http.put(
                self._servers.reach(granted.grant.url, granted.server),
                data=_Body(self._source, advance, own_errors)
                if self._source.size > CHUNK
                else b"".join(self._source.chunks()),
                headers=headers,
                allow_redirects=False,
            ) as response:
                if response.status not in (200, 201):
                    raise await refusal_in(response)
                received = 0
                async for chunk in response.content.iter_chunked(RECEIVED):
                    received += len(chunk)
                    if self._sink is None or received > self._expected:
                        break
                    await self._sink.append(chunk)
                    advance(self._source.size + received)
                self.kept = response.headers.get("Safelight-Kept") == "yes"
                if received != self._expected or not (self._sink or self.kept):
                    raise aiohttp.ClientPayloadError  # whatever that is, it is not the answer
                if self._source.size <= CHUNK:  # it has gone in one piece
                    advance(total)
        except TRANSPORT_ERRORS:
            if own_errors:
                raise own_errors[0] from None
            raise


class _Body(aiohttp.Payload):
    """A large image as the body of a request: its middle goes out by sendfile, where there is no TLS."""

    def __init__(self, source: source_file.SourceFile, advance: Callable[[int], None], errors: list[Exception]) -> None:
        """`advance` is called with the number of bytes sent so far. Errors of the file or of it go into `errors`."""
        super().__init__(source)
        self._size = source.size
        self._source, self._advance, self._errors = source, advance, errors

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("an image is no text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        try:
            await self._write(writer)
        except Exception as error:
            if not isinstance(error, TRANSPORT_ERRORS):  # aiohttp would take it for a broken connection
                self._errors.append(error)
            raise

    async def _write(self, writer: AbstractStreamWriter) -> None:
        source, transport = self._source, getattr(writer, "transport", None)
        if transport is None or not can_sendfile(transport):
            await self._copy(writer, 0, source.size)
            return
        await self._copy(writer, 0, CHUNK)  # the request's head goes with it
        last = source.size - CHUNK  # read only when all else has gone: a file that has changed is not sent to its end
        if last > CHUNK:
            file = source.file()
            try:
                await file.open()
                await sendfile(transport, file, CHUNK, last, stall_timeout=UNLIMITED, moved=self._advance)
            except EOFError:
                source.check(there=False)
            except OSError as error:
                if error.errno == errno.EIO:
                    raise source.unreadable(error) from error
                raise
            finally:
                file.close()
        await self._copy(writer, max(last, CHUNK), source.size)

    async def _copy(self, writer: AbstractStreamWriter, start: int, end: int) -> None:
        for chunk in self._source.chunks(CHUNK, start, end):
            await writer.write(chunk)
            start += len(chunk)
            self._advance(start)


def _size_of_answer(offer: Offer, source: source_file.SourceFile) -> int:
    """The size in bytes of what must come back: nothing else is taken for it.

    Raises CannotOpen for a file whose header cannot be used.
    """
    if offer.action is Action.SEAL:
        return sealed_size(offer.scheme, source.size, offer.user)
    if offer.scheme is Scheme.CLASSIC:
        return classic.plain_size(source.size)
    return sealed.read_header(next(source.chunks(sealed.MAX_HEADER_SIZE))).plain_size(source.size)
