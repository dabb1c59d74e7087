"""One connection from a client: HTTP as aiohttp parses it, within bounds, and the response to what is not HTTP.

The bounds are those that aiohttp lacks: the time that one connection parses at a stretch, the size of a head, and the
overhead of a chunked body. aiohttp responds to a malformed request with its bytes, and logs them with a traceback. They
may be a token or a ticket, and any client can send them in any number: here a problem document repeats none of them,
and nothing is logged. After such a response, what still arrives is discarded for a while (`_linger`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

from safelight.node.connections.eviction import TrackedConnection
from safelight.runtime.http import LineTooLong, StreamReader, web
from safelight.wire.messages import PROBLEM_TYPE, Problem, Refusal, problem_body

MAX_HEADER = 8190
"""Bytes of the request line, and of each header: aiohttp's default, and what Apache and nginx allow."""

MAX_HEADERS = 128

MAX_HEAD = 32 << 10
"""Bytes of a request's head, all lines together: it is in memory before the request is authenticated."""

MAX_FRAMING = 16 << 10
"""Bytes of a chunked body beside its payload, beyond an eighth of that: chunks of a few bytes cost much work."""

SLICE = 4 << 10
"""Bytes that are parsed between two checks of the clock; a body with a Content-Length is copied, not parsed."""

FRAMES = 1 << 10
"""The same for a WebSocket: each ping, a frame of a few bytes, gets a response."""

TURN = 0.001
"""Seconds that one connection parses before the others continue."""

LINGER = 2.0
"""Seconds for which input after a refused request is discarded, so that its client can read the response: a reset
would reach it first (RFC 9112, 9.6)."""

MAX_DISCARDED = 4 << 20
"""Bytes of that; more waits in the socket until it is closed."""

READ_BUFFER = 1 << 18
"""Bytes that aiohttp buffers of a body before it stops reading the socket."""

KEEPALIVE = 75.0
"""Seconds that a connection may be idle, and that the head of a request may take: longer than clients keep idle
connections. The first request has less: `eviction.FIRST_HEAD`."""

USER = web.RequestKey("user", str)
"""The user, once the request is authenticated."""

TOKEN_OF = web.RequestKey("token", str)
"""The fingerprint of the token that authenticated it; missing if a ticket did."""

_UNKNOWN_CODING = "Request has invalid `Transfer-Encoding`"
"""The parser's message if the last transfer coding is not chunked. It does not check those before."""

logger = logging.getLogger(__name__)


class HttpConnection(web.RequestHandler):
    """One connection of a node; `server` counts them."""

    __slots__ = (
        "_allowance",
        "_answered",
        "_backlog",
        "_body",
        "_body_wire",
        "_broken",
        "_discards",
        "_gone",
        "_head",
        "_node",
        "_too_long",
        "_turn",
        "_wire",
        "entry",
    )

    def __init__(self, server: web.Server, node: int, entry: TrackedConnection) -> None:
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
        self._backlog = b""  # received, and not parsed yet
        self._turn: asyncio.Handle | None = None
        self._head = 0  # bytes since the last head, or the body after it, ended
        self._body: tuple[StreamReader, int | None] | None = None  # in progress; its length, if it is announced
        self._body_wire = 0
        self._answered: StreamReader | None = None  # the body of the request with the current response
        self._broken = self._too_long = False  # no more requests can be parsed; because of the length of a head
        self._discards = False  # input is discarded
        self._gone = asyncio.Event()
        self._wire: asyncio.Transport | None = None  # until it is closed: aiohttp drops its own earlier
        self.entry = entry

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast(asyncio.Transport, transport)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._wire = None
        self._backlog = b""
        self._gone.set()
        self.entry.closed()
        super().connection_lost(exc)

    def abort(self) -> bool:
        """Close the connection at once. False if it is not established yet, or closed."""
        if self._wire is None:
            return False
        with suppress(OSError), socket.socket(fileno=os.dup(self._wire.get_extra_info("socket").fileno())) as its:
            its.shutdown(socket.SHUT_RDWR)  # also for a sender with a descriptor of its own, such as `sendfile`
        self._wire.abort()
        return True

    def allow(self, size: int | None) -> None:
        """Read so many more bytes of this connection, and leave the rest in the socket; None: read all."""
        self._allowance = size
        if size is None:
            self._continue()

    def data_received(self, data: bytes) -> None:
        if self._allowance is not None:
            self._allowance -= len(data)
            if self._allowance <= 0:
                self._pause_transport_reading()
        if self._discards:
            return
        if not data:  # aiohttp continues with its own buffer
            self._parse(data)
            return
        self._backlog += data
        if self._turn is None:
            self._take_turn()

    def set_parser(self, *args: Any, **kwargs: Any) -> None:
        """What aiohttp calls when the connection becomes a WebSocket."""
        super().set_parser(*args, **kwargs)
        self._continue()

    def _resume_transport_reading(self) -> None:
        """What aiohttp calls when its buffer has space again."""
        if self._backlog:
            self._schedule()
        elif self._allowance is None or self._allowance > 0:
            super()._resume_transport_reading()

    def _continue(self) -> None:
        if not self._held():
            self._resume_transport_reading()

    def _held(self) -> bool:
        """Whether aiohttp takes no input now: its buffer is full, or it responds to a request to upgrade."""
        return self._reading_paused or self._buffer_paused or (self._upgraded and self._payload_parser is None)

    def _schedule(self) -> None:
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._take_turn)

    def _take_turn(self) -> None:
        """Parse the backlog, for at most `TURN`."""
        self._turn = None
        data, done, ends = self._backlog, 0, time.monotonic() + TURN
        self._backlog = b""
        while done < len(data) and not self._held():
            size = self._slice()
            self._parse(data[done : done + size])
            done += size
            if self._wire is None or self._discards:
                return
            if self._payload_parser is not None or time.monotonic() >= ends:
                break
        self._backlog = data[done:]
        transport = self.transport
        if self._backlog:
            self._pause_transport_reading()
            if not self._held():
                self._schedule()
        elif transport is not None and not transport.is_closing() and not transport.is_reading():
            self._continue()

    def _slice(self) -> int:
        """How many bytes to parse next."""
        if self._payload_parser is not None:
            return FRAMES
        if self._body is None:
            return SLICE
        payload, length = self._body
        return SLICE if length is None else max(SLICE, length - payload.total_bytes)

    def _parse(self, data: bytes) -> None:
        """Let aiohttp parse the data, within the bounds."""
        if self._broken:
            return
        before, in_body = self._request_count, self._body is not None
        super().data_received(data)
        if self._wire is None:
            return
        if self._upgraded:
            self._head, self._body = 0, None
        elif self._request_count != before:
            self._head_parsed(*self._messages[-1])
        elif self._body is not None:
            self._body_wire += len(data)
            self._check_framing(*self._body)
        elif not in_body:
            self._head += len(data)
            if self._head > MAX_HEAD:
                self._too_long = self._broken = True
                super().data_received(b"\0")  # invalid in a head: the parser refuses it, after the requests before
        if self._body is not None and self._body[0].is_eof():
            self._body = None

    def _head_parsed(self, message: Any, payload: StreamReader) -> None:
        """A head is complete, or is malformed: then aiohttp has another kind of message."""
        self._head = self._body_wire = 0
        self._broken = not hasattr(message, "chunked")
        length = None if self._broken or message.chunked else message.headers.get("Content-Length")
        self._body = (payload, None if length is None else int(length))

    def _check_framing(self, payload: StreamReader, length: int | None) -> None:
        came = payload.total_bytes
        if length is not None or self._body_wire - came <= MAX_FRAMING + came // 8:
            return
        if payload is self._answered:
            self.abort()
            return
        self._discards = True
        payload.set_exception(Refusal(Problem.BAD_REQUEST, "the body has chunks of a few bytes: send larger chunks"))

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """What aiohttp calls to send a response. It is the last one if the request is not authenticated and its body is
        incomplete, or is not HTTP: then reading on is useless work.
        """
        self._discards |= USER not in request and not request.content.is_eof()
        if not self._discards:
            before, self._answered = self._request_count, request.content
            finished = await super().finish_response(request, resp, start_time)
            if self._request_count != before and self._messages:  # it parses the input after a refused upgrade
                self._head_parsed(*self._messages[-1])
            self._continue()
            return finished
        self._lingering_time = 0.0  # that of aiohttp, which would parse the input
        if not resp.prepared:
            resp.force_close()
        finished = await super().finish_response(request, resp, start_time)
        await self._linger()
        return finished

    async def _linger(self) -> None:
        """Discard input, for a while."""
        self._backlog, self._allowance, transport = b"", MAX_DISCARDED, self.transport
        if transport is None or transport.is_closing():
            return
        super()._resume_transport_reading()
        if transport.can_write_eof():
            transport.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                await self._gone.wait()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What aiohttp calls for a malformed request, and for an exception that no handler caught."""
        if request.writer.output_size > 0 or isinstance(exc, ConnectionError):
            raise ConnectionError("it is too late for a response")
        if status >= 500:
            logger.error("Node %d failed", self._node, exc_info=exc)
            refusal = Refusal(Problem.INTERNAL, "the node failed: see its log", node=self._node)
        elif message is not None and message.startswith(_UNKNOWN_CODING):
            detail = "the only supported transfer coding is chunked"
            refusal = Refusal(Problem.UNKNOWN_CODING, detail, node=self._node)
        elif isinstance(exc, LineTooLong):
            detail = f"a line of the request is longer than {MAX_HEADER} bytes: shorten the address or the header"
            refusal = Refusal(Problem.BAD_REQUEST, detail, node=self._node)
        elif self._too_long:
            detail = (
                f"the headers of the request are longer than {MAX_HEAD} bytes together: send fewer, or shorter ones"
            )
            refusal = Refusal(Problem.BAD_REQUEST, detail, node=self._node)
        else:
            detail = f"this is not HTTP/1.1: check the address, the headers (at most {MAX_HEADERS}) and the lengths"
            refusal = Refusal(Problem.BAD_REQUEST, detail, node=self._node)
        self._discards |= status < 500
        response = web.Response(status=refusal.problem.status, body=problem_body(refusal), content_type=PROBLEM_TYPE)
        response.force_close()
        return response


def _entry(request: web.Request) -> TrackedConnection:
    """The connection of a request."""
    assert isinstance(request.protocol, HttpConnection)
    return request.protocol.entry


def address_of(request: web.Request) -> str:
    """The source of a request: its IPv4 address, or the network of its IPv6 address."""
    return _entry(request).address


@contextmanager
def serving(request: web.Request) -> Iterator[None]:
    """Mark the connection as busy, so that it is not the first to be evicted."""
    entry = _entry(request)
    entry.began()
    try:
        yield
    finally:
        entry.ended()


@contextmanager
def waiting(request: web.Request) -> Iterator[None]:
    """Mark the connection of an active request as idle while the request waits for input."""
    entry = _entry(request)
    entry.ended()
    try:
        yield
    finally:
        entry.began()


def authenticated(request: web.Request, user: str) -> None:
    """Record that the request, and so its connection, is of this user."""
    request[USER] = user
    _entry(request).belongs_to(user)


def proved_peer(request: web.Request) -> None:
    """Record that the connection is to a node of the cluster."""
    _entry(request).is_a_peers()
