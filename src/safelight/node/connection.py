"""One connection from a client: HTTP as aiohttp reads it, and our answer to what is not HTTP.

aiohttp answers a malformed request with the offending bytes, and logs them with a traceback. They may be a token
or a ticket, and anybody can send them as often as they like: so we answer with a problem document that
repeats none of it, and log nothing.
"""

from __future__ import annotations

import asyncio
import logging

from safelight.http import LineTooLong, web
from safelight.protocol import PROBLEM_TYPE, Problem, Refusal, problem_body

MAX_HEADER = 8190
"""Bytes of the request line, and of each header: aiohttp's default, and what Apache and nginx allow."""

MAX_HEADERS = 128

READ_BUFFER = 1 << 18
"""Bytes that aiohttp buffers of a body before it stops reading the socket."""

KEEPALIVE = 75.0
"""Seconds that a connection may be idle, and that the head of a request may take: longer than clients keep theirs."""

_UNKNOWN_CODING = "Request has invalid `Transfer-Encoding`"
"""What the parser says where the last transfer coding is not chunked. It leaves codings before that one to us."""

log = logging.getLogger(__name__)


class Connection(web.RequestHandler):
    """One connection of a node; `server` keeps count of them."""

    __slots__ = ("_node",)

    def __init__(self, server: web.Server, node: int) -> None:
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
