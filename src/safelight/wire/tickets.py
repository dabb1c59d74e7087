"""Tickets: single-use capabilities that the cluster signs.

A ticket admits one request of one user to one node. curl, browsers and HTTP libraries drop `Authorization` when they
are redirected to another port. A ticket travels in the address instead, and is worth little to anyone who reads it
there: it is valid for one request, to one incarnation of one node, for a minute.
"""

from __future__ import annotations

import secrets

import msgspec

from safelight.encryption import Scheme
from safelight.errors import SafelightError
from safelight.wire import signed
from safelight.wire.messages import Action

LIFETIME = 60.0
"""Seconds. Longer than a client takes from grant to body; short enough to remember all tickets that are still valid."""


class BadTicket(SafelightError):
    """The ticket does not admit the request; the message says why."""


class Scope(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What one request may do. `size`: bytes that the client announced; None if it did not."""

    user: str
    upload: str
    name: str
    size: int | None
    action: Action
    scheme: Scheme
    keep: bool = True
    """Whether to store the sealed image in the vault, if there is one."""
    enrolment: str = ""
    """The user's enrolment id: see `vault.records.User`."""


class Ticket(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which request a ticket admits, at which node, and until when. Its JSON is signed, and keeps older field names."""

    scope: Scope = msgspec.field(name="job")
    node: int
    incarnation: str = msgspec.field(name="life")
    """Of that node: a restart voids its tickets, as the node no longer knows which were used."""
    issuer: int
    expires: float
    """Unix seconds."""
    nonce: str
    counter: int | None = None
    """With `issuer` the epoch in which that leader assigned the request to the node; None: a redirect."""


def new_nonce() -> str:
    """64 random bits in hex, for one ticket."""
    return secrets.token_hex(8)


def write(ticket: Ticket, key: bytes) -> str:
    """The signed text of a ticket, safe in a URL and in a header."""
    return signed.write(ticket, key)


def read(text: str, key: bytes) -> Ticket:
    """The ticket, if this cluster signed it. Raises BadTicket."""
    try:
        return signed.read(text, key, Ticket)
    except signed.NotSigned:
        raise BadTicket("this ticket was not issued by this cluster: ask for a new one") from None
    except signed.OtherVersion:
        raise BadTicket("this ticket is of another version of Safelight: ask for a new one") from None


class TicketLedger:
    """One node's record of its tickets: which were used, and which it granted that may still come.

    Both are forgotten within a second of their expiry, so the memory is bounded by the rate of requests times
    `LIFETIME`.
    """

    def __init__(self, node: int, incarnation: str) -> None:
        self.node = node
        self.incarnation = incarnation
        self._used = signed.ReplayCache()
        self._granted = signed.ReplayCache()

    def granted(self, ticket: Ticket) -> None:
        """Record a ticket that this node has just issued for itself."""
        self._granted.forget(ticket.expires - LIFETIME)
        self._granted.add(ticket)

    def outstanding(self, now: float) -> int:
        """How many granted tickets may still be used."""
        self._granted.forget(now)
        return len(self._granted)

    def redeem(self, ticket: Ticket, now: float) -> None:
        """Consume a ticket. Raises BadTicket if it is for another node or incarnation, expired or used."""
        self._used.forget(now)
        if ticket.node != self.node:
            raise BadTicket(f"this ticket is for node {ticket.node}: ask for a new one")
        if ticket.incarnation != self.incarnation:
            raise BadTicket(f"this ticket is from before node {ticket.node} restarted: ask for a new one")
        if now >= ticket.expires:
            raise BadTicket("this ticket has expired: ask for a new one")
        if ticket in self._used:
            raise BadTicket("this ticket was used already: ask for a new one")
        self._used.add(ticket)
        self._granted.discard(ticket)
