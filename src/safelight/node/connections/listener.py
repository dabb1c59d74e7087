"""Accepts connections, and continues when the process runs out of file descriptors.

The servers of asyncio and uvloop do not know a connection before its TLS handshake has ended, and stop accepting, for a
while or permanently, when accept(2) fails. Here a connection counts from its start, and when accept(2) finds no free
descriptor, an idle connection is closed.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from typing import Any

from safelight.node.connections.eviction import FIRST_HEAD, ConnectionTable
from safelight.node.connections.http_connection import HttpConnection
from safelight.runtime.descriptors import NONE_LEFT
from safelight.runtime.http import web

BACKLOG = 1024
"""Connections that the operating system queues while this process is busy."""

AT_ONCE = 32
"""Connections that are accepted before other work continues; so many descriptors may be in use beyond the bound."""

PAUSE = 0.1
"""Seconds without accepting after accept(2) found no free descriptor, or no memory."""

TICK = 1.0

_EXHAUSTED = NONE_LEFT | {errno.ENOBUFS, errno.ENOMEM}


class Listener:
    """One node's listening socket."""

    def __init__(
        self,
        listener: socket.socket,
        tls: ssl.SSLContext | None,
        server: web.Server,
        node: int,
        connections: ConnectionTable,
    ) -> None:
        self._socket, self._tls, self._server, self._node = listener, tls, server, node
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._socket.setblocking(False)
        self._socket.listen(BACKLOG)
        self._loop.add_reader(self._socket, self._accept)
        self._ticking = asyncio.create_task(self._tick())

    def close(self) -> None:
        """Accept no more. Open connections continue."""
        self._ticking.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()
        for opening in self._opening:
            opening.cancel()

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                accepted, address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._connections.out_of_descriptors()
                    self._pause()
                    return
                continue  # that connection has ended already (accept(2))
            accepted.setblocking(False)
            task = self._loop.create_task(self._open(accepted, address[0]))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _pause(self) -> None:
        """Let the loop do other work: the socket stays readable, and would wake it again at once."""
        self._loop.remove_reader(self._socket)
        self._timer = self._loop.call_later(PAUSE, self._loop.add_reader, self._socket, self._accept)

    async def _open(self, accepted: socket.socket, address: str) -> None:
        """Create the connection, with a TLS handshake. Until that ends, closing it cancels this task."""
        connection: HttpConnection | None = None
        task = asyncio.current_task()
        assert task is not None

        def close() -> None:
            if connection is None or not connection.abort():
                task.cancel()

        def made() -> HttpConnection:
            nonlocal connection
            connection = HttpConnection(self._server, self._node, entry)
            return connection

        entry = self._connections.opened(address, close)
        try:
            handshake: dict[str, Any] = (
                {} if self._tls is None else {"ssl": self._tls, "ssl_handshake_timeout": FIRST_HEAD}
            )
            await self._loop.connect_accepted_socket(made, accepted, **handshake)
        except (OSError, asyncio.CancelledError):  # the handshake failed or timed out, or it was evicted
            self._connections.closed(entry)
            accepted.close()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._connections.tick()
