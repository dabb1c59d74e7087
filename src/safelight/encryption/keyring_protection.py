"""The keyring file wrapped by a secret (version 2), for backups and disks that others may read.

    secret ──scrypt──> key (32 bytes) ──AES-256-GCM──> the whole version 1 text

scrypt is RFC 7914. The file contains its cost, within bounds, so that no file can make the reader use more memory than
Safelight itself uses. docs/format.md specifies the file.
"""

import os
from dataclasses import dataclass
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from safelight.encryption.errors import KeyringError
from safelight.encryption.keys import ClusterId, Keyring, Random, decode, version_of

N, R, P = 1 << 16, 8, 2
"""64 MiB and about 0.4 s, once at each start of a node; one of the settings that OWASP's Password Storage Cheat Sheet
lists as equally strong."""

MAX_N = 1 << 17
"""With r = 8: 128 MiB."""

SALT_SIZE, NONCE_SIZE = 16, 12


@dataclass(frozen=True)
class _Cost:
    n: int
    r: int
    p: int
    salt: bytes


class Wrapper:
    """Wraps and unwraps keyrings with one secret, of at least one byte. Not for several threads at the same time.

    It keeps the salt of the first text, because key derivation is expensive on purpose: a node that writes its keyring
    twice during a rotation derives once, at its start. Each text has its own nonce.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._cost: _Cost | None = None
        self._key = b""

    @property
    def length(self) -> int:
        """Length of the secret in bytes."""
        return len(self._secret)

    def wrap(self, keyring: Keyring, *, random: Random = os.urandom) -> bytes:
        """The keyring as text. Without the secret it reveals only the cluster id."""
        cost = self._cost or _Cost(N, R, P, random(SALT_SIZE))
        nonce = random(NONCE_SIZE)
        wrapped = AESGCM(self._derive(cost)).encrypt(nonce, keyring.to_json(), _bound_to(keyring.cluster_id))
        text = _WrappedText(
            version=2,
            cluster=keyring.cluster_id,
            scrypt=_ScryptText(cost.n, cost.r, cost.p, cost.salt),
            nonce=nonce,
            wrapped=wrapped,
        )
        return msgspec.json.format(msgspec.json.encode(text), indent=2) + b"\n"

    def unwrap(self, text: bytes) -> Keyring:
        """The keyring from a text that `wrap` made. Raises KeyringError for another secret, and for any other text."""
        read = decode(text, _WrappedText)
        said = read.scrypt
        if said.n & (said.n - 1):
            raise KeyringError("The keyring is malformed (scrypt's n is not a power of two): restore it from a backup.")
        key = self._derive(_Cost(said.n, said.r, said.p, said.salt))
        try:
            plain = AESGCM(key).decrypt(read.nonce, read.wrapped, _bound_to(read.cluster))
        except InvalidTag:
            raise KeyringError(
                "The keyring does not open with this secret: give the one that it was wrapped with, "
                "or restore it from a backup."
            ) from None
        keyring = Keyring.from_json(plain)
        if keyring.cluster_id != read.cluster:
            raise KeyringError("The keyring is of another cluster than its file says: restore it from a backup.")
        return keyring

    def _derive(self, cost: _Cost) -> bytes:
        if cost != self._cost:
            self._key = Scrypt(cost.salt, 32, cost.n, cost.r, cost.p).derive(self._secret)
            self._cost = cost
        return self._key


def is_wrapped(text: bytes) -> bool:
    """Whether a keyring's text is wrapped. Raises KeyringError for a text that is not a keyring."""
    return version_of(text) == 2


def _bound_to(cluster_id: str) -> bytes:
    return b"safelight/2/keyring/" + bytes.fromhex(cluster_id)


class _ScryptText(msgspec.Struct):
    n: Annotated[int, msgspec.Meta(ge=1 << 15, le=MAX_N)]
    r: Annotated[int, msgspec.Meta(ge=8, le=8)]
    p: Annotated[int, msgspec.Meta(ge=1, le=4)]
    salt: Annotated[bytes, msgspec.Meta(min_length=SALT_SIZE, max_length=64)]


class _WrappedText(msgspec.Struct):
    version: int
    cluster: ClusterId
    scrypt: _ScryptText
    nonce: Annotated[bytes, msgspec.Meta(min_length=NONCE_SIZE, max_length=NONCE_SIZE)]
    wrapped: Annotated[bytes, msgspec.Meta(min_length=16)]
