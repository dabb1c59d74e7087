"""The path of an image through a node: from the request's body, through a cipher, into the vault or a spool.

Memory use is constant: at any time a request has a batch or two in memory, not its image.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from decimal import Decimal
from types import TracebackType
from typing import Self

from safelight.config import Config
from safelight.encryption import Opener, Scheme, Sealer, open_, seal, sealed
from safelight.encryption.stream import Bytes
from safelight.imagetypes import HEAD, sniff
from safelight.node.state.key_file import Keys
from safelight.node.work.request_body import RequestBody
from safelight.node.work.spool import Spool, Spools
from safelight.runtime.tasks import cancel
from safelight.vault.records import Image
from safelight.vault.stores.base import StoreFull
from safelight.vault.vault import Draft, ImageMetadata, NameTaken, UploadConflict, Vault
from safelight.wire.messages import Problem, Refusal
from safelight.wire.tickets import Scope

SMALL = 1 << 18
"""Bytes of an image whose sealed file is sent from memory after it was written to the vault; a larger one is read back.
"""

PIECES = 64
"""Chunks in a batch; more are joined, as many small packets must not cost many times their bytes."""

BATCH = 1 << 19
"""Bytes of a body that pass through the cipher at a time, in a thread."""

UNKNOWN_TYPE = "application/octet-stream"


class Stage:
    """A cipher in use, which counts what passes. Closing it frees the cipher's buffers: references to the frames of an
    error would otherwise keep them for a while.
    """

    def __init__(self, cipher: Sealer | Opener, *, retain: int = 0) -> None:
        """`retain`: bytes of output up to which all of it is in `output` afterwards."""
        self._cipher: Sealer | Opener | None = cipher
        self._retained, self._retain = list[Bytes](), retain
        self.bytes_in, self.bytes_out = 0, 0
        self.head = b""
        """The first bytes of the input, as many as `imagetypes.sniff` needs."""

    @property
    def output(self) -> bytes:
        """All output; empty if it is more than `retain`."""
        return b"".join(self._retained)

    def transform(self, chunks: list[bytes], *, last: bool = False) -> list[Bytes]:
        """Encrypt or decrypt chunks, and with `last` finish. Raises CannotOpen if it decrypts."""
        assert self._cipher is not None, "closed"
        pieces = [piece for chunk in chunks for piece in self._cipher.update(chunk)]
        if last:
            pieces.append(self._cipher.finish())
        self.bytes_out += sum(map(len, pieces))
        if self.bytes_out <= self._retain:
            self._retained += pieces
        else:
            self._retained.clear()
        return pieces

    async def push(self, chunks: AsyncIterator[bytes], write: Callable[[list[Bytes]], Awaitable[None]]) -> None:
        """Transform all chunks, and write the output.

        A thread transforms and writes a batch while the next one arrives. A small body is transformed at once.
        """
        batch, size = list[bytes](), 0
        behind: asyncio.Task[None] | None = None

        async def work(batch: list[bytes]) -> None:
            await write(await asyncio.to_thread(self.transform, batch))

        try:
            async for chunk in chunks:
                self.head += chunk[: HEAD - len(self.head)]
                self.bytes_in += len(chunk)
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
            await write(self.transform(batch, last=True))
        finally:
            if behind is not None:
                await cancel(behind)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cipher = None


class Pipeline:
    """Encrypts and decrypts for one node."""

    def __init__(self, config: Config, keys: Keys, wrapped: Callable[[str], object]) -> None:
        """`wrapped` is called with the id of the cluster key for each data key that is wrapped."""
        self._keys, self._wrapped = keys, wrapped
        self._spools = Spools(config.data_dir)

    def spool(self) -> Spool:
        """A new spool, to be used with `async with`."""
        return self._spools.new()

    async def store(
        self, scope: Scope, body: RequestBody, vault: Vault, original: str, modified: Decimal | None
    ) -> tuple[Image, bytes]:
        """Encrypt the body into the vault. If this upload id has stored an image before, compare the body with it.

        Return the image, and its sealed file if that is small and at hand, otherwise nothing: it is in the vault.

        Raises Refusal, and as `Vault.begin`, `Vault.commit` and `Vault.digest`.
        """
        skip_lookup = scope.size is not None and scope.size <= SMALL
        draft = await vault.begin(
            scope.user, scope.name, scope.upload, skip_lookup=skip_lookup, enrolment=scope.enrolment
        )
        if isinstance(draft, Image):
            await self._compare(scope, body, vault, draft)
            return draft, b""
        try:
            header, stage = self._sealing(scope)
            with stage:
                await stage.push(body.chunks(), draft.body.write)
            image_type = sniff(stage.head)
            metadata = ImageMetadata(
                stage.bytes_in, image_type.media_type if image_type else UNKNOWN_TYPE, original, modified
            )
            try:
                image = await vault.commit(draft, header, metadata)
            except UploadConflict:  # a small one, without a lookup, meets the aborted generation of a sweep
                if not (skip_lookup and stage.output):
                    raise
                again = await vault.begin(scope.user, scope.name, scope.upload, enrolment=scope.enrolment)
                if not isinstance(again, Draft):
                    raise
                draft = again
                await draft.body.write([stage.output])
                image = await vault.commit(draft, header, metadata)
            return image, stage.output if image.header == header else b""  # else another attempt's, or rewrapped
        except BaseException as error:
            await draft.body.abandon()
            if isinstance(error, StoreFull) and error.free is not None:
                error.free, error.needed = await vault.store.room(), scope.size  # without this draft's bytes
            raise

    def _sealing(self, scope: Scope) -> tuple[bytes, Stage]:
        """The header of a new sealed file, and the stage that produces the file."""
        sealer = sealed.FileSealer(scope.user, self._keys.ring)
        self._wrapped(sealer.header.key_id)
        return sealer.header.encode(), Stage(sealer, retain=SMALL + 1024)  # with the header and the tag

    async def _compare(self, scope: Scope, body: RequestBody, vault: Vault, image: Image) -> None:
        """Raises NameTaken if the body is not the image."""
        digest, size = hashlib.sha256(), 0
        if scope.size in (None, image.size):
            async for chunk in body.chunks():
                digest.update(chunk)
                size += len(chunk)
        if size != image.size or digest.digest() != await vault.digest(image):
            raise NameTaken("this upload id was used for another image: use a new one")

    async def seal(self, scope: Scope, body: RequestBody, spool: Spool) -> int:
        """Encrypt the body into the spool. Return the body's size in bytes. Raises Refusal."""
        if scope.scheme is Scheme.SEALED:
            self._wrapped(self._keys.ring.current_id)
        with Stage(seal(scope.scheme, scope.user, self._keys.ring)) as stage:
            await stage.push(body.chunks(), spool.write)
        return stage.bytes_in

    async def verify(self, scope: Scope, body: RequestBody, spool: Spool) -> int:
        """Put the sealed file into the spool as it arrives, and verify it. Return its image's size in bytes. Raises
        CannotOpen, Refusal.

        So a damaged file is refused with a reason, before a byte of the image is sent. Decrypting it a second time,
        from the spool, costs less than a response that breaks off.
        """
        with Stage(open_(scope.scheme, scope.user, self._keys.ring)) as stage:
            async for chunk in body.chunks():
                if scope.scheme is Scheme.CLASSIC and not stage.bytes_out and (plain := sniff(chunk[:HEAD])):
                    # A spool must not contain a plain image.
                    raise Refusal(Problem.CANNOT_OPEN, f"this is an image ({plain.name}), not a classic file")
                stage.transform([chunk])
                await spool.write([chunk])
            stage.transform([], last=True)
        return stage.bytes_out

    async def opened(self, scope: Scope, spool: Spool) -> AsyncGenerator[Bytes]:
        """The image in a verified sealed file. Raises CannotOpen."""
        with Stage(open_(scope.scheme, scope.user, self._keys.ring)) as stage:
            async for chunk in spool.chunks():
                for piece in stage.transform([chunk]):
                    yield piece
            for piece in stage.transform([], last=True):
                yield piece
