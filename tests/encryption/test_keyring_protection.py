"""A wrapped keyring opens only with its secret, follows its specification, and bounds the work of its reader."""

from __future__ import annotations

import base64
import hashlib
import json
from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from safelight.encryption.errors import KeyringError
from safelight.encryption.keyring_protection import Wrapper, is_wrapped
from safelight.encryption.keys import Keyring

KEYRING = Keyring.new(random=Random("a keyring").randbytes)
SECRET = b"correct horse battery staple"
WRAPPER = Wrapper(SECRET)
TEXT = WRAPPER.wrap(KEYRING, random=Random("its salt and nonce").randbytes)


def changed(**fields: Any) -> bytes:
    return json.dumps(json.loads(TEXT) | fields).encode()


def cost(**fields: Any) -> bytes:
    return changed(scrypt=json.loads(TEXT)["scrypt"] | fields)


def test_it_opens_with_its_secret_alone() -> None:
    assert is_wrapped(TEXT)
    assert not is_wrapped(KEYRING.to_json())
    assert Wrapper(SECRET).unwrap(TEXT) == KEYRING
    with pytest.raises(KeyringError, match="does not open with this secret"):
        Wrapper(SECRET + b" ").unwrap(TEXT)


def test_an_independent_implementation_opens_it_as_specified() -> None:
    said = json.loads(TEXT)
    assert set(said) == {"version", "cluster", "scrypt", "nonce", "wrapped"}
    scrypt = said["scrypt"]
    n, r, p = scrypt["n"], scrypt["r"], scrypt["p"]
    salt, nonce, wrapped = (base64.b64decode(each) for each in (scrypt["salt"], said["nonce"], said["wrapped"]))
    key = hashlib.scrypt(SECRET, salt=salt, n=n, r=r, p=p, maxmem=1 << 27, dklen=32)
    plain = AESGCM(key).decrypt(nonce, wrapped, b"safelight/2/keyring/" + bytes.fromhex(said["cluster"]))
    assert plain == KEYRING.to_json()


def test_wrapping_again_keeps_the_salt_and_never_the_nonce() -> None:
    one, other = (json.loads(WRAPPER.wrap(KEYRING)) for _ in range(2))
    assert one["scrypt"] == other["scrypt"]
    assert len({one["nonce"], other["nonce"], json.loads(TEXT)["nonce"]}) == 3


@pytest.mark.parametrize(
    "text",
    [
        cost(n=1 << 40),
        cost(n=1 << 18),
        cost(n=2),
        cost(n=(1 << 16) + 1),
        cost(n=-1),
        cost(r=1 << 20),
        cost(r=1),
        cost(p=1 << 20),
        cost(p=0),
        cost(salt=""),
        cost(salt=base64.b64encode(bytes(65)).decode()),
        changed(scrypt=None),
        changed(nonce=base64.b64encode(bytes(8)).decode()),
        changed(wrapped=""),
        changed(cluster="0" * 32),
        changed(wrapped=base64.b64encode(bytes(500)).decode()),
        TEXT[:-20],
    ],
    ids=lambda text: hashlib.sha256(text).hexdigest()[:4],
)
def test_a_hostile_or_damaged_file_is_refused_in_one_line(text: bytes) -> None:
    with pytest.raises(KeyringError) as caught:
        WRAPPER.unwrap(text)
    assert "\n" not in str(caught.value)


def test_a_wrapped_keyring_reveals_only_the_cluster_id_without_its_secret() -> None:
    for secret in (KEYRING.node_secret, KEYRING.current.secret):
        assert base64.b64encode(secret)[:12] not in TEXT
        assert base64.b64encode(base64.b64encode(secret))[:12] not in TEXT
    assert KEYRING.current_id.encode() not in TEXT
