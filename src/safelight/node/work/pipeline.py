"""The way of an image through a node: from the request's body, through the cipher, into the vault or a spool.

What is not to be kept waits in a spool until it is sent. A spool holds ciphertext only, in memory up to a segment or
two, then in a file that has no name and so vanishes with its process. Memory does not grow with the image, and nothing
is left behind. In a crowd the spools of latecomers go to the disk from the first byte: nobody waits because others
send or read slowly.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from decimal import Decimal
from types import TracebackType
from typing import Self

from safelight.config import Config
from safelight.encryption import Scheme, Sealer, open_, seal, sealed
from safelight.encryption.stream import Bytes
from safelight.imagetypes import HEAD, sniff
from safelight.node.state.key_file import Keys
from safelight.node.work.request_body import RequestBody
from safelight.vault.records import Image
from safelight.vault.stores.base import StoreFull
from safelight.vault.vault import Draft, ImageMetadata, NameTaken, UploadConflict, Vault
from safelight.wire.messages import Problem, Refusal
from safelight.wire.tickets import Scope

IN_MEMORY, SPOOLS_IN_MEMORY = 2 << 20, 64
"""Bytes that a spool keeps in memory, and how many may: a small image never touches the disk, but in a crowd."""

SMALL = 1 << 18
"""Bytes of an image whose sealed file is sent out of memory after it was written to the vault; that of a larger one is
read again.
"""

PIECES = 64
"""In which a batch is gathered; more are joined: many a small packet is not to cost many times its bytes."""

BATCH = 1 << 19
"""Bytes of a body that go through the cipher at a time, in a thread."""

UNKNOWN_TYPE = "application/octet-stream"

CHUNK = 256 * 1024
"""Bytes that are read from a spool at a time."""


class Spool:
    """Bytes that wait to be sent."""

    def __init__(self, directory: str, in_memory: int, closed: Callable[[Spool], None]) -> None:
        """`in_memory`: bytes, at least 1, beyond which it goes to an unnamed file in `directory`."""
        self._file = tempfile.SpooledTemporaryFile(in_memory, dir=directory)  # noqa: SIM115 — `close` closes it
        self._in_memory = in_memory
        self._closed = closed
        self.size = 0

    async def write(self, pieces: Iterable[Bytes]) -> None:
        pieces = list(pieces)
        added = sum(map(len, pieces))
        if not added:
            return
        if self.size + added > self._in_memory:
            await asyncio.to_thread(self._file.writelines, pieces)
        else:
            self._file.writelines(pieces)
        self.size += added

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Everything from the beginning."""
        on_disk = self.size > self._in_memory
        await asyncio.to_thread(self._file.seek, 0) if on_disk else self._file.seek(0)
        while chunk := (await asyncio.to_thread(self._file.read, CHUNK) if on_disk else self._file.read()):
            yield chunk

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed(self)
        if self.size > self._in_memory:  # a file system may take seconds to free a large file
            await asyncio.to_thread(self._file.close)
        else:
            self._file.close()


class _Small:
    """A draft that is written to, and what was written, as long as it is little."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._pieces: list[Bytes] = []
        self._left = SMALL + 1024  # with its header and tag

    async def write(self, pieces: list[Bytes]) -> None:
        self._left -= sum(map(len, pieces))
        if self._left >= 0:
            self._pieces += pieces
        else:
            self._pieces.clear()
        await self._draft.write(pieces)

    def whole(self) -> bytes:
        """Everything; nothing if it was much."""
        return b"".join(self._pieces)


class _Seen:
    """What there is to know of bytes that have passed: how many, and the first ones."""

    def __init__(self) -> None:
        self.size, self.head = 0, b""

    async def of(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            self.head += chunk[: HEAD - len(self.head)]
            self.size += len(chunk)
            yield chunk


async def _push(chunks: AsyncIterator[bytes], cipher: Sealer, write: Callable[[list[Bytes]], Awaitable[None]]) -> None:
    """Push all of the chunks through the cipher, and write what comes out.

    While one batch is received, a thread has the one before in work. What is small is done here and now.
    """
    batch, size = list[bytes](), 0
    behind: asyncio.Task[None] | None = None

    async def work(batch: list[bytes]) -> None:
        await write(await asyncio.to_thread(_transformed, cipher, batch))

    try:
        async for chunk in chunks:
            batch.append(chunk)
            size += len(chunk)
            if len(batch) > PIECES:
                batch = [b"".join(batch)]
            if size >= BATCH:
                if behind is not None:
                    await behind
                behind = asyncio.create_task(work(batch))
                batch, size = [], 0
        if behind is not None:
            await behind
        await write([*_transformed(cipher, batch), cipher.finish()])
    finally:
        if behind is not None:
            behind.cancel()
            await asyncio.gather(behind, return_exceptions=True)


def _transformed(cipher: Sealer, batch: list[bytes]) -> list[Bytes]:
    return [piece for chunk in batch for piece in cipher.update(chunk)]


class Pipeline:
    """Does what jobs ask for, for one node."""

    def __init__(self, config: Config, keys: Keys, wrapped: Callable[[str], object] = str) -> None:
        """`wrapped` gets the key id of the cluster key for each data key that is wrapped."""
        self._config = config
        self._wrapped = wrapped
        self._keys = keys
        self._spools: set[Spool] = set()

    def spool(self) -> Spool:
        """A new spool, to be used with `async with`."""
        in_memory = IN_MEMORY if len(self._spools) < SPOOLS_IN_MEMORY else 1
        spool = Spool(str(self._config.data_dir), in_memory, self._spools.discard)
        self._spools.add(spool)
        return spool

    async def keep(
        self, job: Scope, body: RequestBody, vault: Vault, original: str, modified: Decimal | None
    ) -> tuple[Image, bytes]:
        """Seal the body into the vault. If this very upload succeeded before, compare it with what is kept.

        The image, and its sealed file if that is small and at hand, else nothing: it is in the vault.

        Raises Refusal, and as `Vault.begin`, `Vault.commit` and `Vault.digest`.
        """
        skip_lookup = job.size is not None and job.size <= SMALL
        draft = await vault.begin(job.user, job.name, job.upload, skip_lookup=skip_lookup, enrolment=job.enrolment)
        if isinstance(draft, Image):
            await self._compare(job, body, vault, draft)
            return draft, b""
        small = _Small(draft)
        try:
            header, details = await self._fill(small, job, body, original, modified)
            try:
                image = await draft.commit(header, details)
            except UploadConflict:  # a small one, which did not look, meets the traces of a sweep
                if not (skip_lookup and small.whole()):
                    raise
                again = await vault.begin(job.user, job.name, job.upload, enrolment=job.enrolment)
                if not isinstance(again, Draft):
                    raise
                draft = again
                await draft.write([small.whole()])
                image = await draft.commit(header, details)
            return image, small.whole() if image.header == header else b""  # else another's, or rewrapped
        except BaseException as error:
            await draft.abandon()
            if isinstance(error, StoreFull) and error.free is not None:
                error.free, error.needed = await vault.store.room(), job.size  # without what was written of it
            raise

    async def _fill(
        self, draft: _Small, job: Scope, body: RequestBody, original: str, modified: Decimal | None
    ) -> tuple[bytes, ImageMetadata]:
        """Put the sealed file of the body into the draft. Its header, and what else is to be known of it."""
        sealer, seen = sealed.FileSealer(job.user, self._keys.ring), _Seen()
        self._wrapped(sealer.header.key_id)
        try:
            await _push(seen.of(body.chunks()), sealer, draft.write)
            header = sealer.header.encode()
        finally:
            del sealer  # an error keeps this frame alive for a while, and its buffers would stay with it
        image_type = sniff(seen.head)
        return header, ImageMetadata(
            seen.size, image_type.media_type if image_type else UNKNOWN_TYPE, original, modified
        )

    async def _compare(self, job: Scope, body: RequestBody, vault: Vault, image: Image) -> None:
        """Raises NameTaken if the body is not the image."""
        digest, size = hashlib.sha256(), 0
        if job.size in (None, image.size):
            async for chunk in body.chunks():
                digest.update(chunk)
                size += len(chunk)
        if size != image.size or digest.digest() != await vault.digest(image):
            raise NameTaken("this upload id was used for another image: use a new one")

    async def seal(self, job: Scope, body: RequestBody, spool: Spool) -> int:
        """Put the sealed file of the body into the spool. The body's size in bytes. Raises Refusal."""
        if job.scheme is Scheme.SEALED:
            self._wrapped(self._keys.ring.current_id)
        sealer, seen = seal(job.scheme, job.user, self._keys.ring), _Seen()
        try:
            await _push(seen.of(body.chunks()), sealer, spool.write)
        finally:
            del sealer  # as above
        return seen.size

    async def verify(self, job: Scope, body: RequestBody, spool: Spool) -> int:
        """Put the sealed file as it came into the spool; when all of it has proved genuine, its image's size
        in bytes. Raises CannotOpen, Refusal.

        So a damaged file is refused with a reason, before a byte of the image is released; opening it a
        second time, from the spool, costs less than taking back a wrong answer.
        """
        opener = open_(job.scheme, job.user, self._keys.ring)
        size = 0
        try:
            async for chunk in body.chunks():
                if job.scheme is Scheme.CLASSIC and size == 0 and (plain := sniff(chunk[:HEAD])):
                    # It would lie in the spool as it is.
                    raise Refusal(Problem.CANNOT_OPEN, f"this is an image ({plain.name}), not a classic file")
                size += sum(map(len, opener.update(chunk)))
                await spool.write([chunk])
            return size + len(opener.finish())
        finally:
            del opener  # as above

    async def opened(self, job: Scope, spool: Spool) -> AsyncGenerator[Bytes]:
        """The image in a sealed file. Raises CannotOpen."""
        opener = open_(job.scheme, job.user, self._keys.ring)
        async for chunk in spool.chunks():
            for piece in opener.update(chunk):
                yield piece
        yield opener.finish()
