"""Whatever bytes come from outside: a structure, or one error in one short line."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import safelight
from safelight.decoding import Malformed, decode
from safelight.node.election.driver import ElectionMessage
from safelight.node.election.handshake import Hello, Proof
from safelight.wire.admin_commands import AdminCommand
from safelight.wire.messages import Grant, Listing, NumberedAnswer, NumberedOffer, Offer, ProblemDocument
from safelight.wire.tickets import Ticket

KINDS = [
    Offer,
    NumberedOffer,
    NumberedAnswer,
    Grant,
    Listing,
    ProblemDocument,
    Hello,
    Proof,
    ElectionMessage,
    AdminCommand,
    Ticket,
]
NESTED = {
    "lists": b"[" * 100_000,
    "objects": b'{"a":' * 100_000,
    "in a field": b'{"proof":' + b"[" * 100_000,
    "in an unknown field": b'{"a":' + b"[{}," * 100_000,
    "closed": b'{"a":' * 50_000 + b"0" + b"}" * 50_000,
}
HOSTILE = {
    **NESTED,
    "nothing": b"",
    "no UTF-8": b"\xff\xfe",
    "no UTF-8 in a string": b'{"user":"\xff"}',
    "half a surrogate pair": b'{"user":"\\ud800"}',
    "a huge integer": b'{"size":' + b"9" * 10_000 + b"}",
    "a huge exponent": b'{"size":1e99999999999}',
    "NaN": b'{"size":NaN}',
    "control characters": b'{"\\u001b[2J\\n' + b"x" * 10_000 + b'":1}',
    "another encoding": "{}".encode("utf-16"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_are_malformed_and_nothing_else(kind: type[msgspec.Struct], data: bytes) -> None:
    said = ""
    try:
        decode(data, kind)
    except Malformed as error:
        said = str(error)
    assert said.isprintable()
    assert len(said) < 200


def test_json_is_parsed_in_one_place() -> None:
    source = Path(safelight.__file__).parent
    parsers = {path.name for path in source.rglob("*.py") if "json.decode(" in path.read_text()}
    assert parsers == {"decoding.py"}
