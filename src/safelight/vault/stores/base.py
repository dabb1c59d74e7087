"""What the vault asks of a place that keeps bytes: little enough that a directory and an object store both can.

An *object* is immutable bytes under a key. It appears whole or not at all, and it is durable when the call that
made it returns. The only arbiter is `create`: of all who create the same key, exactly one succeeds. Nothing is
ever overwritten, renamed or changed, so what was read once stays valid until it is deleted.

A *body* is an object that is too large to be made in one call. Its key is random, so nobody competes for it.

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
"""Bytes of an object that there is room for in reserve: a tombstone has some hundred."""

MAX_SMALL = 64 * 1024
"""Bytes of an object that is made in one call, and read in one."""


class StoreError(SafelightError):
    """The store cannot be used at the moment, or at all; the message says which one, why, and what to do.

    What was asked for may have happened all the same.
    """


class StoreFull(StoreError):
    """There is no room for more."""

    def __init__(self, message: str, free: int | None = None, needed: int | None = None) -> None:
        """`free`: bytes that there is room for, `needed`: bytes that were to be written; None where that is unknown."""
        super().__init__(message)
        self.free, self.needed = free, needed

    @property
    def missing(self) -> str:
        """How much room there is, and how much more it takes, in words; empty where that is unknown."""
        if self.free is None:
            return ""
        if self.needed is None or self.needed <= self.free:
            return f"{human_size(self.free)} free"
        lacking = human_size(self.needed - self.free)
        return f"{human_size(self.needed)} needed, {human_size(self.free)} free, {lacking} missing"

    def __str__(self) -> str:
        return super().__str__() + (f" ({self.missing})" if self.missing else "")


class BadObject(SafelightError):
    """What lies under a key is not what belongs there, and why: it was changed, or another put it there.

    The key is taken all the same.
    """


class Missing(Exception):
    """There is no object under this key."""


class Entry(NamedTuple):
    """One object in a listing: `size` in bytes, `modified` in Unix seconds by the store's clock."""

    key: str
    size: int
    modified: float
    wrong: str = ""
    """What is wrong with it if it is no object at all, in words: it is a link, a directory, another account's."""


class Body(Protocol):
    """A body in the making. Nobody sees it before `finish` returns; an abandoned one may leave something behind that
    no listing shows or that `delete` removes.
    """

    async def write(self, pieces: Sequence[Bytes]) -> None:
        """Append. The pieces are not changed by the caller any more. Raises StoreError."""

    async def finish(self) -> None:
        """Make it an object, durable when this returns. Raises StoreError."""

    async def publish(self, key: str, data: bytes) -> bool:
        """`finish`, and then `Store.create` the object that names it. Raises as both."""

    async def abandon(self) -> None:
        """Leave nothing behind, as far as that is possible. Never raises; harmless after `finish`."""


class Store(Protocol):
    """All methods raise StoreError where the store fails, BadObject where something else lies under a key, and may be
    called at the same time from many tasks.
    """

    @property
    def identity(self) -> int:
        """Changes when the store was not what it had been and was checked again (see `guard`): whatever was remembered
        of its contents is to be read again.
        """

    def guard(self, key: str, data: bytes) -> None:
        """From now on the store is the one in which the object `key` has this content. While it has not, the store is
        unavailable: nothing is written, acknowledged or said to be missing.
        """

    async def room(self) -> int | None:
        """For how many bytes there is room; None where the store does not say."""

    async def create(self, key: str, data: bytes, *, reserve: bool = False) -> bool:
        """Make an object of at most `MAX_SMALL` bytes, unless the key is taken: then False. With `reserve`, an object
        of at most `SPARE` bytes may take the room that a full store has in reserve.

        Durable either way: the process that created it may have died before it was durable.
        """

    async def get(self, key: str) -> bytes:
        """An object that was made with `create`. Raises Missing."""

    async def get_many(self, keys: Sequence[str]) -> list[bytes]:
        """Many such objects, in less time than one after the other. Raises Missing if one of them is."""

    async def body(self, key: str) -> Body:
        """Begin a body."""

    async def size(self, key: str) -> int:
        """The bytes of an object. Raises Missing."""

    def read(self, key: str, start: int, end: int) -> AsyncGenerator[Bytes]:
        """The bytes from `start` up to `end` (not included), in chunks; fewer only if the object is shorter.

        Raises Missing, also half-way, if it is deleted meanwhile. To be closed (`aclose`) if not read to its end.
        """

    def file(self, key: str) -> FileBody | None:
        """The same object as a file to pour from; None if it is none. Opening it raises Missing and StoreError."""

    def list(self, prefix: str) -> AsyncIterator[Entry]:
        """All objects whose keys begin with `prefix`, which ends with '/' or is empty; in no order. What lies under a
        key and is no object is there, too: see `Entry.wrong`.
        """

    async def delete(self, key: str) -> None:
        """Remove an object; durable when this returns. It is no error if there is none."""

    async def ensure_durable(self, key: str) -> None:
        """Make sure that an object which was found is durable: its maker may still be about it. Raises BadObject if it
        is gone by now.
        """

    async def close(self) -> None:
        """Give back connections and the like."""
