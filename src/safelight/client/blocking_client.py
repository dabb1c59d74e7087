"""`Client`: the same as `AsyncClient`, for programs without an event loop. It runs one in a thread of its own.

So it works in a notebook too, where a loop runs already, and from several threads at once.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import io
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar, cast, overload

from safelight.client.async_client import AsyncClient, AsyncImageFile, Content, Progress, _name_of
from safelight.client.models import ClusterStatus, Image, Receipt
from safelight.runtime.tasks import cancel

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["Client", "ImageFile"]

BUFFER = 1 << 18
"""Bytes that a file object from `Client.open` reads at a time, at least."""

_T = TypeVar("_T")


class Client:
    """One user of one cluster. Use it in `with`, or call `close` when done.

    Settings, arguments and exceptions are those of `AsyncClient`; calls block, and several threads may make them.
    A call that is interrupted with Ctrl-C is cancelled. Progress callbacks run in another thread.
    """

    def __init__(
        self,
        user: str | None = None,
        *,
        servers: str | Sequence[str] | None = None,
        config: str | Path | None = None,
        timeout: float | None = None,
        tls_ca: str | Path | None = None,
        insecure_http: bool | None = None,
        client_dir: str | Path | None = None,
    ) -> None:
        self._client = AsyncClient(
            user,
            servers=servers,
            config=config,
            timeout=timeout,
            tls_ca=tls_ca,
            insecure_http=insecure_http,
            client_dir=client_dir,
        )
        self.user = self._client.user
        self._lock = threading.Lock()
        self._loop: _Loop | None = None

    def __repr__(self) -> str:
        return repr(self._client).replace("AsyncClient", "Client", 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if (loop := getattr(self, "_loop", None)) is not None:
            loop.end(self._client, wait=False)

    def close(self) -> None:
        """Close all connections, and end calls that other threads wait for. A later call opens new connections."""
        self._refuse_callbacks()
        with self._lock:
            loop, client, self._loop, self._client = self._loop, self._client, None, self._client.again()
        if loop is not None:
            loop.end(client)

    def upload(
        self,
        image: Content,
        *,
        name: str | None = None,
        to: str | Path | None = None,
        any_type: bool = False,
        progress: Progress | None = None,
    ) -> Receipt:
        """Encrypt an image into the vault. See `AsyncClient.upload`."""
        with self._client._open(image, any_type=any_type, name=name) as source:
            called = name or _name_of(image)
            return self._run(lambda client: client._upload(source, called, to, progress))

    @overload
    def download(
        self, name: str, to: None = None, *, force: bool = False, progress: Progress | None = None
    ) -> bytes: ...

    @overload
    def download(self, name: str, to: str | Path, *, force: bool = False, progress: Progress | None = None) -> Path: ...

    def download(
        self, name: str, to: str | Path | None = None, *, force: bool = False, progress: Progress | None = None
    ) -> bytes | Path:
        """Decrypt an image of the vault, to bytes or into a file. See `AsyncClient.download`."""
        return self._run(lambda client: client.download(name, to, force=force, progress=progress))

    def open(self, name: str) -> io.BufferedReader:
        """An image of the vault as a file object: readable, seekable, buffered. See `AsyncClient.open`."""
        return io.BufferedReader(ImageFile(self, self._run(lambda client: client.open(name))), BUFFER)

    def list(self, pattern: str | None = None) -> Iterator[Image]:
        """The user's images, newest first, in constant memory. See `AsyncClient.list`."""
        pages = self._client._pages(pattern)
        while (page := self._run(lambda client: _next(pages))) is not None:
            yield from page

    def info(self, name: str) -> Image:
        """What the vault knows of one image. See `AsyncClient.info`."""
        return self._run(lambda client: client.info(name))

    def remove(self, name: str) -> None:
        """Remove one image from the vault, permanently. See `AsyncClient.remove`."""
        self._run(lambda client: client.remove(name))

    @overload
    def decrypt(
        self, sealed: Content, to: None = None, *, force: bool = False, progress: Progress | None = None
    ) -> bytes: ...

    @overload
    def decrypt(
        self, sealed: Content, to: str | Path, *, force: bool = False, progress: Progress | None = None
    ) -> Path: ...

    def decrypt(
        self, sealed: Content, to: str | Path | None = None, *, force: bool = False, progress: Progress | None = None
    ) -> bytes | Path:
        """Decrypt a sealed file, to bytes or into a file. See `AsyncClient.decrypt`."""
        with self._client._open(sealed, any_type=True, sealed=True) as source:
            called = _name_of(sealed)
            return self._run(lambda client: client._decrypt(source, called, to, force, progress))

    def status(self) -> ClusterStatus:
        """Every node, and which one leads. See `AsyncClient.status`."""
        return self._run(lambda client: client.status())

    def _run(self, call: Callable[[AsyncClient], Coroutine[Any, Any, _T]]) -> _T:
        self._refuse_callbacks()
        if self._loop is not None and self._loop.pid != os.getpid():  # a fork does not take threads along
            self._client.session.abandon()
            self._lock, self._loop, self._client = threading.Lock(), None, self._client.again()
        with self._lock:
            if self._loop is None:
                self._loop = _Loop(self._client)
            future = self._loop.submit(call(self._client))
        try:
            result = future.result()
        except concurrent.futures.CancelledError:
            raise RuntimeError("the client was closed during this call") from None
        except BaseException:
            future.cancel()
            raise
        if isinstance(result, _Exit):
            raise result.error
        return result

    def _refuse_callbacks(self) -> None:
        if self._loop is not None and threading.current_thread() is self._loop.thread:
            raise RuntimeError("a progress callback cannot call the client that calls it")


class _Exit(NamedTuple):
    """SystemExit or KeyboardInterrupt of a callback, which would end the loop on its way to the caller."""

    error: BaseException


class _Loop:
    """An event loop in a thread of its own, with an open client."""

    def __init__(self, client: AsyncClient) -> None:
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._loop.run_forever, name="safelight client", daemon=True)
        self.thread.start()
        _loops[self] = client
        try:
            self.submit(client.__aenter__()).result()
        except BaseException:
            self.end(client)
            raise

    def submit(self, coroutine: Coroutine[Any, Any, _T]) -> concurrent.futures.Future[_T | _Exit]:
        async def guarded() -> _T | _Exit:
            try:
                return await coroutine
            except (KeyboardInterrupt, SystemExit) as error:
                return _Exit(error)

        return asyncio.run_coroutine_threadsafe(guarded(), self._loop)

    def end(self, client: AsyncClient, *, wait: bool = True) -> None:
        """Cancel what runs, close the client and stop, also if the wait for that is interrupted."""
        if _loops.pop(self, None) is None:
            return
        if self.pid != os.getpid():
            client.session.abandon()
            return
        asyncio.run_coroutine_threadsafe(self._end(client), self._loop)
        if wait:
            self.thread.join()

    async def _end(self, client: AsyncClient) -> None:
        try:
            await cancel(*(asyncio.all_tasks() - {cast(asyncio.Task[Any], asyncio.current_task())}))
            await client.__aexit__(None, None, None)
            await self._loop.shutdown_asyncgens()
            await self._loop.shutdown_default_executor()
        finally:
            self._loop.call_soon(self._loop.stop)


_loops: dict[_Loop, AsyncClient] = {}
"""All that run."""


@atexit.register
def _end_all() -> None:
    for loop, client in [*_loops.items()]:
        loop.end(client)


class ImageFile(io.RawIOBase):
    """An image of the vault as a raw file object, read by ranges. `Client.open` returns it buffered.

    Attributes:
        image: The image.
        name: Its name.
    """

    def __init__(self, client: Client, file: AsyncImageFile) -> None:
        super().__init__()
        self._client, self._file = client, file
        self.image = file.image
        self.name = file.image.name

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, as `io.IOBase.seek`. Returns the new position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The position, in bytes."""
        return self._file.tell()

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read at most as many bytes as `buffer` holds. Returns how many; 0 at the end."""
        view = memoryview(buffer).cast("B")
        data = self._client._run(lambda client: self._file.read_through(client.session, len(view)))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """All that is left, in one request."""
        return self._client._run(lambda client: self._file.read_through(client.session, -1))


async def _next(pages: AsyncGenerator[Sequence[Image]]) -> Sequence[Image] | None:
    """The next page; None at the end."""
    return await anext(pages, None)
