"""The vault: the images, their users and their bytes. It arbitrates between nodes that keep no state.

An image is a body, durable before anything names it, and a chain of records (`chain`, `records`), of which the highest
decides. So an upload, a removal, a rewrap and a sweep (`maintenance`) may meet, or die, at any point: each needs one
generation, which exactly one of them creates. docs/vault.md has the full argument.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from decimal import Decimal
from heapq import nlargest
from itertools import zip_longest
from typing import NamedTuple, TypeVar

from safelight.encryption import stream
from safelight.encryption.errors import Damaged
from safelight.encryption.keys import Keyring
from safelight.encryption.sealed import PartOpener, read_header, rewrapped
from safelight.encryption.stream import Bytes
from safelight.errors import SafelightError, reason
from safelight.runtime.sendfile import FileBody
from safelight.runtime.tasks import cancel
from safelight.vault.chain import Chains, Generation, key_of
from safelight.vault.records import Aborted, BadRecord, Image, Record, Records, Removed, Revoked, new_body
from safelight.vault.stores.base import BadObject, Body, Missing, Store, StoreError

SMALL = 1 << 16
"""Bytes of the largest segment that is opened on the event loop; a larger one is opened in a thread."""


class UnknownImage(SafelightError):
    """The user has no image of this name, or no longer has one."""


class NameTaken(SafelightError):
    """Another upload has or had this name: names are not given back."""


class AlreadyRemoved(SafelightError):
    """This upload succeeded, and its image was removed since."""


class UploadConflict(SafelightError):
    """The upload must start again: its body was swept, or the other image was removed while the two were compared."""


class ImageMetadata(NamedTuple):
    """The fields of an image's record that its sender determines: see `Image`."""

    size: int
    type: str
    original: str
    modified: Decimal | None


_Record = TypeVar("_Record", bound=Record | None)


class Vault:
    """The images in a store. All methods raise StoreError if the store fails, and BadObject if an object is damaged."""

    def __init__(
        self,
        store: Store,
        keyring: Callable[[], Keyring],
        *,
        clock: Callable[[], float] = time.time,
        sealed: Callable[[str], object] = str,
    ) -> None:
        """`keyring` is called at each use, so a rotation takes effect at once. `clock` returns Unix seconds. `sealed`
        receives the key id before each record is sealed.
        """
        self.store = store
        self.keyring = keyring
        self.records = Records(keyring, sealed)
        self.chains = Chains(store)
        self.clock = clock

    # -- one image -----------------------------------------------------------------------------------

    async def find(self, user: str, name: str, *, enrolment: str | None = None) -> Image:
        """The record of an image. Raises UnknownImage.

        `enrolment`, here and elsewhere: the user's enrolment id (see `User`). An image of another enrolment is not the
        user's: BadRecord. None, for maintenance, accepts any.
        """
        record = _owned((await self.latest(self.records.chain(user, name)))[0], enrolment)
        if not isinstance(record, Image):
            raise UnknownImage(f"{user} has no image of this name")
        return record

    async def remove(
        self,
        user: str,
        name: str,
        check: Callable[[Image], object] = lambda _: None,
        *,
        enrolment: str | None = None,
    ) -> None:
        """Remove an image, permanently. Raises UnknownImage, also for the second of two callers.

        `check` receives the image that is removed unless it raises.
        """
        chain = self.records.chain(user, name)
        while True:
            record, number = await self.latest(chain)
            if not isinstance(record, Image):
                await self.ensure_durable(chain, number)
                raise UnknownImage(f"{user} has no image of this name")
            _owned(record, enrolment)
            check(record)
            if await self.append(chain, number + 1, Removed(user, name, record.upload, self.clock())):
                await self._drop(record.body)
                return

    async def part(self, image: Image, start: int, end: int) -> AsyncGenerator[Bytes]:
        """The image's bytes from `start` up to `end`, each verified before it is released.

        Raises Damaged, also halfway, for a body that differs from what was sealed; UnknownImage if it is removed
        meanwhile; OtherCluster. Close it (`aclose`) if it is not read to the end.
        """
        header = image.parsed_header
        try:
            payload_header = await self._bytes(image.body, header.length, header.length + stream.HEADER_SIZE)
            opener = PartOpener(header, payload_header, image.size, self.keyring())

            async def opened(number: int, offset: int, size: int) -> Bytes:
                segment = await self._bytes(image.body, offset, offset + size)
                if size <= SMALL:
                    return opener.open(number, segment, start, end)
                return await asyncio.to_thread(opener.open, number, segment, start, end)

            async with aclosing(_one_ahead(opened, opener.segments(start, end))) as pieces:
                async for piece in pieces:
                    yield piece
        except Missing:
            raise await self._gone(image) from None

    async def check(self, image: Image) -> None:
        """Make sure, without decryption, that the body is the one sealed for this image, and complete. Raises as
        `part`.
        """
        try:
            size = await self.store.size(image.body)
            beginning = await self._bytes(image.body, 0, len(image.header))
        except Missing:
            raise await self._gone(image) from None
        _check(image, size, beginning)

    async def sealed(self, image: Image) -> AsyncGenerator[Bytes]:
        """The current sealed file, `sealed_size_of` bytes, from a checked body. Raises as `part`.

        In a directory the file that was checked is the one that is read, even if its name changes meanwhile.
        """
        at, end = len(image.header), sealed_size_of(image)
        file = await self.sealed_file(image)
        if file is None:
            await self.check(image)
        try:
            yield image.header
            async with aclosing(file.chunks(at, end) if file else self.store.read(image.body, at, end)) as chunks:
                async for chunk in chunks:
                    yield chunk
                    at += len(chunk)
        except Missing:
            raise await self._gone(image) from None
        finally:
            if file is not None:
                file.close()
        if at != end:
            raise Damaged

    async def sealed_file(self, image: Image) -> FileBody | None:
        """The sealed file but for its header, at the same places, open to pour from, and to be closed; None where the
        store has no files. It has been checked as `check` does, through the descriptor that is poured from. Raises as
        `part`.
        """
        file = self.store.file(image.body)
        if file is not None:
            try:
                await file.open()
                _check(image, *await file.beginning(len(image.header)))
            except BaseException as error:
                file.close()
                if isinstance(error, Missing):
                    raise await self._gone(image) from None
                if isinstance(error, OSError):
                    raise StoreError(f"cannot read {image.body} in the vault: {reason(error)}") from error
                raise
        return file

    async def _gone(self, image: Image) -> SafelightError:
        """The error for a missing body: its image was removed meanwhile, or the store has lost it."""
        record, _ = await self.latest(self.records.chain(image.user, image.name))
        there = isinstance(record, Image) and record.body == image.body
        return Damaged() if there else UnknownImage("the image was removed meanwhile")

    # -- an upload -----------------------------------------------------------------------------------

    async def begin(
        self, user: str, name: str, upload: str, *, skip_lookup: bool = False, enrolment: str | None = None
    ) -> Draft | Image:
        """A draft to write the sealed file to; or the image, if this upload has already succeeded.

        `skip_lookup`: if nothing of the name is cached here, assume that it is free; `commit` finds out. Use it for
        small images, which cost little if the name is taken.

        Raises NameTaken and AlreadyRemoved.
        """
        chain, number = self.records.chain(user, name), 0
        if not skip_lookup or self.chains.knows(chain):
            record, number = await self.latest(chain)
            await self.ensure_durable(chain, number)
            if isinstance(record, Image | Removed):
                return _found(_owned(record, enrolment), upload)
        body = new_body(chain, number + 1)
        return Draft(user, name, upload, chain, number + 1, body, await self.store.body(body), enrolment)

    async def commit(self, draft: Draft, header: bytes, metadata: ImageMetadata) -> Image:
        """Make a draft an image, whose body is complete and begins with `header`; durable when this returns.

        Raises NameTaken, AlreadyRemoved and UploadConflict.
        """
        keyring, sealed_with = self.keyring(), read_header(header)
        if sealed_with.key_id != keyring.current_id:  # a rotation happened while it was sealed
            header = rewrapped(sealed_with, keyring).encode()
        image = Image(
            draft.user, draft.name, draft.upload, draft.key, header, metadata.size, self.clock(),
            metadata.type, metadata.original, metadata.modified,
            owner=draft.enrolment or "",
        )  # fmt: skip
        if await self.append(draft.chain, draft.number, image, body=draft.body):
            return image
        record, number = await self.latest(draft.chain)
        await self.ensure_durable(draft.chain, number)
        if isinstance(record, Image) and record.body == draft.key:  # this call created it, and the answer was lost
            return record
        try:
            if not isinstance(record, Image | Removed):
                raise UploadConflict("this upload took too long and was aborted: send it again")
            there = _found(_owned(record, draft.enrolment), draft.upload)
            if there.size != image.size or await self.digest(there) != await self.digest(image):
                raise NameTaken("this upload id has been used for another image: use a new one")
            return there
        except UnknownImage:  # one of the two was deleted while it was read
            record, number = await self.latest(draft.chain)
            await self.ensure_durable(draft.chain, number)
            if isinstance(record, Removed):
                _found(record, draft.upload)
            raise UploadConflict("this upload met a removal or a sweep: send it again") from None
        finally:
            await self._drop(draft.key)  # no record names it or can name it: its generation is taken

    async def _drop(self, body: str) -> None:
        """Delete a body that no record names any more. If that fails, or the process dies, the sweeper deletes it."""
        with suppress(StoreError, BadObject):
            await self.store.delete(body)

    async def digest(self, image: Image) -> bytes:
        """SHA-256 of the image's bytes. Raises as `part`."""
        digest = hashlib.sha256()
        async with aclosing(self.part(image, 0, image.size)) as chunks:
            async for chunk in chunks:
                digest.update(chunk)
        return digest.digest()

    async def _bytes(self, key: str, start: int, end: int) -> bytes:
        async with aclosing(self.store.read(key, start, end)) as chunks:
            return b"".join([chunk async for chunk in chunks])

    # -- all images of a user ------------------------------------------------------------------------

    async def newest(
        self,
        user: str,
        count: int,
        *,
        before: tuple[float, str] | None = None,
        wanted: Callable[[Image], bool],
        enrolment: str | None = None,
    ) -> list[Image]:
        """The newest `count` images for which `wanted` is true, older than `before` (created, name), newest first."""
        found = []
        async for image in self.images(user, enrolment=enrolment):
            if (before is None or _age(image) < before) and wanted(image):
                found.append(image)
                if len(found) >= 2 * count:
                    found = nlargest(count, found, key=_age)
        return nlargest(count, found, key=_age)

    async def images(self, user: str, *, enrolment: str | None = None) -> AsyncIterator[Image]:
        """All images of a user, in no order."""
        async for generation in self.chains.all(self.records.folder(user)):
            record = _owned(self.read(generation), enrolment)
            if isinstance(record, Image):
                yield record

    # -- chains of records ---------------------------------------------------------------------------

    async def latest(self, chain: str) -> tuple[Record | None, int]:
        """The current record of a chain and the number of its generation; (None, 0) if there is no chain."""
        latest = await self.chains.latest(chain)
        try:
            return (self.read(latest), latest.number) if latest else (None, 0)
        except BadRecord:
            self.chains.forget(chain)
            raise

    async def append(self, chain: str, number: int, record: Record, *, body: Body | None = None) -> bool:
        """As `Chains.append`. Records that free space or end a user's access may use the reserve."""
        data, reserve = (
            self.records.write(record, key_of(chain, number)),
            isinstance(record, Removed | Aborted | Revoked),
        )
        return await self.chains.append(chain, number, data, body=body, reserve=reserve)

    async def ensure_durable(self, chain: str, number: int) -> None:
        """Make sure that a generation that was found is durable: its creator may not have synced it yet.

        Call it before the generation is reported, and before anything is created or deleted because of it: otherwise a
        power failure could remove the generation, and leave what followed from it.
        """
        if number:
            await self.chains.ensure_durable(chain, number)

    def read(self, generation: Generation) -> Record:
        """The record of a generation. Raises BadRecord."""
        return self.records.read(generation.data, generation.key)


@dataclass(frozen=True)
class Draft:
    """An upload in progress: write its body, then commit it, or abandon its body."""

    user: str
    name: str
    upload: str
    chain: str
    number: int
    """The number of its target generation."""
    key: str
    """The key of its body."""
    body: Body
    enrolment: str | None = None


async def _one_ahead(
    work: Callable[[int, int, int], Awaitable[Bytes]], places: Sequence[tuple[int, int, int]]
) -> AsyncGenerator[Bytes]:
    """The results of `work` for each place, in order; the next runs while this one is used."""
    ahead: asyncio.Future[Bytes] | None = None
    try:
        for place, following in zip_longest(places, places[1:]):
            piece = await (ahead or work(*place))
            ahead = asyncio.ensure_future(work(*following)) if following else None
            yield piece
    finally:
        if ahead is not None:
            await cancel(ahead)


def _owned(record: _Record, enrolment: str | None) -> _Record:
    """The record. Raises BadRecord if it is an image of another enrolment."""
    if isinstance(record, Image) and enrolment is not None and record.owner != enrolment:
        raise BadRecord(
            f"an image of {record.user} is of another enrolment than the present user of this name: restore the user's "
            "record from a backup (see `safelight verify`)"
        )
    return record


def _found(record: Image | Removed, upload: str) -> Image:
    """What the record of its name means for an upload: the image, or the error."""
    if record.upload != upload:
        raise NameTaken("another image has this name, or had it: choose another name")
    if isinstance(record, Removed):
        raise AlreadyRemoved("this upload succeeded, and its image was removed since")
    return record


def _check(image: Image, size: int, beginning: bytes) -> None:
    """Make sure that a file of this size with these first bytes is the one sealed for an image. Raises CannotOpen."""
    if size != sealed_size_of(image) or read_header(beginning).fixed != image.parsed_header.fixed:
        raise Damaged


def sealed_size_of(image: Image) -> int:
    """The size in bytes of the image's sealed file."""
    return len(image.header) + stream.LAYOUT.payload_size(image.size)


def _age(image: Image) -> tuple[float, str]:
    return image.created, image.name
