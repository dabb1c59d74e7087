"""Connections to servers: nothing is sent over one before its other end has said that it is of the client's cluster.

A server's address is not enough: while a node is down, anybody may listen there. So the check belongs to the
connection, and a new connection is checked again. What listens may lie: only TLS proves who it is.
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
"""Seconds after which a connection that does not come about is not expected to."""

_used: ContextVar[aiohttp.client_proto.ResponseHandler | None] = ContextVar("_used", default=None)
"""The connection of a task's last request."""


class Connector(aiohttp.TCPConnector):
    """aiohttp's connector, which keeps connections in a pool, with this check."""

    def __init__(self, cluster: str | None, **options: Any) -> None:
        """`cluster`: the id to insist on; None: it is not known yet. `options` are aiohttp's."""
        super().__init__(**options)
        self.cluster = cluster
        self._reached: dict[Place, bool] = {}
        self._attempts: dict[Place, set[float]] = {}
        """When those attempts to connect began that have not ended, in seconds of time.monotonic()."""
        self._said: WeakKeyDictionary[aiohttp.client_proto.ResponseHandler, str] = WeakKeyDictionary()
        """By connection: the cluster that its other end is of."""

    def reaches(self, place: Place) -> bool:
        """Whether connections to a place come about: the last one did, and none has been on its way for long."""
        long_ago = time.monotonic() - LONG
        return self._reached.get(place, False) and not any(at <= long_ago for at in self._attempts.get(place, ()))

    def note(self, cluster: str) -> None:
        """This task's last request was a GET /v1/cluster, and this the answer: its connection needs no other check."""
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
