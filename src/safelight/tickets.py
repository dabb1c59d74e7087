"""Tickets: single-use capabilities that the cluster signs, so that a body may go where a token does not.

A ticket says who may send which body to which node for what. curl, browsers and HTTP libraries drop
`Authorization` when they are redirected to another port; a ticket travels in the address instead, and is
worth little to whoever reads it there: it holds for one request, to one life of one node, for a minute.

    ticket = base64url(JSON of `Ticket`) "." base64url(HMAC-SHA256 of that text)      RFC 4648 §5, RFC 2104
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from heapq import heappop, heappush
from math import ceil

import msgspec

from safelight.encryption import Scheme
from safelight.errors import SafelightError
from safelight.protocol import Action

LIFETIME = 60.0
"""Seconds. Longer than a client takes from grant to body, short enough to be remembered whole."""

MAX_LENGTH = 4096
"""Characters; a name of 255 bytes escaped in JSON makes about half of it."""


class BadTicket(SafelightError):
    """The ticket does not admit the request, and why."""


class Job(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What one request asks for. `size` is what the client announced, in bytes; None if it could not say."""

    user: str
    upload: str
    name: str
    size: int | None
    action: Action
    scheme: Scheme


class Ticket(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which job a ticket admits, at which node, and until when."""

    job: Job
    node: int
    life: str
    """Which life of that node: after a restart its tickets are void, as it has forgotten which were used."""
    issuer: int
    expires: float
    """Unix seconds."""
    nonce: str


def new_nonce() -> str:
    return secrets.token_hex(8)


def write(ticket: Ticket, key: bytes) -> str:
    """The signed text of a ticket, safe in a URL and in a header."""
    text = _encode(msgspec.json.encode(ticket))
    return f"{text}.{_encode(_sign(text, key))}"


def read(text: str, key: bytes) -> Ticket:
    """The ticket, if this cluster signed it. Raises BadTicket."""
    body, dot, signature = text.partition(".")
    plausible = dot and text.isascii() and len(text) <= MAX_LENGTH
    if not plausible or not hmac.compare_digest(_encode(_sign(body, key)), signature):
        raise BadTicket("this ticket was not issued by this cluster: ask for a new one")
    try:
        return msgspec.json.decode(_decode(body), type=Ticket)
    except msgspec.DecodeError:  # what a newer version says more may be a condition: it must not be ignored
        raise BadTicket("this ticket is of another version of Safelight: ask for a new one") from None


class Book:
    """One node's memory of its tickets: which were used, and which it granted that may still come.

    Both are forgotten within a second of their expiry, so the memory is bounded by the rate of requests times
    `LIFETIME`.
    """

    def __init__(self, node: int, life: str) -> None:
        self.node = node
        self.life = life
        self._used = _Nonces()
        self._granted = _Nonces()

    def granted(self, ticket: Ticket) -> None:
        """Remember a ticket that this node has just issued for itself."""
        self._granted.forget(ticket.expires - LIFETIME)
        self._granted.add(ticket)

    def outstanding(self, now: float) -> int:
        """How many granted tickets may still be used."""
        self._granted.forget(now)
        return len(self._granted)

    def redeem(self, ticket: Ticket, now: float) -> None:
        """Use a ticket up. Raises BadTicket if it is for another node, expired or used."""
        self._used.forget(now)
        if (ticket.node, ticket.life) != (self.node, self.life):
            raise BadTicket(f"this ticket is for node {ticket.node} as it was then: ask for a new one")
        if now >= ticket.expires:
            raise BadTicket("this ticket has expired: ask for a new one")
        if ticket in self._used:
            raise BadTicket("this ticket was used already: ask for a new one")
        self._used.add(ticket)
        self._granted.discard(ticket)


class _Nonces:
    """The nonces of tickets until they expire, kept by the second of that.

    Tickets come in any order of expiry: other nodes' clocks, and steps of our own, see to that. The heap has the
    seconds, which are few, and not the nonces, so every operation takes constant time, amortised.
    """

    def __init__(self) -> None:
        self._nonces: dict[int, set[str]] = {}
        self._seconds: list[int] = []  # the keys of `_nonces`, as a heap

    def __len__(self) -> int:
        return sum(map(len, self._nonces.values()))

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket.nonce in self._nonces.get(ceil(ticket.expires), ())

    def add(self, ticket: Ticket) -> None:
        second = ceil(ticket.expires)
        if second not in self._nonces:
            self._nonces[second] = set()
            heappush(self._seconds, second)
        self._nonces[second].add(ticket.nonce)

    def discard(self, ticket: Ticket) -> None:
        self._nonces.get(ceil(ticket.expires), set()).discard(ticket.nonce)

    def forget(self, now: float) -> None:
        """Forget the seconds that have passed."""
        while self._seconds and self._seconds[0] <= now:
            del self._nonces[heappop(self._seconds)]


def _sign(text: str, key: bytes) -> bytes:
    return hmac.digest(key, text.encode(), hashlib.sha256)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
