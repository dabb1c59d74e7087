"""What peers send before they trust each other: newer ones may send more, and a relay cannot change it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from safelight.encryption.keys import Keyring
from safelight.node.election.handshake import Hello, PeerIdentity, Proof, Refused
from safelight.node.election.links import _decode
from safelight.node.state.key_file import KeyFile, Keys

Pair = tuple[PeerIdentity, PeerIdentity]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    file = KeyFile(tmp_path)
    file.create(Keyring.new())
    return PeerIdentity(Keys(file), 1, "1" * 16), PeerIdentity(Keys(file), 2, "2" * 16)


def newer(message: msgspec.Struct) -> bytes:
    """As a later version might send it."""
    return json.dumps(msgspec.to_builtins(message) | {"more": {"of": ["it"]}}).encode()


def test_a_peer_of_a_newer_version_is_understood(pair: Pair) -> None:
    dialer, acceptor = pair
    hello, answer = _decode(newer(dialer.hello())), _decode(newer(acceptor.hello()))
    assert isinstance(hello, Hello)
    assert isinstance(answer, Hello)
    acceptor.compare(hello)
    for role, party, other in (("acceptor", acceptor, dialer), ("dialer", dialer, acceptor)):
        proof = _decode(newer(Proof(party.proof(role, hello, answer))))
        assert isinstance(proof, Proof)
        other.check(proof.proof, role, hello, answer)
    assert _decode(newer(Proof(refused="because"))) == Proof(refused="because")


@pytest.mark.parametrize("text", [b"{}", b'{"more":1}', b'{"proof":""}', b'{"kind":"heartbeat","counter":1}', b"[]"])
def test_what_is_neither_introduction_nor_proof_is_refused(text: bytes) -> None:
    with pytest.raises(Refused, match="not a node's handshake"):
        _decode(text)


@pytest.mark.parametrize(
    "change",
    [
        lambda hello: {"current": "0" * 16},  # else a relay could have a key used before its time
        lambda hello: {"keys": (*hello.keys, "0" * 16)},
        lambda hello: {"keys": ()},
        lambda hello: {"incarnation": "3" * 16},
        lambda hello: {"nonce": "0" * 32},
    ],
)
def test_an_introduction_cannot_be_changed_on_its_way(pair: Pair, change: Callable[[Hello], dict[str, object]]) -> None:
    dialer, acceptor = pair
    hello, answer = dialer.hello(), acceptor.hello()
    changed = msgspec.structs.replace(answer, **change(answer))
    proof = acceptor.proof("acceptor", hello, answer)
    dialer.check(proof, "acceptor", hello, answer)
    with pytest.raises(Refused):
        dialer.check(proof, "acceptor", hello, changed)


@pytest.mark.parametrize("keys", [["0" * 16] * 1001, ["\x1b[2J"], ["0" * 17], "0" * 16])
def test_key_ids_are_bounded_in_number_and_form(pair: Pair, keys: object) -> None:
    said = msgspec.to_builtins(pair[0].hello()) | {"keys": keys}
    with pytest.raises(Refused):
        _decode(json.dumps(said).encode())
