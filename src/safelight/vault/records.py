"""The records of a chain's generations, and how they are sealed: neither keys nor contents of objects reveal names.

    record = version 1 || key id 8 || nonce 12 || AES-128-GCM(JSON)      associated data: version, key id, object key

The record key derives from the cluster key. The associated data names the object, so a record in another's place does
not open. Keys of objects contain keyed hashes of names, under a secret that no rotation changes:

    records/USER/NAME.N      USER = HMAC-SHA256(secret, "user" 0 user), NAME = HMAC-SHA256(secret, "name" 0 user 0
    bodies/USER/NAME.N.R     name), 16 bytes of each in hex; N: the (target) generation; R: 8 random bytes in hex
    users/USER.N             the user's record, with the token's fingerprint
    tokens/TOKEN             the USER that this token has claimed, created once; TOKEN = HMAC-SHA256(secret, "token" 0
                             fingerprint), likewise

Objects under `tokens/` are not sealed: they reveal no name, and are valid only if the user's record names the token.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable
from decimal import Decimal
from functools import cached_property

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from safelight import timestamps
from safelight.encryption.keys import Keyring
from safelight.encryption.sealed import Header, read_header
from safelight.vault.stores.base import BadObject

RECORDS, BODIES = "records/", "bodies/"
USERS, TOKENS = "users/", "tokens/"
IDENTITY = "vault"
"""The object with the vault's identity."""
CLAIM = re.compile(USERS + "[0-9a-f]{32}")
"""The name of a user's chain, which a token claims."""
PROBES = "probes/"
"""Objects that nodes create and remove at once, to test the store."""
_VERSION = b"\x01"
_NONCE_SIZE = 12
_KEY_ID_AT, _NONCE_AT, _SEALED_AT = 1, 9, 21


class BadRecord(BadObject):
    """An object in the place of a record cannot be read as one; the message states the reason."""


class OtherKey(BadRecord):
    """The record may be intact, but it is sealed with a cluster key that is not in the keyring."""

    def __init__(self, message: str, key_id: str) -> None:
        super().__init__(message)
        self.key_id = key_id


class Image(msgspec.Struct, frozen=True, tag_field="kind", tag="image", omit_defaults=True, dict=True):
    """The name has an image."""

    user: str
    name: str
    upload: str
    """Its upload id: 32 hex digits."""
    body: str
    """The object with the sealed file. The header in it is the one from the upload."""
    header: bytes
    """The sealed file's current header. Only a rewrap changes it."""
    size: int
    """Bytes of the image."""
    created: float
    """Unix seconds."""
    type: str = "application/octet-stream"
    """Its media type."""
    original: str = ""
    """The name of the source file."""
    modified: Decimal | None = None
    """When the source file was last modified: Unix seconds, to the nanosecond."""
    owner: str = ""
    """The enrolment id of its user: see `User`."""

    @cached_property
    def parsed_header(self) -> Header:
        """Raises as `read_header`."""
        return read_header(self.header)


class Removed(msgspec.Struct, frozen=True, tag_field="kind", tag="removed"):
    """The user removed the image. Kept permanently: retries of its upload must find it."""

    user: str
    name: str
    upload: str
    removed: float


class Aborted(msgspec.Struct, frozen=True, tag_field="kind", tag="aborted"):
    """An upload whose body has this target generation must start again: the body is being swept."""

    aborted: float


class User(msgspec.Struct, frozen=True, tag_field="kind", tag="user"):
    """The name has a user with this token."""

    user: str
    fingerprint: str
    """The token's SHA-256, in 64 hex digits."""
    created: float
    """When the name was first enrolled, with any token: Unix seconds."""
    id: str = ""
    """The enrolment id: 32 random hex digits that the name gets with its first token, and keeps. So an enrolment under
    a name whose record was deleted creates another user. Empty for users from before there were such ids.
    """


class Revoked(msgspec.Struct, frozen=True, tag_field="kind", tag="revoked"):
    """The user's access was revoked: no token is valid. The name is never given to another user."""

    user: str
    fingerprint: str
    """The last token's."""
    created: float
    revoked: float
    id: str = ""


Record = Image | Removed | Aborted | User | Revoked
_DECODER: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


class Records:
    """Reads and writes records with the current keyring, and knows their keys."""

    def __init__(self, keyring: Callable[[], Keyring], sealed: Callable[[str], object] = str) -> None:
        """`sealed` receives the key id before each record is sealed."""
        self._keyring, self._sealed = keyring, sealed
        self._secret = keyring().derive("vault-names")
        self._ciphers: dict[str, AESGCM] = {}

    def folder(self, user: str) -> str:
        """The prefix of all records of one user."""
        return f"{RECORDS}{self._hash('user', user)}/"

    def chain(self, user: str, name: str) -> str:
        """The name of an image's chain."""
        return self.folder(user) + self._hash("name", user, name)

    def user(self, name: str) -> str:
        """The name of a user's chain."""
        return USERS + self._hash("user", name)

    def token(self, fingerprint: str) -> str:
        """The object that names the user's chain that a token has claimed."""
        return TOKENS + self._hash("token", fingerprint)

    def write(self, record: Record, key: str) -> bytes:
        """The content of the object `key`: the record, sealed under the current cluster key."""
        current = self._keyring().current_id
        self._sealed(current)
        beginning = _VERSION + bytes.fromhex(current)
        nonce = os.urandom(_NONCE_SIZE)
        text = timestamps.to_json(record)
        return beginning + nonce + self._cipher(current).encrypt(nonce, text, beginning + key.encode())

    def read(self, data: bytes, key: str) -> Record:
        """The record in the object `key`. Raises BadRecord."""
        if data[:1] != _VERSION or len(data) < _SEALED_AT:
            raise BadRecord(f"{key} is not a record of this version of Safelight, or it is damaged")
        beginning, nonce = data[:_NONCE_AT], data[_NONCE_AT:_SEALED_AT]
        try:
            text = self._cipher(key_id(data)).decrypt(nonce, data[_SEALED_AT:], beginning + key.encode())
            return _DECODER.decode(text)
        except KeyError:
            sealed_with = key_id(data)
            raise OtherKey(
                f"{key} is sealed with the key {sealed_with}, which is not in the keyring", sealed_with
            ) from None
        except InvalidTag:
            raise BadRecord(f"{key} is damaged, or was put there by another") from None
        except msgspec.DecodeError:
            raise BadRecord(f"{key} is of a newer version of Safelight") from None

    def _cipher(self, key: str) -> AESGCM:
        """Raises KeyError for a key that is not in the keyring."""
        if key not in self._ciphers:
            cluster_key = self._keyring().find(key)
            if cluster_key is None:
                raise KeyError(key)
            self._ciphers[key] = AESGCM(cluster_key.record_key())
        return self._ciphers[key]

    def _hash(self, *words: str) -> str:
        return hmac.digest(self._secret, "\0".join(words).encode(), hashlib.sha256)[:16].hex()


def new_body(chain: str, number: int) -> str:
    """A key for a body with the target generation `number` of an image's chain."""
    return f"{BODIES}{chain.removeprefix(RECORDS)}.{number}.{secrets.token_hex(8)}"


def target_generation(body: str) -> tuple[str, int] | None:
    """The chain and the number of a body's target generation; None if the key is not a body's."""
    head, _, _ = body.removeprefix(BODIES).rpartition(".")
    name, _, number = head.rpartition(".")
    if not body.startswith(BODIES) or not name or not number.isdecimal():
        return None
    return RECORDS + name, int(number)


def is_token(key: str) -> bool:
    """Whether this is the key of a token's claim."""
    return re.fullmatch(TOKENS + "[0-9a-f]{32}", key) is not None


def key_id(data: bytes) -> str:
    """The key id of the cluster key with which a record is sealed: 16 hex digits."""
    return data[_KEY_ID_AT:_NONCE_AT].hex()
