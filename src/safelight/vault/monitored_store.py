"""A store that reports the result and duration of every call to its `health`.

Only a read from the middle of a body proves that bodies can be read: its beginning may be in memory.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress

from safelight.encryption.stream import Bytes
from safelight.errors import reason
from safelight.runtime.descriptors import NONE_LEFT
from safelight.runtime.sendfile import FileBody
from safelight.vault.records import IDENTITY, PROBES
from safelight.vault.store_health import CallKind, StoreHealth
from safelight.vault.stores.base import BadObject, Body, Entry, Missing, Store, StoreError, StoreFull

_LITTLE = 4096
"""Bytes: a shorter read, such as of a header, proves little."""

_OF_A_DISK = {errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.EBADMSG}
"""Errors of a sendfile step that come from the disk, not from the connection (sendfile(2), read(2))."""


class MonitoredStore:
    """A `Store` whose calls go to another one, and are reported to its health."""

    def __init__(self, store: Store, health: StoreHealth) -> None:
        self._store = store
        self._health = health
        self._known = ""  # a body that was read or created recently

    @property
    def identity(self) -> int:
        return self._store.identity

    def guard(self, key: str, data: bytes) -> None:
        self._store.guard(key, data)

    async def room(self) -> int | None:
        return await self._store.room()

    async def create(self, key: str, data: bytes, *, reserve: bool = False) -> bool:
        with self.call(CallKind.COMMIT):
            return await self._store.create(key, data, reserve=reserve)

    async def get(self, key: str) -> bytes:
        with self.call(CallKind.READ):
            return await self._store.get(key)

    async def get_many(self, keys: Sequence[str]) -> list[bytes]:
        with self.call(CallKind.READ):
            return await self._store.get_many(keys)

    async def body(self, key: str) -> Body:
        return _MonitoredBody(await self._store.body(key), key, self)

    async def create_with_body(self, body: Body, key: str, data: bytes) -> bool:
        assert isinstance(body, _MonitoredBody)
        with self.call(CallKind.COMMIT):
            made = await self._store.create_with_body(body.monitored, key, data)
        self.knows(body.key)
        return made

    async def size(self, key: str) -> int:
        with self.call(CallKind.READ):
            return await self._store.size(key)

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[Bytes]:
        async with aclosing(self._store.read(key, start, end)) as chunks:
            while True:
                with self.call(CallKind.BODY, little=end - start < _LITTLE):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    return
                self.knows(key)
                yield chunk

    def file(self, key: str) -> FileBody | None:
        file = self._store.file(key)
        if file is not None:
            file.watched = self._sending
        return file

    def knows(self, key: str) -> None:
        """This body exists: probes may read it."""
        self._known = key

    @contextmanager
    def _sending(self, little: bool) -> Iterator[None]:
        with self.call(CallKind.BODY, little=little):
            try:
                yield
            except OSError as error:
                if error.errno in _OF_A_DISK:
                    raise StoreError(f"cannot read a body in the vault: {reason(error)}; check its disk") from error
                raise

    async def list(self, prefix: str) -> AsyncIterator[Entry]:
        found = self._store.list(prefix)
        while True:
            with self.call(CallKind.READ):
                entry = await anext(found, None)
            if entry is None:
                return
            yield entry

    async def delete(self, key: str) -> None:
        with self.call(CallKind.COMMIT):
            await self._store.delete(key)

    async def ensure_durable(self, key: str) -> None:
        with self.call(CallKind.COMMIT):
            await self._store.ensure_durable(key)

    async def close(self) -> None:
        await self._store.close()

    async def probe(self, name: str) -> None:
        """Read, create and delete small objects (under `name`) to test the store. Never raises."""

        async def read() -> None:
            with suppress(StoreError, BadObject, Missing), self.call(CallKind.READ, probe=True):
                await self._store.get(IDENTITY)

        async def write() -> None:
            key = PROBES + name
            with (
                suppress(StoreError, BadObject),
                self.call(CallKind.WRITE, probe=True),
                self.call(CallKind.COMMIT, probe=True),
            ):
                await self._store.delete(key)  # what a crash may have left of an earlier probe
                await self._store.create(key, b"probe")
                await self._store.delete(key)

        async def read_body() -> None:
            with suppress(StoreError, BadObject, Missing), self.call(CallKind.BODY, probe=True):
                if self._known:  # else there is nothing to test, and earlier failures are cleared
                    async with aclosing(self._store.read(self._known, 0, _LITTLE)) as chunks:
                        await anext(chunks, None)

        await asyncio.gather(read(), read_body(), write())

    @contextmanager
    def call(self, kind: CallKind, *, probe: bool = False, little: bool = False) -> Iterator[None]:
        """Report the call that the block makes. The success of a read of `little` counts no more than a probe's."""
        self._health.started(kind, time.monotonic())
        try:
            yield
        except StoreFull:  # it works, and has no space: another node would not find more
            self._health.answered(kind, time.monotonic(), probe=probe or little)
            raise
        except StoreError as error:
            cause = error.__cause__
            ours = (
                isinstance(cause, OSError) and cause.errno in NONE_LEFT
            )  # an error of this process, which has its own check
            self._health.answered(kind, time.monotonic(), "" if ours else str(error), probe=probe)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            self._health.dropped(kind, time.monotonic())
            raise
        except BlockingIOError:  # the connection takes no more: perhaps nothing was read
            self._health.answered(kind, time.monotonic(), probe=True)
            raise
        except BaseException:
            self._health.answered(kind, time.monotonic(), probe=probe or little)
            raise
        else:
            self._health.answered(kind, time.monotonic(), probe=probe or little)


class _MonitoredBody:
    """A `Body` of a monitored store."""

    def __init__(self, body: Body, key: str, store: MonitoredStore) -> None:
        self.monitored = body
        self.key = key
        self._store = store

    async def write(self, pieces: Sequence[Bytes]) -> None:
        with self._store.call(CallKind.WRITE):
            await self.monitored.write(pieces)

    async def finish(self) -> None:
        with self._store.call(CallKind.COMMIT):
            await self.monitored.finish()

    async def abandon(self) -> None:
        await self.monitored.abandon()
