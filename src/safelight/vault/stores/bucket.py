"""A store in a bucket: Amazon's S3, and servers with the same interface.

The arbiter is the conditional put, `If-None-Match: *` (RFC 9110, section 13.1.2). Some servers that speak like S3
ignore it and overwrite; so before its first create a bucket is tested (`_prove`).

A create whose answer is lost, or which the library or a proxy sent twice, may be told that the key is taken, by
itself. So each create has a mark, 16 random hex digits in the object's metadata; a writer that finds a key taken, or
gets no answer, reads the mark to see whose object it is.

`obstore` is a large extension module. Only who opens a bucket imports this one.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from math import inf
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from safelight.config import is_loopback
from safelight.encryption.stream import Bytes
from safelight.runtime.tasks import cancel, shielded
from safelight.vault.stores.base import (
    KEY,
    MAX_SMALL,
    BadObject,
    Body,
    Entry,
    Missing,
    StoreError,
    StoreFull,
    check_prefix,
    check_small,
    checked_key,
)
from safelight.vault.stores.provider_errors import CREDENTIALS, Cause, classify

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

REQUEST_TIMEOUT = 10.0
"""Seconds for what moves little. A store that takes longer is unavailable."""
TRANSFER = 60
"""Seconds for one part or one range. Two parts are in transfer at a time, so an uplink needs 2.2 Mbit/s."""
PART = 8 << 20
"""Bytes of a part. S3 allows 10,000 parts, so a body has at most 78 GiB."""
IN_FLIGHT = 2
"""Parts of one body in transfer at a time, while the next is gathered: 24 MiB in all."""
AT_ONCE = 32
"""Small objects requested at the same time."""

ASSURED = 2.0
"""Seconds for which a check of the bucket's guard is valid: for so long an emptied bucket goes undetected. A check
costs one request."""

RANGE = 4 << 20
"""Bytes of one range request; the next range is requested before this one is consumed."""

_RETRY: RetryConfig = {
    "max_retries": 10,
    "retry_timeout": timedelta(seconds=4),  # a create tries, and then reads what became of it: twice, in time
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=1), "base": 2},
}

_MARK = "mark"
_PROBE = ".probe"  # no key begins with a dot

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_ALLOW_HTTP = "AWS_ALLOW_HTTP"
_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,221}")


class BucketStore:
    """A `Store` in a bucket, or below a prefix in it. A bad key is a ValueError."""

    def __init__(self, url: str, store: S3Store) -> None:
        self._url = url
        self._store = store
        self._proven = False
        self._guard: tuple[str, bytes] | None = None
        self._assured = -inf  # when, by the monotonic clock, the guard was last found intact
        self._assuring = asyncio.Lock()
        self.identity = 0

    def guard(self, key: str, data: bytes) -> None:
        self._guard = checked_key(key), data

    @classmethod
    def open(cls, url: str) -> BucketStore:
        """`s3://bucket/prefix`; the prefix is optional. Sends no request yet.

        Credentials and endpoints come from the environment, as obstore reads it. Raises StoreError.
        """
        _check_url(url)
        client: ClientConfig = {
            "connect_timeout": timedelta(seconds=3),
            "timeout": timedelta(seconds=TRANSFER),
            "allow_http": _plain_http(),
        }
        try:  # without DeleteObjects, which some servers do not know: objects are deleted one at a time
            config: S3Config = {"disable_bulk_delete": True}
            store = S3Store.from_url(url, config=config, client_options=client, retry_config=_RETRY)
        except (BaseError, OSError, ValueError):
            raise StoreError(f"The bucket {url} cannot be opened: check {CREDENTIALS} in the environment") from None
        return cls(url.rstrip("/"), store)

    async def room(self) -> None:
        return None

    async def create(self, key: str, data: bytes, *, reserve: bool = False) -> bool:
        """As in `Store`; a bucket has nothing in reserve."""
        check_small(data)
        checked_key(key)
        await self._assure()
        await self._prove()
        return await self._create(key, data)

    async def get(self, key: str) -> bytes:
        checked_key(key)
        async with self._finding():
            return await self._get(key)

    async def _get(self, key: str) -> bytes:
        async with self._asking():
            found = await obstore.get_async(self._store, key)
            if found.meta["size"] > MAX_SMALL:
                raise BadObject(f"{key} is larger than what is kept there: restore it from a backup")
            return bytes(await found.bytes_async())

    async def get_many(self, keys: Sequence[str]) -> list[bytes]:
        turns = asyncio.Semaphore(AT_ONCE)

        async def in_turn(key: str) -> bytes:
            async with turns:
                return await self.get(key)

        return await asyncio.gather(*map(in_turn, keys))

    async def body(self, key: str) -> BucketBody:
        return BucketBody(self, self._store, checked_key(key))

    async def create_with_body(self, body: Body, key: str, data: bytes) -> bool:
        await body.finish()
        return await self.create(key, data)

    async def size(self, key: str) -> int:
        checked_key(key)
        async with self._finding(), self._asking():
            try:
                # Not HEAD: its answer has no body, so it does not distinguish a missing bucket from a missing object.
                return (await obstore.get_async(self._store, key, options={"range": (0, 1)})).meta["size"]
            except BaseError as error:
                if classify(error).status == 416:  # there is no first byte
                    return 0
                raise

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[Bytes]:
        checked_key(key)
        ahead: asyncio.Task[memoryview] | None = None
        try:
            for begin in range(start, end, RANGE):
                stop = min(begin + RANGE, end)
                chunk = await (ahead or self._range(key, begin, stop))
                if len(chunk) < stop - begin:  # the object ends here
                    end = stop
                ahead = asyncio.create_task(self._range(key, stop, min(stop + RANGE, end))) if stop < end else None
                if chunk:
                    yield chunk
                if ahead is None:
                    return
        finally:
            if ahead is not None:
                await cancel(ahead)

    def file(self, key: str) -> None:
        return None

    async def list(self, prefix: str) -> AsyncIterator[Entry]:
        check_prefix(prefix)
        pages = obstore.list(self._store, prefix[:-1] or None, chunk_size=1000)
        while True:
            async with self._asking():
                page = await anext(pages, None)
            if page is None:
                await self._assure()
                return
            for item in page:
                if KEY.fullmatch(item["path"]):  # a bucket may contain other things
                    yield Entry(item["path"], item["size"], item["last_modified"].timestamp())

    async def delete(self, key: str) -> None:
        checked_key(key)
        await self._assure()
        try:
            async with self._asking():
                await obstore.delete_async(self._store, key)
        except Missing:
            pass

    async def ensure_durable(self, key: str) -> None:
        """No effect: what an object store shows is durable."""
        checked_key(key)

    async def close(self) -> None:
        """No effect: connections end with the last reference to them."""

    async def _assure(self) -> None:
        """Make sure that this is still the vault's bucket: its guard was there at most `ASSURED` seconds ago. Raises
        StoreError.
        """
        if self._guard is None or time.monotonic() - self._assured < ASSURED:
            return
        async with self._assuring:
            asked = time.monotonic()
            if asked - self._assured < ASSURED:
                return
            lapsed = self._assured == -inf
            self._assured = -inf
            key, data = self._guard
            try:
                found = await self._get(key)
            except (Missing, BadObject):
                found = None
            if found != data:
                what = "is missing" if found is None else "names another cluster"
                raise StoreError(
                    f"The bucket {self._url} is not the vault that it was (its object {key!r} {what}): restore it from "
                    "a backup; until then nothing is written"
                )
            self._assured = asked
            self.identity += lapsed

    @asynccontextmanager
    async def _finding(self) -> AsyncIterator[None]:
        """For a read of one object: check the guard before the object is reported missing, because all objects may
        be.
        """
        try:
            yield
        except Missing:
            await self._assure()
            raise

    async def _prove(self) -> None:
        """Make sure that a create does not overwrite. Raises StoreError."""
        if not self._proven and await self._create(_PROBE, b"first") and await self._create(_PROBE, b"second"):
            raise StoreError(f"The bucket {self._url} cannot be used: {Cause.UNSUPPORTED.value}")
        self._proven = True

    async def _create(self, key: str, data: bytes) -> bool:
        mark = secrets.token_hex(8)
        failure: BaseError | OSError | None = None
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                while True:
                    try:
                        await obstore.put_async(self._store, key, data, mode="create", attributes={_MARK: mark})
                        return True
                    except AlreadyExistsError:
                        pass
                    except (BaseError, OSError) as error:
                        failure = error
                        if classify(error).not_applied:
                            raise
                    try:
                        found = await obstore.get_async(self._store, key)
                        return found.attributes.get(_MARK) == mark
                    except FileNotFoundError:
                        # The put did not arrive, the object was deleted meanwhile, or S3 answered 409 to two puts.
                        await asyncio.sleep(0.1)
        except (BaseError, OSError) as error:
            raise self._error(failure or error) from None

    async def _range(self, key: str, start: int, end: int) -> memoryview:
        """The bytes from `start` up to `end`, fewer if the object is shorter."""
        async with self._finding():
            return await self._asked_range(key, start, end)

    async def _asked_range(self, key: str, start: int, end: int) -> memoryview:
        try:
            return memoryview(await obstore.get_range_async(self._store, key, start=start, end=end))
        except (BaseError, OSError) as error:
            if classify(error).status == 416:
                return memoryview(b"")
            raise self._error(error) from None

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        """For a request with little data: limit its time, and translate its errors."""
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                yield
        except (BaseError, OSError) as error:
            raise self._error(error) from None

    def _error(self, error: BaseError | OSError) -> StoreError | Missing:
        """Translate an error of the library."""
        found = classify(error)
        if found.cause is Cause.MISSING:
            return Missing()
        self._assured = -inf  # a bucket that was unavailable may come back as another
        if found.cause is Cause.FULL:
            return StoreFull(f"The bucket {self._url} is full: free space in it, or raise its quota")
        if found.cause is Cause.NO_BUCKET:
            return StoreError(f"There is no bucket {self._url}: make it, or correct the vault's URL")
        return StoreError(f"The bucket {self._url} cannot be used: {found}")


class BucketBody:
    """A body that is being written to a bucket: up to PART bytes in one put, more in a multipart upload.

    The library's calls are never cancelled: a cancelled call loses the id of the multipart upload, which then cannot be
    aborted.
    """

    def __init__(self, bucket: BucketStore, store: S3Store, key: str) -> None:
        self._bucket = bucket
        self._key = key
        self._writer = obstore.open_writer_async(store, key, buffer_size=PART, max_concurrency=IN_FLIGHT)
        self._size = 0
        self._running: asyncio.Future[object] | None = None
        self._whole = True
        self._closing = False
        self._over = False

    async def write(self, pieces: Sequence[Bytes]) -> None:
        self._check_whole()
        self._whole = False
        for piece in pieces:
            if piece:
                await self._run(self._writer.write(piece))
                self._size += len(piece)
        self._whole = True

    async def finish(self) -> None:
        self._check_whole()
        await self._bucket._assure()
        self._closing = True
        try:
            await self._run(self._writer.close())
        except StoreError:
            if not await self._arrived():
                raise
        self._over = True

    async def abandon(self) -> None:
        if not self._over:
            self._over = True
            await asyncio.shield(self._remove())

    def _check_whole(self) -> None:
        if not self._whole:
            raise ValueError("a part of this body is lost: it can only be abandoned")

    async def _arrived(self) -> bool:
        """Whether only the answer was lost. The key is random, so the object there is this one, and it appears
        whole.
        """
        try:
            return await self._bucket.size(self._key) == self._size
        except (StoreError, Missing):
            return False

    async def _remove(self) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                if self._running is not None:
                    await asyncio.wait([self._running])
                if self._closing:  # the library aborts an upload itself if it cannot complete it
                    await self._bucket.delete(self._key)
                else:
                    await self._writer.__aexit__(StoreError, None, None)  # this aborts the library's upload
        except (StoreError, BaseError, OSError):
            pass

    async def _run(self, call: Awaitable[object]) -> None:
        self._running = asyncio.ensure_future(call)
        try:
            await shielded(self._running)
        except (BaseError, OSError) as error:
            what = self._bucket._error(error)
            if isinstance(what, Missing):
                what = StoreError("The store no longer knows an unfinished upload: try again")
            raise what from None


def _check_url(url: str) -> None:
    """Raises StoreError, which does not repeat the URL: it may contain a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise StoreError("The vault's URL is not one: write s3://bucket/prefix") from None
    if parts.scheme != "s3":
        raise StoreError("The vault's URL has to begin with s3://")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise StoreError(f"Credentials do not belong in the vault's URL: set {CREDENTIALS}")
    if not _BUCKET_NAME.fullmatch(parts.netloc):
        raise StoreError("The vault's URL names no bucket: write s3://bucket/prefix, in lower case")
    prefix = parts.path.strip("/")
    if prefix and not KEY.fullmatch(prefix):
        raise StoreError("The vault's URL has a prefix that is not of a-z, 0-9, '.', '_', '-' and '/'")


def _plain_http() -> bool:
    """Whether requests may be unencrypted: only to this machine, or if the environment allows it."""
    if os.environ.get(_ALLOW_HTTP, "").lower() in ("1", "true", "yes", "on"):
        return True
    endpoints = [urlsplit(os.environ[name]) for name in _ENDPOINTS if os.environ.get(name)]
    plain = [endpoint for endpoint in endpoints if endpoint.scheme == "http"]
    if not all(is_loopback(endpoint.hostname or "") for endpoint in plain):
        raise StoreError(
            f"The vault's endpoint is http:// and not on this machine: use https://, or set {_ALLOW_HTTP}=true"
        )
    return bool(plain)
