"""A client that says what it likes: raw bytes over a socket, which no HTTP library would send."""

from __future__ import annotations

import os
import secrets
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import msgspec

from safelight.config import Address, Config
from safelight.wire.messages import Problem

_NAMES = count()
PATIENCE = 20.0
"""Seconds until a test gives a silent node up."""


@dataclass(frozen=True)
class Answer:
    """One response: its status, its headers (names in lower case) and its whole body."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        return msgspec.json.decode(self.body, type=dict[str, Any])


class Line:
    """One connection to a node."""

    def __init__(self, connection: socket.socket, netloc: str) -> None:
        self.socket = connection
        self.netloc = netloc
        self._unread = b""
        self.broken = False

    def sip(self, size: int) -> None:
        """Take a little of an answer. `broken` is set if it ends."""
        try:
            self.broken |= not self.socket.recv(size)
        except ConnectionError:
            self.broken = True

    def send(self, data: bytes) -> None:
        """As much of it as the node takes: one that has heard enough may hang up."""
        with suppress(ConnectionError, ssl.SSLEOFError):
            self.socket.sendall(data)

    def request(self, start: str, *headers: str, body: bytes = b"", host: str | None = None) -> None:
        """Send a request: `start` is "METHOD target", to which version and `Host` are added."""
        lines = [f"{start} HTTP/1.1", f"Host: {self.netloc if host is None else host}", *headers, "", ""]
        self.send("\r\n".join(lines).encode("utf-8", "surrogateescape") + body)

    def answer(self) -> Answer:
        """The next response, without the 100s before it."""
        while True:
            head = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
            status = int(head[0].split()[1])
            if status != 100:
                break
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        body = b"" if status in (101, 204) else self.exactly(int(headers.get("content-length", 0)))
        return Answer(status, headers, body)

    def interim(self) -> str:
        """The next status line, whatever it is, with the headers that follow it."""
        return self._until(b"\r\n\r\n").decode("latin-1")

    def ended(self) -> bool:
        """Wait until the node hangs up, whatever else it says before."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionError:
            pass
        except TimeoutError:
            return False
        return True

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._unread:
            self._more()
        found, _, self._unread = self._unread.partition(mark)
        return found

    def exactly(self, size: int) -> bytes:
        """The next `size` bytes."""
        while len(self._unread) < size:
            self._more()
        found, self._unread = self._unread[:size], self._unread[size:]
        return found

    def _more(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError(f"the node hung up after {self._unread!r}")
        self._unread += data


@contextmanager
def line(address: Address, tls: ssl.SSLContext | None = None, *, buffer: int = 0) -> Iterator[Line]:
    """A connection; `buffer`: bytes that the system takes of an answer before it is read, if not its own choice."""
    with socket.socket() as plain:
        plain.settimeout(PATIENCE)
        if buffer:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)  # before connect(2): see tcp(7)
        plain.connect((address.host, address.port))
        if tls is None:
            yield Line(plain, address.netloc)
        else:
            with tls.wrap_socket(plain, server_hostname=address.host) as secure:
                yield Line(secure, address.netloc)


def ask(address: Address, start: str, *headers: str, body: bytes = b"", host: str | None = None) -> Answer:
    """One request on a connection of its own. The length of a body is told if no header tells it."""
    told = any(header.lower().startswith(("content-length", "transfer-encoding")) for header in headers)
    length = () if told or not body else (f"Content-Length: {len(body)}",)
    with line(address) as connection:
        connection.request(start, *headers, *length, body=body, host=host)
        return connection.answer()


def refused(answer: Answer, problem: Problem) -> str:
    """Assert that the answer is this problem as RFC 9457 has it; returns its detail."""
    assert (answer.status, answer.headers.get("content-type")) == (int(problem.status), "application/problem+json"), (
        answer
    )
    document = answer.json()
    assert document["type"] == problem.uri
    assert document["title"] == problem.title
    assert document["status"] == answer.status
    detail = document["detail"]
    assert isinstance(detail, str)
    assert detail.strip()
    assert "\n" not in detail
    assert "Traceback" not in detail
    return detail


def token(name: str) -> str:
    """A token that is easy to tell from others."""
    return f"slt_{name:_<43}"


def enrolled(config: Config, user: str) -> str:
    """Enrol a user with a token of its own; the `Authorization` header that proves it."""
    header = f"Authorization: Bearer slt_{secrets.token_urlsafe(32)}"
    for address in config.addresses.values():
        assert ask(address, f"PUT /v1/users/{user}", header).status in (200, 201)
        break
    return header


def new_image() -> str:
    """How a request begins that brings an image under a name which none has had."""
    return f"PUT /v1/images/photo-{next(_NAMES)}.png"


def image(size: int) -> bytes:
    """What begins as a PNG does, and goes on as it likes."""
    return (b"\x89PNG\r\n\x1a\n" + os.urandom(size))[:size]
