"""What a generation of a chain says, and how it is sealed: neither keys nor contents of objects tell names.

    record = version 1 || key id 8 || nonce 12 || AES-128-GCM(JSON)      associated data: version, key id, object key

The key is derived from the cluster key; as its associated data names the object, a record put in another's place does
not open. Keys of objects hold keyed hashes of names under a secret that no rotation changes:

    records/USER/NAME.N      USER = HMAC-SHA256(secret, "user" 0 user), NAME = HMAC-SHA256(secret, "name" 0 user 0
    bodies/USER/NAME.N.R     name), 16 bytes of each in hex; N: the generation (aimed at); R: 8 random bytes in hex
    users/USER.N             whether there is such a user, and with which token
    tokens/TOKEN             the USER that this token has claimed, made once; TOKEN = HMAC-SHA256(secret, "token" 0
                             fingerprint), likewise

What is under `tokens/` is not sealed: it names nobody, and is believed only where the user's record names the token.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable
from decimal import Decimal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from safelight import timestamps
from safelight.encryption.keys import Keyring
from safelight.vault.stores.base import BadObject

RECORDS, BODIES = "records/", "bodies/"
USERS, TOKENS = "users/", "tokens/"
IDENTITY = "vault"
"""The object that says whose vault it is."""
CLAIM = re.compile(USERS + "[0-9a-f]{32}")
"""The name of a user's chain, which a token claims."""
PROBES = "probes/"
"""What nodes make and remove at once, to see whether they can."""
_VERSION = b"\x01"
_NONCE_SIZE = 12
_KEY_ID_AT, _NONCE_AT, _SEALED_AT = 1, 9, 21


class BadRecord(BadObject):
    """An object that ought to be a record is none that can be read, and why."""


class OtherKey(BadRecord):
    """The record may be intact, and is sealed with a cluster key that is not in the keyring."""

    def __init__(self, message: str, key_id: str) -> None:
        super().__init__(message)
        self.key_id = key_id


class Image(msgspec.Struct, frozen=True, tag_field="kind", tag="image", omit_defaults=True):
    """There is an image under this name."""

    user: str
    name: str
    upload: str
    """The upload id under which it came: 32 hex digits."""
    body: str
    """The object with the sealed file; its header there is the one that it was sealed with."""
    header: bytes
    """The sealed file's header as it is now: a rewrap changes it, and nothing else."""
    size: int
    """Bytes of the image."""
    created: float
    """Unix seconds."""
    type: str = "application/octet-stream"
    """Its media type."""
    original: str = ""
    """The name of the file that it came from."""
    modified: Decimal | None = None
    """When that file was last modified: Unix seconds, to the nanosecond."""
    owner: str = ""
    """The enrolment id of its user: see `User`."""


class Removed(msgspec.Struct, frozen=True, tag_field="kind", tag="removed"):
    """There was an image, and its user removed it. Kept for ever: retries of its upload must find it."""

    user: str
    name: str
    upload: str
    removed: float


class Aborted(msgspec.Struct, frozen=True, tag_field="kind", tag="aborted"):
    """Whoever aimed a body at this generation must begin again: the body is being swept."""

    aborted: float


class User(msgspec.Struct, frozen=True, tag_field="kind", tag="user"):
    """There is a user of this name, who has this token."""

    user: str
    fingerprint: str
    """The token's SHA-256, in 64 hex digits."""
    created: float
    """Since when the name has been taken, by whichever token: Unix seconds."""
    id: str = ""
    """The enrolment id: 32 random hex digits that the name got with its first token, and keeps. So an enrolment under
    a name whose record was deleted makes another user. Empty for users from before there were such ids.
    """


class Revoked(msgspec.Struct, frozen=True, tag_field="kind", tag="revoked"):
    """There was a user of this name, to whom no token belongs any more. The name is nobody else's, for ever."""

    user: str
    fingerprint: str
    """Of the last token."""
    created: float
    revoked: float
    id: str = ""


Record = Image | Removed | Aborted | User | Revoked
_DECODER: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


class Records:
    """Reads and writes records with the keyring as it is at that moment, and knows where they are."""

    def __init__(self, keyring: Callable[[], Keyring], sealed: Callable[[str], object] = str) -> None:
        """`sealed` gets the key id before each record is sealed."""
        self._keyring, self._sealed = keyring, sealed
        self._secret = keyring().derive("vault-names")
        self._ciphers: dict[str, AESGCM] = {}

    def folder(self, user: str) -> str:
        """All records of one user are under this prefix."""
        return f"{RECORDS}{self._hash('user', user)}/"

    def chain(self, user: str, name: str) -> str:
        """The name of an image's chain."""
        return self.folder(user) + self._hash("name", user, name)

    def user(self, name: str) -> str:
        """The name of a user's chain."""
        return USERS + self._hash("user", name)

    def token(self, fingerprint: str) -> str:
        """The object that says which user's chain a token has claimed."""
        return TOKENS + self._hash("token", fingerprint)

    def write(self, record: Record, key: str) -> bytes:
        """A record as it is kept in the object `key`, sealed under the current cluster key."""
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
    """A key for a body that aims at generation `number` of an image's chain."""
    return f"{BODIES}{chain.removeprefix(RECORDS)}.{number}.{secrets.token_hex(8)}"


def target_generation(body: str) -> tuple[str, int] | None:
    """The chain and the generation that a body aims at; None for what is no body's key."""
    head, _, _ = body.removeprefix(BODIES).rpartition(".")
    name, _, number = head.rpartition(".")
    if not body.startswith(BODIES) or not name or not number.isdecimal():
        return None
    return RECORDS + name, int(number)


def is_token(key: str) -> bool:
    """Whether this is the key of what a token has claimed."""
    return re.fullmatch(TOKENS + "[0-9a-f]{32}", key) is not None


def key_id(data: bytes) -> str:
    """The key id of the cluster key that a record is sealed with: 16 hex digits."""
    return data[_KEY_ID_AT:_NONCE_AT].hex()
