"""A ticket admits one request once, and is forgotten when it could admit none."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import tracemalloc

import msgspec
import pytest

from safelight.encryption import Scheme
from safelight.wire.messages import Action
from safelight.wire.tickets import LIFETIME, BadTicket, Scope, Ticket, TicketLedger, new_nonce, read, write

KEY = bytes(32)
SCOPE = Scope("alice", "0" * 32, "a.png", 5, Action.SEAL, Scheme.SEALED)
NOW = 1_700_000_000.0


def ticket(expires: float = NOW + LIFETIME, node: int = 1, incarnation: str = "this one") -> Ticket:
    return Ticket(SCOPE, node, incarnation, issuer=1, expires=expires, nonce=new_nonce())


def book() -> TicketLedger:
    return TicketLedger(1, "this one")


def signed(text: bytes) -> str:
    body = base64.urlsafe_b64encode(text).rstrip(b"=")
    return b".".join([body, base64.urlsafe_b64encode(hmac.digest(KEY, body, hashlib.sha256)).rstrip(b"=")]).decode()


def test_a_ticket_is_read_as_it_was_written() -> None:
    one = ticket()
    assert read(write(one, KEY), KEY) == one


def test_the_names_of_its_fields_are_those_of_earlier_versions() -> None:
    """Nodes are upgraded one at a time, and read each other's tickets meanwhile."""
    said = json.loads(base64.urlsafe_b64decode(write(ticket(), KEY).partition(".")[0] + "=="))
    assert [*said] == ["job", "node", "life", "issuer", "expires", "nonce", "counter"]
    assert [*said["job"]] == ["user", "upload", "name", "size", "action", "scheme", "keep", "enrolment"]


@pytest.mark.parametrize("change", [lambda text: text[:-1], lambda text: "A" + text[1:], lambda text: "", str.lower])
def test_a_changed_ticket_is_refused(change: object) -> None:
    assert callable(change)
    with pytest.raises(BadTicket, match="not issued by this cluster"):
        read(change(write(ticket(), KEY)), KEY)


@pytest.mark.parametrize("more", [{"only_on": "sunday"}, {"expires": "soon"}], ids=str)
def test_a_ticket_of_another_version_is_refused_and_no_failure(more: dict[str, str]) -> None:
    newer = msgspec.json.encode({**msgspec.to_builtins(ticket()), **more})
    with pytest.raises(BadTicket, match="version"):
        read(signed(newer), KEY)


def test_a_ticket_is_used_once() -> None:
    mine, one = book(), ticket()
    mine.granted(one)
    assert mine.outstanding(NOW) == 1
    mine.redeem(one, NOW)
    assert mine.outstanding(NOW) == 0
    for later in (NOW, NOW + LIFETIME - 0.001):
        with pytest.raises(BadTicket, match="used already"):
            mine.redeem(one, later)
    with pytest.raises(BadTicket, match="expired"):
        mine.redeem(one, NOW + LIFETIME)


@pytest.mark.parametrize("other", [ticket(node=2), ticket(incarnation="another")], ids=["node", "incarnation"])
def test_a_ticket_for_another_node_or_incarnation_is_refused(other: Ticket) -> None:
    with pytest.raises(BadTicket, match=r"is for node 2|from before node 1 restarted"):
        book().redeem(other, NOW)


def test_a_used_ticket_is_remembered_until_it_expires_in_whatever_order_they_come() -> None:
    """Tickets come from nodes whose clocks differ, and at any age."""
    mine = book()
    tickets = [ticket(NOW + seconds) for seconds in (3600.0, 0.5, 60.0, 0.6, 30.2, 1.0)]
    for each in tickets:
        mine.redeem(each, NOW)
    for now in (NOW, NOW + 0.55, NOW + 30.1, NOW + 3599.9):
        for each in tickets:
            with pytest.raises(BadTicket):
                mine.redeem(each, now)


def test_granted_tickets_that_never_come_are_not_outstanding_for_ever() -> None:
    mine = book()
    mine.granted(ticket(NOW + LIFETIME))
    assert mine.outstanding(NOW + LIFETIME - 1) == 1
    assert mine.outstanding(NOW + LIFETIME) == 0


@pytest.mark.parametrize("used", [False, True], ids=["granted", "used"])
def test_memory_is_bounded_by_the_rate_of_tickets_even_behind_one_that_expires_late(used: bool) -> None:
    """Ten a second for ten thousand seconds, the first of which another node's clock has far in the future."""
    mine = book()
    mine.redeem(ticket(NOW + 1e6), NOW)
    mine.granted(ticket(NOW + 1e6))
    tracemalloc.start()
    try:
        for number in range(100_000):
            now = NOW + number / 10
            one = ticket(now + LIFETIME)
            if used:
                mine.redeem(one, now)
            else:
                mine.granted(one)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000 * 10 * LIFETIME
