"""One connection from a client: HTTP as aiohttp reads it, and our answer to what is not HTTP.

aiohttp answers a malformed request with the offending bytes, and logs them with a traceback. They may be a token
or a ticket, and anybody can send them as often as they like: so we answer with a problem document that
repeats none of it, and log nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import cast

from safelight.http import LineTooLong, web
from safelight.node.connections import Entry
from safelight.protocol import PROBLEM_TYPE, Problem, Refusal, problem_body

MAX_HEADER = 8190
"""Bytes of the request line, and of each header: aiohttp's default, and what Apache and nginx allow."""

MAX_HEADERS = 128

READ_BUFFER = 1 << 18
"""Bytes that aiohttp buffers of a body before it stops reading the socket."""

KEEPALIVE = 75.0
"""Seconds that a connection may be idle, and that the head of a request may take: longer than clients keep theirs. Its
first request has less: `connections.FIRST_HEAD`."""

USER = web.RequestKey("user", str)
"""Whose request it is, once that is proved."""

TOKEN_OF = web.RequestKey("token", str)
"""The fingerprint of the token that proved it; missing where a ticket did."""

_UNKNOWN_CODING = "Request has invalid `Transfer-Encoding`"
"""What the parser says where the last transfer coding is not chunked. It leaves codings before that one to us."""

log = logging.getLogger(__name__)


class Connection(web.RequestHandler):
    """One connection of a node; `server` keeps count of them."""

    __slots__ = ("_allowance", "_node", "_wire", "entry")

    def __init__(self, server: web.Server, node: int, entry: Entry) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # aiohttp allows None; addresses may hold tickets
            auto_decompress=False,  # bodies travel as they are; and no zip bombs
            keepalive_timeout=KEEPALIVE,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
            max_headers=MAX_HEADERS,
            read_bufsize=READ_BUFFER,
        )
        self._node = node
        self._allowance: int | None = None
        self._wire: asyncio.Transport | None = None  # as long as there is one: aiohttp forgets it before it is closed
        self.entry = entry

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast(asyncio.Transport, transport)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._wire = None
        self.entry.closed()
        super().connection_lost(exc)

    def abort(self) -> bool:
        """Break it off, now. False if there is nothing to break off: it is not made yet, or lost."""
        if self._wire is None:
            return False
        with suppress(OSError), socket.socket(fileno=os.dup(self._wire.get_extra_info("socket").fileno())) as its:
            its.shutdown(socket.SHUT_RDWR)  # for those as well who send by a descriptor of their own, as `pour` does
        self._wire.abort()
        return True

    def allow(self, size: int | None) -> None:
        """Take so many more bytes of this connection, and leave those that follow in the socket; None: take all."""
        self._allowance = size
        transport = self.transport
        if size is not None or transport is None or transport.is_closing() or self._reading_paused:
            return
        if not transport.is_reading():
            transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._allowance is not None:
            self._allowance -= len(data)
            transport = self.transport
            if self._allowance <= 0 and transport is not None and not transport.is_closing() and transport.is_reading():
                transport.pause_reading()
        super().data_received(data)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What aiohttp calls for a request that it cannot read, and for an exception that nobody caught."""
        if request.writer.output_size > 0 or isinstance(exc, ConnectionError):
            raise ConnectionError("it is too late for an answer")
        if status >= 500:
            log.error("Node %d failed", self._node, exc_info=exc)
            refusal = Refusal(Problem.INTERNAL, f"node {self._node} failed: see its log", node=self._node)
        elif message is not None and message.startswith(_UNKNOWN_CODING):
            detail = "the only transfer coding known here is chunked"
            refusal = Refusal(Problem.UNKNOWN_CODING, detail, node=self._node)
        elif isinstance(exc, LineTooLong):
            detail = f"a line of the request is longer than {MAX_HEADER} bytes: shorten the address or the header"
            refusal = Refusal(Problem.BAD_REQUEST, detail, node=self._node)
        else:
            detail = f"this is not HTTP/1.1: check the address, the headers (at most {MAX_HEADERS}) and the lengths"
            refusal = Refusal(Problem.BAD_REQUEST, detail, node=self._node)
        response = web.Response(status=refusal.problem.status, body=problem_body(refusal), content_type=PROBLEM_TYPE)
        response.force_close()
        return response


def _entry(request: web.Request) -> Entry:
    """The connection that a request came on."""
    assert isinstance(request.protocol, Connection)
    return request.protocol.entry


def address_of(request: web.Request) -> str:
    """Where a request comes from: its IPv4 address, or the network of its IPv6 address."""
    return _entry(request).address


@contextmanager
def serving(request: web.Request) -> Iterator[None]:
    """Its connection has a request in work: not the first to be closed."""
    entry = _entry(request)
    entry.began()
    try:
        yield
    finally:
        entry.ended()


@contextmanager
def waiting(request: web.Request) -> Iterator[None]:
    """A request that is being served waits for what comes next on its connection, which may be closed meanwhile."""
    entry = _entry(request)
    entry.ended()
    try:
        yield
    finally:
        entry.began()


def proved(request: web.Request, user: str) -> None:
    """The request is this user's: its connection is no stranger's any more."""
    request[USER] = user
    _entry(request).belongs_to(user)


def proved_peer(request: web.Request) -> None:
    """A node of the cluster is at the other end of its connection."""
    _entry(request).is_a_peers()
