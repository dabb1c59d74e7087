"""Connections to servers: each is checked to lead to the client's cluster before a request is sent over it.

An address is not enough: while a node is down, any program may listen there. So every new connection is checked. A
hostile program can pass the check; only TLS proves a node's identity.
"""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

from safelight.decoding import Malformed, decode
from safelight.runtime.http import HttpProcessingError, aiohttp
from safelight.runtime.network_errors import WrongCluster
from safelight.wire.messages import API, MAX_JSON, ClusterInfo

Place = tuple[str, int]
"""A host and a port."""

LONG = 0.5
"""Seconds without a connection after which a server counts as unreachable."""

_used: ContextVar[aiohttp.client_proto.ResponseHandler | None] = ContextVar("_used", default=None)
"""The connection of a task's last request."""


class Connector(aiohttp.TCPConnector):
    """aiohttp's connection pool, with this check."""

    def __init__(self, cluster: str | None, **options: Any) -> None:
        """`cluster`: the id to require; None: not known yet. `options` are aiohttp's."""
        super().__init__(**options)
        self.cluster = cluster
        self._reached: dict[Place, bool] = {}
        self._attempts: dict[Place, set[float]] = {}
        """When each unfinished attempt to connect started, in seconds of time.monotonic()."""
        self._said: WeakKeyDictionary[aiohttp.client_proto.ResponseHandler, str] = WeakKeyDictionary()
        """The cluster that each connection leads to."""

    def abandon(self) -> None:
        """After a fork: the connections are the parent's, and their event loop does not run here."""
        self._closed = True

    def reaches(self, place: Place) -> bool:
        """Whether a place is reachable: the last attempt connected, and none has been pending for long."""
        long_ago = time.monotonic() - LONG
        return self._reached.get(place, False) and not any(at <= long_ago for at in self._attempts.get(place, ()))

    def note(self, cluster: str) -> None:
        """Record the answer to this task's last request, a GET /v1/cluster: its connection needs no other check."""
        if (connection := _used.get()) is not None:
            self._said[connection] = cluster

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 — aiohttp's signature
    ) -> aiohttp.connector.Connection:
        """As aiohttp's. Raises WrongCluster."""
        place, begun = ((req.url.host or "").lower(), req.url.port or 0), time.monotonic()
        attempts = self._attempts.setdefault(place, set())
        attempts.add(begun)
        try:
            connection = await super().connect(req, traces, timeout)
            self._reached[place] = True
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError) or time.monotonic() - begun >= LONG:
                self._reached[place] = False
            raise
        finally:
            attempts.discard(begun)
        protocol = connection.protocol
        _used.set(protocol)
        if self.cluster is None or protocol is None:
            return connection
        try:
            if protocol not in self._said:
                self._said[protocol] = await _ask(connection, protocol, req.headers["Host"])
            if self._said[protocol] != self.cluster:
                raise WrongCluster("a node of another cluster answers there")
        except BaseException:
            connection.close()
            raise
        return connection


async def _ask(
    connection: aiohttp.connector.Connection, protocol: aiohttp.client_proto.ResponseHandler, host: str
) -> str:
    """The cluster's id, by GET /v1/cluster over this very connection. Raises WrongCluster, and aiohttp's errors."""
    if connection.transport is None:
        raise aiohttp.ServerDisconnectedError
    connection.transport.write(f"GET {API}/cluster HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    protocol.set_response_params(auto_decompress=False)
    try:
        message, body = await protocol.read()
        answer = decode(await _whole(body), ClusterInfo) if message.code == 200 else None
    except (HttpProcessingError, Malformed):
        answer = None
    if answer is None or protocol.should_close:
        raise WrongCluster("what answers there is not a Safelight node")
    return answer.cluster


async def _whole(body: aiohttp.StreamReader) -> bytes:
    """All of the body; nothing if it is longer than any message."""
    data = bytearray()
    while chunk := await body.readany():
        data += chunk
        if len(data) > MAX_JSON:
            return b""
    return bytes(data)
