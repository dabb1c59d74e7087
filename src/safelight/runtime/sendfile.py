"""A file's bytes into a connection without passing through this process: sendfile(2), a step at a time.

A step is made in a thread, as the file may be on a slow disk, and takes as much as the socket takes at once; then the
event loop waits until the socket takes more. The bytes that the other side has yet to take (TIOCOUTQ, tcp(7)) show
whether it still reads: a socket that holds megabytes may be full for long although its reader is only slow.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import struct
import termios
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TypeVar

from safelight.runtime.tasks import shielded

STEP = 1 << 20
"""Bytes of a step at most."""

LITTLE = 1 << 16
"""Bytes of a step where the file's own system has no sendfile."""

_NO_SENDFILE = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}

LOOK = 0.25
"""Seconds between two checks of whether the other side still reads from a full socket."""

_T = TypeVar("_T")


class FileBody:
    """A file to send, to be opened and closed.

    `close` does not wait: a thread that uses the file ends first.
    """

    def __init__(self, opener: Callable[[], int], threads: Executor | None = None) -> None:
        """`opener` returns a descriptor, which this object closes. `threads` do the work, or the event loop's."""
        self._opener = opener
        self._descriptor = -1
        self._over = False
        self._lock = threading.Lock()
        self.threads = threads
        self.watched: Callable[[bool], AbstractContextManager[None]] = lambda little: nullcontext()
        """The context of each call of the file; its argument is whether the call reads only little. It may replace the
        call's exception.
        """

    async def open(self) -> None:
        """Raises what `opener` raises."""
        with self.watched(True):
            await asyncio.get_running_loop().run_in_executor(self.threads, self._open)

    def _open(self) -> None:
        with self._lock:
            if not self._over:
                self._descriptor = self._opener()

    async def beginning(self, count: int) -> tuple[int, bytes]:
        """How many bytes the file has, and its first `count`. Raises OSError."""
        with self.watched(True):
            return await self._do(lambda descriptor: (os.fstat(descriptor).st_size, os.pread(descriptor, count, 0)))

    async def chunks(self, start: int, end: int) -> AsyncGenerator[bytes]:
        """Its bytes from `start` up to `end`, fewer if it is shorter. Raises OSError."""
        while True:
            with self.watched(False):
                chunk = await self._do(_reading(min(STEP, end - start), start))
            if not chunk:
                return
            yield chunk
            start += len(chunk)

    async def _do(self, work: Callable[[int], _T]) -> _T:
        def locked() -> _T:
            with self._lock:
                return work(self._descriptor)

        return await asyncio.get_running_loop().run_in_executor(self.threads, locked)

    def step(self, connection: int, offset: int, count: int) -> int:
        """How many bytes went. Raises BlockingIOError if the socket is full, and OSError."""
        with self._lock:
            try:
                return os.sendfile(connection, self._descriptor, offset, count)
            except OSError as error:
                if error.errno not in _NO_SENDFILE:
                    raise
            return os.write(connection, os.pread(self._descriptor, min(count, LITTLE), offset))

    def close(self) -> None:
        asyncio.get_running_loop().run_in_executor(self.threads, self._close)

    def _close(self) -> None:
        with self._lock:
            self._over = True
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1


def _reading(count: int, offset: int) -> Callable[[int], bytes]:
    return lambda descriptor: os.pread(descriptor, count, offset)


def can_sendfile(transport: asyncio.BaseTransport | None) -> bool:
    """Whether sendfile(2) is possible: not with TLS, which has to encrypt the bytes."""
    return transport is not None and transport.get_extra_info("sslcontext") is None and hasattr(os, "sendfile")


def unacknowledged_bytes(transport: asyncio.WriteTransport | None) -> int:
    """Bytes of what was written that the other side has yet to take: in the transport, and in the socket."""
    if transport is None or transport.is_closing():
        return 0
    return transport.get_write_buffer_size() + _queued(transport.get_extra_info("socket").fileno())


def _queued(connection: int) -> int:
    """Bytes in a socket that the other side has yet to take; 0 where the system does not say."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0])
    except OSError:
        return 0


async def sendfile(
    transport: asyncio.WriteTransport,
    file: FileBody,
    start: int,
    end: int,
    *,
    stall_timeout: float,
    moved: Callable[[int], None] = lambda done: None,
    taken: Callable[[float, int], None] = lambda waited, count: None,
) -> None:
    """Send the file's bytes from `start` up to `end`, after what was written to the transport before.

    `moved` is called with the position whenever bytes have moved, by us or out of the socket. `taken` hears, every
    `LOOK` while the socket is full, for how many seconds that was so, and how many bytes the other side took in them;
    it may raise.
    Raises TimeoutError if none move for `stall_timeout` seconds, EOFError if the file is shorter, OSError, and what
    `file.watched` raises. Nobody else may write meanwhile.
    """
    loop = asyncio.get_running_loop()
    connection = _Socket(os.dup(transport.get_extra_info("socket").fileno()))

    async def room() -> None:
        await connection.takes_more(stall_timeout, lambda: moved(start), taken)

    try:
        while transport.get_write_buffer_size():
            await room()
            await asyncio.sleep(0)  # it takes from the transport first
        while start < end:
            stepping = loop.run_in_executor(file.threads, connection.step, file, start, min(STEP, end - start))
            try:
                with file.watched(False):
                    sent = await shielded(stepping)
            except BlockingIOError:
                await room()
                continue
            if sent == 0:
                raise EOFError("the file is shorter")
            start += sent
            moved(start)
    finally:
        connection.close(file.threads)


class _Socket:
    """A connection's socket, under another descriptor: the transport may close its own at any time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def step(self, file: FileBody, offset: int, count: int) -> int:
        with self._lock:
            return file.step(self._descriptor, offset, count)

    async def takes_more(
        self, stall_timeout: float, moved: Callable[[], None], taken: Callable[[float, int], None]
    ) -> None:
        """Return when there is room. Raises TimeoutError if nothing is taken for `stall_timeout` seconds."""
        loop, room = asyncio.get_running_loop(), asyncio.Event()
        left, last = _queued(self._descriptor), time.monotonic()
        looked = last
        loop.add_writer(self._descriptor, room.set)
        try:
            while not room.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(LOOK, stall_timeout)):
                        await room.wait()
                before, left = left, _queued(self._descriptor)
                since, looked = looked, time.monotonic()
                taken(looked - since, max(0, before - left))
                if left != before:
                    last = looked
                    moved()
                elif not room.is_set() and looked - last >= stall_timeout:
                    raise TimeoutError
        finally:
            loop.remove_writer(self._descriptor)

    def close(self, threads: Executor | None) -> None:
        asyncio.get_running_loop().run_in_executor(threads, self._close)

    def _close(self) -> None:
        with self._lock:
            os.close(self._descriptor)
            self._descriptor = -1
