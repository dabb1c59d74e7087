"""The interface of a store: small enough for a directory and an object store.

An *object* is immutable bytes under a key. It appears whole or not at all, and it is durable when the call that created
it returns. The only arbiter is `create`: of several callers that create the same key, exactly one succeeds. Nothing is
ever overwritten, renamed or changed, so an object that was read may be cached until it is deleted.

A *body* is an object that is too large for one call. Its key is random, so no other writer competes for it.

Keys are `/`-separated parts of a-z, 0-9, '.', '_' and '-', none of them empty or beginning with a dot.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import NamedTuple, Protocol

from safelight.encryption.stream import Bytes
from safelight.errors import SafelightError
from safelight.runtime.sendfile import FileBody
from safelight.sizes import human_size

KEY = re.compile(r"[a-z0-9_-][a-z0-9._-]*(/[a-z0-9_-][a-z0-9._-]*)*")
SPARE = 4096
"""Bytes of the largest object that fits into the reserve; a tombstone has a few hundred."""

MAX_SMALL = 64 * 1024
"""Bytes of the largest object that is created and read in one call."""


def checked_key(key: str) -> str:
    """The key. A string that is not one is a bug: ValueError."""
    if not KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not a key of an object")
    return key


def check_prefix(prefix: str) -> None:
    """As `checked_key`, for the prefix of a listing."""
    if prefix and not (prefix.endswith("/") and KEY.fullmatch(prefix[:-1])):
        raise ValueError(f"{prefix!r} is not a prefix of keys")


def check_small(data: bytes) -> None:
    """As `checked_key`, for the content of an object that is created in one call."""
    if len(data) > MAX_SMALL:
        raise ValueError(f"{len(data)} bytes are too many for one call")


class StoreError(SafelightError):
    """The store is unavailable, for the moment or permanently; the message names it, the reason and the remedy.

    The operation may have succeeded all the same.
    """


class StoreFull(StoreError):
    """The store has no space left."""

    def __init__(self, message: str, free: int | None = None, needed: int | None = None) -> None:
        """`free`: bytes of free space, `needed`: bytes to be written; None if unknown."""
        super().__init__(message)
        self.free, self.needed = free, needed

    @property
    def missing(self) -> str:
        """The free and the missing space, in words; empty if unknown."""
        if self.free is None:
            return ""
        if self.needed is None or self.needed <= self.free:
            return f"{human_size(self.free)} free"
        lacking = human_size(self.needed - self.free)
        return f"{human_size(self.needed)} needed, {human_size(self.free)} free, {lacking} missing"

    def __str__(self) -> str:
        return super().__str__() + (f" ({self.missing})" if self.missing else "")


class BadObject(SafelightError):
    """The object under a key is not what belongs there: it was changed, or another program put it there. The message
    states the reason. The key is taken all the same.
    """


class Missing(Exception):
    """There is no object under this key."""


class Entry(NamedTuple):
    """One object in a listing: `size` in bytes, `modified` in Unix seconds by the store's clock."""

    key: str
    size: int
    modified: float
    wrong: str = ""
    """What is wrong if it is not an object, in words: it is a link, a directory, another account's."""


class Body(Protocol):
    """A body that is being written. It is invisible before `finish` returns. An abandoned one may leave data behind
    that no listing shows or that `delete` removes.
    """

    async def write(self, pieces: Sequence[Bytes]) -> None:
        """Append. The caller must not change the pieces afterwards. Raises StoreError."""

    async def finish(self) -> None:
        """Make it an object, durable when this returns. Raises StoreError."""

    async def abandon(self) -> None:
        """Remove what was written, as far as possible. Never raises; no effect after `finish`."""


class Store(Protocol):
    """A place for objects. All methods raise StoreError if the store fails, and BadObject if something else is under
    the key. Any number of tasks may call them at the same time.
    """

    @property
    def identity(self) -> int:
        """Changes when the store was another one for a time and was checked again (see `guard`): caches of its contents
        are void then.
        """

    def guard(self, key: str, data: bytes) -> None:
        """From now on the store is the one in which the object `key` has this content. Otherwise the store is
        unavailable: nothing is written, acknowledged or reported missing.
        """

    async def room(self) -> int | None:
        """Free space in bytes; None if the store does not report it."""

    async def create(self, key: str, data: bytes, *, reserve: bool = False) -> bool:
        """Create an object of at most `MAX_SMALL` bytes, unless the key is taken: then False.

        With `reserve`, an object of at most `SPARE` bytes may use the reserve of a full store. The object is durable in
        either case: its earlier creator may not have synced it yet.
        """

    async def get(self, key: str) -> bytes:
        """The content of an object that `create` made. Raises Missing."""

    async def get_many(self, keys: Sequence[str]) -> list[bytes]:
        """The contents of many such objects, faster than one by one. Raises Missing if one of them is missing."""

    async def body(self, key: str) -> Body:
        """Start a body."""

    async def create_with_body(self, body: Body, key: str, data: bytes) -> bool:
        """Finish a body of this store, and then `create` the object that names it. Raises as both."""

    async def size(self, key: str) -> int:
        """The size of an object in bytes. Raises Missing."""

    def read(self, key: str, start: int, end: int) -> AsyncGenerator[Bytes]:
        """The bytes from `start` up to `end` (not included), in chunks; fewer only if the object is shorter.

        Raises Missing, also halfway, if it is deleted meanwhile. Close it (`aclose`) if it is not read to the end.
        """

    def file(self, key: str) -> FileBody | None:
        """The object as a file for sendfile; None if the store has no files. Opening it raises Missing and
        StoreError.
        """

    def list(self, prefix: str) -> AsyncIterator[Entry]:
        """All objects whose keys begin with `prefix`, which ends with '/' or is empty; in no order. It includes what
        has a key and is not an object: see `Entry.wrong`.
        """

    async def delete(self, key: str) -> None:
        """Delete an object, durably. No error if there is none."""

    async def ensure_durable(self, key: str) -> None:
        """Make sure that an object that was found is durable: its creator may not have synced it yet. Raises BadObject
        if it is gone.
        """

    async def close(self) -> None:
        """Release connections and other resources."""
