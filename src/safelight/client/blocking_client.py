"""`Client`: the same as `AsyncClient`, for programs without an event loop. It runs one in a thread of its own.

So it works in a notebook too, where a loop runs already, and from several threads at once.
"""

from __future__ import annotations

import asyncio
import atexit
import io
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast, overload

from safelight.client.async_client import AsyncClient, AsyncImageFile, Content, Progress
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

    Settings, arguments and exceptions are those of `AsyncClient`; calls block. A call that is interrupted with Ctrl-C
    is cancelled.
    """

    def __init__(
        self,
        user: str | None = None,
        *,
        servers: Sequence[str] | None = None,
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
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return repr(self._client).replace("AsyncClient", "Client", 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. A later call opens new ones."""
        with self._lock:
            if self._loop is not None:
                asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
                self._stop()

    def upload(
        self,
        image: Content,
        *,
        name: str | None = None,
        to: str | Path | None = None,
        any_type: bool = False,
        progress: Progress | None = None,
    ) -> Receipt:
        """Encrypt an image into the vault. See `AsyncClient.upload`; `progress` is called in another thread."""
        return self._run(self._client.upload(image, name=name, to=to, any_type=any_type, progress=progress))

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
        return self._run(self._client.download(name, to, force=force, progress=progress))

    def open(self, name: str) -> io.BufferedReader:
        """An image of the vault as a file object: readable, seekable, buffered. See `AsyncClient.open`."""
        return io.BufferedReader(ImageFile(self, self._run(self._client.open(name))), BUFFER)

    def list(self, pattern: str | None = None) -> Iterator[Image]:
        """The user's images, newest first, in constant memory. See `AsyncClient.list`."""
        pages = self._client._pages(pattern)
        try:
            while (page := self._run(_next(pages))) is not None:
                yield from page
        finally:
            if self._loop is not None:
                self._run(pages.aclose())

    def info(self, name: str) -> Image:
        """What the vault knows of one image. See `AsyncClient.info`."""
        return self._run(self._client.info(name))

    def remove(self, name: str) -> None:
        """Remove one image from the vault, permanently. See `AsyncClient.remove`."""
        self._run(self._client.remove(name))

    @overload
    def decrypt(self, sealed: Content, to: None = None, *, progress: Progress | None = None) -> bytes: ...

    @overload
    def decrypt(self, sealed: Content, to: str | Path, *, progress: Progress | None = None) -> Path: ...

    def decrypt(
        self, sealed: Content, to: str | Path | None = None, *, progress: Progress | None = None
    ) -> bytes | Path:
        """Decrypt a sealed file, to bytes or into a directory. See `AsyncClient.decrypt`."""
        return self._run(self._client.decrypt(sealed, to, progress=progress))

    def status(self) -> ClusterStatus:
        """Every node, and which one leads. See `AsyncClient.status`."""
        return self._run(self._client.status())

    # -- the loop ------------------------------------------------------------------------------------

    def _run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("a progress callback cannot call the client that calls it")
        with self._lock:
            if self._loop is None:
                self._start()
            future = asyncio.run_coroutine_threadsafe(coroutine, cast(asyncio.AbstractEventLoop, self._loop))
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _start(self) -> None:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="safelight client", daemon=True)
        thread.start()
        self._loop, self._thread = loop, thread
        atexit.register(self.close)
        try:
            asyncio.run_coroutine_threadsafe(self._client.__aenter__(), loop).result()
        except BaseException:
            self._stop()
            raise

    def _stop(self) -> None:
        loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
            atexit.unregister(self.close)

    async def _end(self) -> None:
        """Wait for what was cancelled to clean up, then end the session."""
        await cancel(*asyncio.all_tasks() - {asyncio.current_task()})
        await self._client.__aexit__(None, None, None)
        loop = asyncio.get_running_loop()
        await loop.shutdown_asyncgens()
        await loop.shutdown_default_executor()
        self._client = self._client.again()


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
        data = self._client._run(self._file.read(len(view)))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """All that is left, in one request."""
        return self._client._run(self._file.read())


async def _next(pages: AsyncGenerator[Sequence[Image]]) -> Sequence[Image] | None:
    """The next page; None at the end."""
    return await anext(pages, None)
