"""`AsyncClient`: one user's images at one cluster, for programs with an event loop.

Every request goes to all nodes or to any node, and is retried through a failover until the configuration's `timeout`
has passed without progress: the same requests and the same retry policy as the command line's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, overload

from safelight.client.files import source_file
from safelight.client.files.sink import Memory
from safelight.client.files.source_file import SourceFile
from safelight.client.models import ClusterStatus, Image, NodeStatus, Receipt
from safelight.client.requests.feedback import NullFeedback
from safelight.client.requests.status import leader_of, survey
from safelight.client.session import Session
from safelight.config import Config, ConfigError, load_with_environment
from safelight.wire.messages import Kept

__all__ = ["AsyncClient", "AsyncImageFile", "Content", "Progress"]

Content = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
"""What can be uploaded or decrypted: a path, the bytes, or a file object open for reading in binary mode. A file object
is read once, from its position, and copied to a file without a name in the temporary directory first.
"""

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all), there and back; starts again at 0 when a transfer is retried. An exception
that it raises ends the transfer and is raised to the caller."""


class AsyncClient:
    """One user of one cluster. Use it in `async with`.

    Settings that are not given come from the environment (`SAFELIGHT_...`), then from the configuration file, then
    from the defaults, as on the command line. The user's token is found, or made at the first request, in `client_dir`.

    Args:
        user: Whose images these are.
        servers: Addresses of the nodes, `host:port` each; a list, or text with commas.
        config: A configuration file (TOML) instead of the user's own.
        timeout: Seconds to keep trying without progress, for an election or an unavailable vault. A body that stalls
            is given up after `body_timeout`, five times at most.
        tls_ca: PEM file of the authority to trust.
        insecure_http: Allow plain HTTP beyond loopback.
        client_dir: Where tokens are kept.

    Raises:
        ConfigError: A setting cannot be used, or no user is named.
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
        said = {
            "user": user,
            "servers": servers if servers is None or isinstance(servers, str) else list(servers),
            "timeout": timeout,
            "tls_ca": tls_ca,
            "insecure_http": insecure_http,
            "client_dir": client_dir,
        }
        settings = load_with_environment(None if config is None else Path(config), said)
        if settings.user is None:
            raise ConfigError("user: name the user, in the call, in SAFELIGHT_USER or in the configuration file")
        self._start(settings, settings.user)

    def _start(self, settings: Config, user: str) -> None:
        self._config, self.user, self._used = settings, user, False
        self.session = Session(settings, user)
        """Internal: what the command line adds to the library (progress of each attempt, resumable runs)."""

    @classmethod
    def of(cls, settings: Config, user: str) -> Self:
        """Internal: a client of a configuration that is loaded already. Raises InvalidName."""
        client = cls.__new__(cls)
        client._start(settings, user)
        return client

    def again(self) -> Self:
        """Internal: a client like this one, with no connections yet."""
        return self.of(self._config, self.user)

    def __repr__(self) -> str:
        servers = ",".join(address.netloc for address in self._config.addresses.values())
        return f"<{type(self).__name__} {self.user} at {servers}>"

    async def __aenter__(self) -> Self:
        if self._used:
            self.session = Session(self._config, self.user)
        self._used = True
        await self.session.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.session.__aexit__(kind, error, trace)

    async def upload(
        self,
        image: Content,
        *,
        name: str | None = None,
        to: str | Path | None = None,
        any_type: bool = False,
        progress: Progress | None = None,
    ) -> Receipt:
        """Encrypt an image into the vault.

        Args:
            image: What to upload.
            name: Its original name; that of the file if not given, else `image.<type>`.
            to: A directory for a local copy of the sealed file, which `decrypt` opens. Not given: the vault alone
                keeps the image, and half as many bytes travel.
            any_type: Accept what is not an image of a known type.
            progress: Called while bytes travel.

        Raises:
            CannotRead: `image` cannot be read, changed while it was read, is empty or too large, or is not an image.
            CannotWrite: The local copy cannot be written.
            ClusterUnavailable: No leader took it in time. The same call is safe to repeat.
            Refusal: The cluster refused it; `problem` says why.
        """
        with await self._source(image, any_type=any_type, name=name) as source:
            return await self._upload(source, name or _name_of(image), to, progress)

    async def _upload(
        self, source: SourceFile, name: str, to: str | os.PathLike[str] | None, progress: Progress | None
    ) -> Receipt:
        name = name or f"image.{source.extension or 'bin'}"
        with _reporting(progress) as feedback:
            if to is None:
                stored, node = await self.session.store(source, name, feedback=feedback)
                return Receipt(stored, source.size, node, None)
            saved = await self.session.seal_source(source, name, to=Path(to), feedback=feedback)
            return Receipt(saved.name, source.size, saved.node, saved.path)

    @overload
    async def download(
        self, name: str, to: None = None, *, force: bool = False, progress: Progress | None = None
    ) -> bytes: ...

    @overload
    async def download(
        self, name: str, to: str | Path, *, force: bool = False, progress: Progress | None = None
    ) -> Path: ...

    @overload
    async def download(
        self, name: str, to: str | Path | None, *, force: bool = False, progress: Progress | None = None
    ) -> bytes | Path: ...

    async def download(
        self, name: str, to: str | Path | None = None, *, force: bool = False, progress: Progress | None = None
    ) -> bytes | Path:
        """Decrypt an image of the vault.

        Args:
            name: The image's name, or its original name if only one image has that.
            to: A directory that exists: the file gets its original name and time there. Any other path: the file to
                make. Not given: the bytes are returned.
            force: Replace a file that is there.
            progress: Called while bytes travel.

        Returns:
            The image's bytes, or the path of the file.

        Raises:
            NoSuchImage: No image, or more than one, has this name.
            CannotWrite: The file cannot be written, or is there already (OutputExists).
            ClusterUnavailable: No node answered in time.
            Refusal: The cluster refused it.
        """
        image = await self.session.images.one(name)
        with _reporting(progress) as feedback:
            if to is None:
                sink = Memory()
                await self.session.images.fetch(image, sink, sealed=False, progress=feedback.progress)
                return sink.content()
            if await asyncio.to_thread(os.path.isdir, to):
                done = await self.session.fetch(image, to=Path(to), force=force, progress=feedback.progress)
                return done.path
            return await self.session.download_to(image, Path(to), force=force, progress=feedback.progress)

    async def open(self, name: str) -> AsyncImageFile:
        """An image of the vault as a file to read from, by ranges: only what is read is transferred.

        Args:
            name: The image's name, or its original name if only one image has that.

        Raises:
            NoSuchImage: No image, or more than one, has this name.
        """
        return AsyncImageFile(self.session, await self.session.images.one(name))

    async def list(self, pattern: str | None = None) -> AsyncIterator[Image]:
        """The user's images, newest first, in constant memory.

        Args:
            pattern: Only those whose name or original name is this, or matches it (`*.png`).
        """
        async for page in self._pages(pattern):
            for image in page:
                yield image

    async def _pages(self, pattern: str | None) -> AsyncGenerator[Sequence[Image]]:
        async for page in self.session.images.listed(pattern):
            yield [Image._of(kept) for kept in page]

    async def info(self, name: str) -> Image:
        """What the vault knows of one image.

        Args:
            name: The image's name, or its original name if only one image has that.

        Raises:
            NoSuchImage: No image, or more than one, has this name.
        """
        return Image._of(await self.session.images.one(name))

    async def remove(self, name: str) -> None:
        """Remove one image from the vault, permanently.

        Args:
            name: The image's name, or its original name if only one image has that.

        Raises:
            NoSuchImage: No image, or more than one, has this name; nothing was removed.
        """
        image = await self.session.images.one(name)
        await self.session.remove(image.name, feedback=NullFeedback())

    @overload
    async def decrypt(
        self, sealed: Content, to: None = None, *, force: bool = False, progress: Progress | None = None
    ) -> bytes: ...

    @overload
    async def decrypt(
        self, sealed: Content, to: str | Path, *, force: bool = False, progress: Progress | None = None
    ) -> Path: ...

    @overload
    async def decrypt(
        self, sealed: Content, to: str | Path | None, *, force: bool = False, progress: Progress | None = None
    ) -> bytes | Path: ...

    async def decrypt(
        self, sealed: Content, to: str | Path | None = None, *, force: bool = False, progress: Progress | None = None
    ) -> bytes | Path:
        """Decrypt a sealed file, such as the local copy that `upload` made.

        Args:
            sealed: The sealed file.
            to: A directory that exists, or the file to make. Not given: the bytes are returned.
            force: Replace the file `to` if it exists.
            progress: Called while bytes travel.

        Returns:
            The image's bytes, or the path of the new file.

        Raises:
            CannotOpen: This is not a sealed file.
            Refusal: The file is damaged, or of another user or cluster; `problem` is `CANNOT_OPEN`.
        """
        with await self._source(sealed, any_type=True, sealed=True) as source:
            return await self._decrypt(source, _name_of(sealed), to, force, progress)

    async def _decrypt(
        self,
        source: SourceFile,
        name: str,
        to: str | os.PathLike[str] | None,
        force: bool,
        progress: Progress | None,
    ) -> bytes | Path:
        with _reporting(progress) as feedback:
            if to is None:
                sink = Memory()
                await self.session.open_source(source, sink, feedback=feedback)
                return sink.content()
            if await asyncio.to_thread(os.path.isdir, to):
                return (await self.session.open_file(source, name or "image", to=Path(to), feedback=feedback)).path
            return await self.session.decrypt_to(source, Path(to), force=force, feedback=feedback)

    async def status(self) -> ClusterStatus:
        """Every node, and which one leads. A node that does not answer is in it, with the reason."""
        found = await survey(self._config)
        return ClusterStatus(leader_of(found), tuple(NodeStatus._of(each) for each in found))

    async def _source(
        self, content: Content, *, any_type: bool, name: str | None = None, sealed: bool = False
    ) -> SourceFile:
        opening = asyncio.ensure_future(
            asyncio.to_thread(self._open, content, any_type=any_type, name=name, sealed=sealed)
        )
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close)
            raise

    def _open(self, content: Content, *, any_type: bool, name: str | None = None, sealed: bool = False) -> SourceFile:
        limit = (1 << 63) - 2 if sealed else self._config.max_image_size
        if isinstance(content, str | os.PathLike):
            return source_file.open_image(os.fspath(content), any_type=any_type, max_size=limit)
        called = name or _name_of(content) or "these bytes"
        if not isinstance(content, bytes | bytearray | memoryview) and not hasattr(content, "read"):
            raise TypeError(f"expected a path, bytes or a binary file object, not {type(content).__name__}")
        data = bytes(content) if isinstance(content, bytearray | memoryview) else content
        return source_file.spool(data, called, any_type=any_type, max_size=limit, sealed=sealed)


class AsyncImageFile:
    """An image of the vault, read by ranges (RFC 9110, section 14), through any node. It holds no connection.

    Attributes:
        image: The image.
    """

    def __init__(self, session: Session, kept: Kept) -> None:
        self._session, self._kept = session, kept
        self.image = Image._of(kept)
        self._at, self._etag = 0, ""
        self._reading = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.image.name} at {self._at} of {self.image.size}>"

    async def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, or all that are left; empty at the end.

        Raises:
            NoSuchImage: The image was removed.
            ClusterUnavailable: No node answered in time.
        """
        return await self.read_through(self._session, size)

    async def read_through(self, session: Session, size: int) -> bytes:
        """Internal: `read`, with a session that may be newer than this file's."""
        async with self._reading:
            left = max(self.image.size - self._at, 0)
            size = left if size is None or size < 0 else min(size, left)
            if not size:
                return b""
            start, end = self._at, self._at + size
            data, self._etag = await session.images.read(self._kept, start, end, self._etag)
            self._at = end
            return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, as `io.IOBase.seek`. Returns the new position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.image.size}
        if whence not in base:
            raise ValueError(f"whence must be 0, 1 or 2, not {whence}")
        if base[whence] + offset < 0:
            raise ValueError(f"cannot seek to {base[whence] + offset}: that is before the first byte")
        self._at = base[whence] + offset
        return self._at

    def tell(self) -> int:
        """The position, in bytes."""
        return self._at


class _CallbackFailed(Exception):
    """A progress callback raised: not to be confused with what a request raises, whatever it was."""


class _Feedback(NullFeedback):
    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self.error: BaseException | None = None

    def progress(self, done: int, total: int) -> None:
        if self._progress is not None:
            try:
                self._progress(done, total)
            except BaseException as error:
                self.error = error
                raise _CallbackFailed from None


@contextmanager
def _reporting(progress: Progress | None) -> Iterator[_Feedback]:
    """Raises what the callback raises."""
    feedback = _Feedback(progress)
    try:
        yield feedback
    except _CallbackFailed:
        assert feedback.error is not None
        raise feedback.error from None


def _close(opening: asyncio.Future[SourceFile]) -> None:
    """Close a file that was opened for a call that has been cancelled meanwhile."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _name_of(content: Content) -> str:
    """The file name of what has one; else empty."""
    path = content if isinstance(content, str | os.PathLike) else getattr(content, "name", None)
    return os.path.basename(path) if isinstance(path, str | os.PathLike) else ""
