"""An image's way to the leader and back: PUT the body, once for each attempt, and the answer goes into a part file."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Mapping

from safelight.client.files import atomic_output, source_file
from safelight.client.requests.feedback import Feedback
from safelight.client.requests.leader_request import Errand, Granted
from safelight.client.transport.account import Account
from safelight.client.transport.servers import Broken, Servers, read_small
from safelight.config import Config
from safelight.encryption import classic, sealed, sealed_size
from safelight.runtime.http import AbstractStreamWriter, aiohttp
from safelight.runtime.sendfile import can_sendfile, sendfile
from safelight.wire.messages import Action, Offer, Scheme, read_problem

CHUNK = 1 << 18
"""Bytes that are read at a time, where they are read; a smaller image goes out together with its request's head."""

FOREVER = math.inf
"""Seconds that a body may stand still as far as the connection is concerned: `Errand` watches it."""


class Transfer(Errand):
    """One image to seal or to open."""

    kept = False
    """Once it is done: whether the vault keeps it."""

    def __init__(
        self,
        config: Config,
        servers: Servers,
        account: Account,
        offer: Offer,
        source: source_file.SourceFile,
        headers: Mapping[str, str],
        reservation: atomic_output.Reservation,
        feedback: Feedback,
    ) -> None:
        super().__init__(config, servers, account, offer, feedback)
        self._source = source
        self._headers = headers
        self._reservation = reservation
        self._expected = _size_of_answer(offer, source)

    async def _send(self, granted: Granted) -> None:
        """PUT the body where the grant says, and write the answer into the part file.

        Raises Refusal, `Broken`, and what reading and writing the files raises.
        """
        trouble: list[source_file.CannotRead] = []
        self._reservation.restart()
        headers = {
            **self._headers,
            "Authorization": f"Ticket {granted.grant.ticket}",
            "Content-Length": str(self._source.size),
            "Safelight-Upload": self._offer.upload,
        }
        try:
            async with self._servers.http.put(
                self._servers.reach(granted.grant.url, granted.server),
                data=_Body(self._source, self._advance, trouble)
                if self._source.size > CHUNK
                else b"".join(self._source.chunks()),
                headers=headers,
                allow_redirects=False,
            ) as response:
                if response.status not in (200, 201):
                    raise read_problem(response.status, await read_small(response))
                received = 0
                async for chunk, _ in response.content.iter_chunks():
                    self._reservation.file.write(chunk)
                    received += len(chunk)
                    self._advance(self._source.size + received)
                if received != self._expected:
                    raise aiohttp.ClientPayloadError  # whatever that is, it is not the answer
                self.kept = response.headers.get("Safelight-Kept") == "yes"
        except Broken:
            if trouble:
                raise trouble[0] from None
            raise

    def _advance(self, done: int) -> None:
        self._moves()
        self._feedback.progress(done, 2 * self._source.size)


class _Body(aiohttp.Payload):
    """A large image as the body of a request: its middle is poured, where there is no TLS."""

    def __init__(
        self, source: source_file.SourceFile, advance: Callable[[int], None], trouble: list[source_file.CannotRead]
    ) -> None:
        """`advance` is told how many bytes went. What goes wrong while reading is left in `trouble`."""
        super().__init__(source)
        self._size = source.size
        self._source, self._advance, self._trouble = source, advance, trouble

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("an image is no text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        try:
            await self._write(writer)
        except source_file.CannotRead as error:
            self._trouble.append(error)
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
                await sendfile(transport, file, CHUNK, last, stall_timeout=FOREVER, moved=self._advance)
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

    Raises CannotOpen for a file that says by itself that it is not to be opened.
    """
    if offer.action is Action.SEAL:
        return sealed_size(offer.scheme, source.size, offer.user)
    if offer.scheme is Scheme.CLASSIC:
        return classic.ClassicOpener(offer.user).plain_size(source.size)
    return sealed.read_header(next(source.chunks(sealed.MAX_HEADER_SIZE))).plain_size(source.size)
