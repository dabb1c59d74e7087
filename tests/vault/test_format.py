"""A vault's content follows docs/vault.md: a second reader, written from that page, finds and opens it."""

import base64
import hashlib
import hmac
import json
from decimal import Decimal

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from safelight.encryption.keys import Keyring
from safelight.vault.records import Image, Records, Removed, new_body, target_generation

RING = Keyring.new()


def _hkdf(secret: bytes, info: str, size: int) -> bytes:
    return HKDF(SHA256(), size, salt=None, info=info.encode()).derive(secret)


def _opened(data: bytes, key: str) -> dict[str, object]:
    assert data[0] == 1
    assert data[1:9] == _hkdf(RING.current.secret, "safelight/1/key-id", 8)
    record_key = _hkdf(RING.current.secret, "safelight/1/record-key", 16)
    record: dict[str, object] = json.loads(
        AESGCM(record_key).decrypt(data[9:21], data[21:], data[:9] + key.encode("ascii"))
    )
    return record


def test_keys_are_keyed_hashes_of_names() -> None:
    secret = _hkdf(RING.node_secret, "safelight/1/node/vault-names", 32)
    user = hmac.digest(secret, b"user\0" + "zoë".encode(), hashlib.sha256)[:16].hex()
    name = hmac.digest(secret, b"name\0" + "zoë".encode() + b"\0a b.png", hashlib.sha256)[:16].hex()
    chain = Records(lambda: RING).chain("zoë", "a b.png")
    assert chain == f"records/{user}/{name}"
    body = new_body(chain, 12)
    assert body.startswith(f"bodies/{user}/{name}.12.")
    assert len(bytes.fromhex(body.rpartition(".")[2])) == 8
    assert target_generation(body) == (chain, 12)


def test_records_open_by_the_page_alone() -> None:
    records = Records(lambda: RING)
    key = records.chain("alice", "a.png") + ".1"
    image = Image("alice", "a.png", "0" * 32, "bodies/b", b"\x89SLT", 7, 1.5, "image/png", "A.png", Decimal("0.5"))
    assert _opened(records.write(image, key), key) == {
        "kind": "image",
        "user": "alice",
        "name": "a.png",
        "upload": "0" * 32,
        "body": "bodies/b",
        "header": base64.b64encode(b"\x89SLT").decode(),
        "size": 7,
        "created": 1.5,
        "type": "image/png",
        "original": "A.png",
        "modified": 0.5,
    }
    removed = Removed("alice", "a.png", "0" * 32, 2.5)
    assert _opened(records.write(removed, key), key) == {
        "kind": "removed",
        "user": "alice",
        "name": "a.png",
        "upload": "0" * 32,
        "removed": 2.5,
    }


@pytest.mark.parametrize("modified", ["1700000000", "1700000000.5", "-0.25", "null", None, "1700000000.123456789"])
def test_records_of_earlier_versions_are_read(modified: str | None) -> None:
    records, ring = Records(lambda: RING), RING.current
    key = records.chain("alice", "a.png") + ".1"
    said = "" if modified is None else f', "modified": {modified}'
    text = (
        '{"kind": "image", "user": "alice", "name": "a.png", "upload": "0", "body": "b", "header": "", "size": 7, '
        f'"created": 1.5{said}}}'
    )
    head, nonce = b"\x01" + bytes.fromhex(RING.current_id), bytes(12)
    sealed = AESGCM(ring.record_key()).encrypt(nonce, text.encode(), head + key.encode())
    record = records.read(head + nonce + sealed, key)
    assert isinstance(record, Image)
    assert record.modified == (None if modified in (None, "null") else Decimal(str(modified)))
    assert _opened(records.write(record, key), key).get("modified") == (json.loads(modified) if modified else None)
