"""The keys, how each is derived, and the keyring, which contains the secret ones.

    cluster key (random, 32 bytes) ──HKDF──> key id     (8 bytes, public: names the cluster key)
                                   ──HKDF──> user key   (16 bytes: wraps the data keys of one user)
                                   ──HKDF──> record key (16 bytes: seals the vault's records)
    node secret (random, 32 bytes) ──HKDF──> subkeys    (32 bytes each: tickets, peers, …)
                                   ──HKDF──> check      (8 bytes, public: are two nodes of the same cluster?)
    username                       ──SHA-256─> classic key (16 bytes, not secret)

HKDF is RFC 5869 with SHA-256 and no salt. Every `info` begins with its own label. No label is a prefix of another, so
no two derivations can collide. docs/format.md specifies all of it.
"""

import hashlib
import hmac
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Annotated, TypeVar

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from safelight import decoding
from safelight.encryption.errors import KeyringError

Random = Callable[[int], bytes]
"""A source of random bytes: takes a number, returns so many bytes. `os.urandom`, except in test vectors."""

SECRET_SIZE = 32
USER_KEY_SIZE = 16
RECORD_KEY_SIZE = 16
KEY_ID_SIZE = 8
CLUSTER_ID_SIZE = 16
MAX_USER_BYTES = 255
MAX_KEYS = 1000
"""Cluster keys in one keyring: enough for a rotation every day for almost three years."""


def user_bytes(user: str) -> bytes:
    """A user's name as in the formats: 1 to 255 bytes of UTF-8. Raises ValueError for any other length.

    `safelight.names` has the narrower rules for names that users may choose.
    """
    name = user.encode()
    if not 1 <= len(name) <= MAX_USER_BYTES:
        raise ValueError(f"a user name has 1 to {MAX_USER_BYTES} bytes, not {len(name)}")
    return name


def classic_key(user: str) -> bytes:
    """The AES-128 key of a classic file: SHA-256(username)[:16]. Anyone who knows the name knows the key."""
    return hashlib.sha256(user_bytes(user)).digest()[:16]


@dataclass(frozen=True, slots=True)
class ClusterKey:
    """One cluster key (32 bytes), its creation time (Unix seconds, if known) and its key id (16 hex digits).

    Raises KeyringError for a secret of another length.
    """

    secret: bytes = field(repr=False)
    created: int | None = field(default=None, compare=False)
    id: str = field(init=False)

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_SIZE:
            raise KeyringError(f"A cluster key has {SECRET_SIZE} bytes, not {len(self.secret)}.")
        object.__setattr__(self, "id", _hkdf(self.secret, b"safelight/1/key-id", KEY_ID_SIZE).hex())

    def user_key(self, user: str) -> bytes:
        """The user's AES-128 key: HKDF-SHA256(cluster key, info = label || username), 16 bytes."""
        return _hkdf(self.secret, b"safelight/1/user-key/" + user_bytes(user), USER_KEY_SIZE)

    def record_key(self) -> bytes:
        """The AES-128 key of the vault's records: HKDF-SHA256(cluster key, info = label), 16 bytes."""
        return _hkdf(self.secret, b"safelight/1/record-key", RECORD_KEY_SIZE)


@dataclass(frozen=True, slots=True)
class Keyring:
    """All secrets of a cluster. Immutable; the same on every node, except for a moment during a rotation.

    cluster_id   32 hex digits, public
    node_secret  32 bytes with which nodes authenticate each other; never encrypts images
    keys         the cluster keys, oldest first
    current_id   the key id of the cluster key that seals new images; all of them open images

    A rotation only adds a key, and makes a later key current. So different keyrings of a cluster can be `merged` in any
    order, any number of times, with the same result (they form a join-semilattice).

    Raises KeyringError if its parts contradict each other.
    """

    cluster_id: str
    node_secret: bytes = field(repr=False)
    keys: tuple[ClusterKey, ...]
    current_id: str

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{32}", self.cluster_id):
            raise KeyringError("The keyring's cluster id is not 32 hex digits: restore it from a backup.")
        if len(self.node_secret) != SECRET_SIZE:
            raise KeyringError(f"The keyring's node secret has {len(self.node_secret)} bytes, not {SECRET_SIZE}.")
        if len(self.keys) > MAX_KEYS:
            raise KeyringError(f"The keyring holds more than {MAX_KEYS} cluster keys: make a new cluster.")
        if len({key.id for key in self.keys}) != len(self.keys):
            raise KeyringError("The keyring holds the same cluster key twice: remove one of the two.")
        if self.find(self.current_id) is None:
            raise KeyringError("The keyring's current key is not among its cluster keys: restore it from a backup.")

    @classmethod
    def new(cls, random: Random = os.urandom, *, created: int | None = None) -> "Keyring":
        """The keyring of a new cluster, with one cluster key, created at `created` (Unix seconds)."""
        cluster_id, node_secret, key = (
            random(CLUSTER_ID_SIZE).hex(),
            random(SECRET_SIZE),
            ClusterKey(random(SECRET_SIZE), created),
        )
        return cls(cluster_id, node_secret, (key,), key.id)

    @property
    def current(self) -> ClusterKey:
        """The cluster key that seals new images."""
        key = self.find(self.current_id)
        assert key is not None  # __post_init__
        return key

    def find(self, key_id: str) -> ClusterKey | None:
        """The cluster key with this id (16 hex digits), or None if this cluster does not have it."""
        return next((key for key in self.keys if key.id == key_id), None)

    @property
    def waiting(self) -> ClusterKey | None:
        """The newest key, if it is not current yet: a rotation is not finished."""
        return None if self.keys[-1].id == self.current_id else self.keys[-1]

    def added(self, key: ClusterKey) -> "Keyring":
        """This keyring with another key, which is not current."""
        return self.merged(replace(self, keys=(*self.keys, key))) if self.find(key.id) is None else self

    def using(self, key_id: str) -> "Keyring":
        """This keyring with this key as the current one, unless a later one is current already. Raises KeyringError."""
        return self.merged(replace(self, current_id=key_id))

    def belongs_with(self, other: "Keyring") -> bool:
        """Whether both belong to one cluster, before or after any of its rotations."""
        return self.cluster_id == other.cluster_id and hmac.compare_digest(self.node_secret, other.node_secret)

    def merged(self, other: "Keyring") -> "Keyring":
        """The keys of both, and the later one of the two current keys. Raises KeyringError if they do not belong
        together.
        """
        if not self.belongs_with(other):
            raise KeyringError("These keyrings are of two clusters: restore the right one from a backup.")
        all_keys = {key.id: key for key in (*self.keys, *other.keys)}.values()
        # Equal times are ordered by the id, so that all nodes have one order; keys without a time keep their place.
        keys = tuple(sorted(all_keys, key=lambda key: (key.created, key.id) if key.created is not None else (-1, "")))
        ids = [key.id for key in keys]
        return replace(self, keys=keys, current_id=max(self.current_id, other.current_id, key=ids.index))

    def derive(self, label: str) -> bytes:
        """A 32-byte subkey of the node secret for one purpose, such as "tickets"."""
        return _hkdf(self.node_secret, b"safelight/1/node/" + label.encode(), SECRET_SIZE)

    @property
    def check(self) -> str:
        """16 hex digits by which peers check that they belong to one cluster, and that reveal nothing else.

        It covers the cluster id and the node secret, not the cluster keys: nodes with different cluster keys must
        continue to work together, because a rotation reaches one node at a time.
        """
        return _hkdf(self.node_secret, b"safelight/1/check/" + bytes.fromhex(self.cluster_id), 8).hex()

    def to_json(self) -> bytes:
        """The keyring as text with all secrets, for a file that only its owner can read."""
        text = _KeyringText(
            version=1,
            cluster=self.cluster_id,
            node_secret=self.node_secret,
            current=self.current_id,
            keys=[_KeyText(key.id, key.secret, key.created) for key in self.keys],
        )
        return msgspec.json.format(msgspec.json.encode(text), indent=2) + b"\n"

    @classmethod
    def from_json(cls, text: bytes) -> "Keyring":
        """The keyring from a text that `to_json` made. Raises KeyringError for any other text."""
        version = version_of(text)
        if version != 1:
            raise KeyringError(
                f"The keyring has version {version}, and this version of Safelight supports versions 1 and 2: "
                "use a newer one."
            )
        read = decode(text, _KeyringText)
        keys = tuple(ClusterKey(key.secret, key.created) for key in read.keys)
        for key, said in zip(keys, read.keys, strict=True):
            if key.id != said.id:
                raise KeyringError(
                    f"The keyring's key {said.id} does not fit its id: restore the keyring from a backup."
                )
        return cls(read.cluster, read.node_secret, keys, read.current)


_T = TypeVar("_T")


class _Version(msgspec.Struct):
    version: int


KeyId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]
ClusterId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
_Secret = Annotated[bytes, msgspec.Meta(min_length=SECRET_SIZE, max_length=SECRET_SIZE)]  # base64 in JSON


class _KeyText(msgspec.Struct, omit_defaults=True):
    id: KeyId
    secret: _Secret
    created: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)] | None = None


class _KeyringText(msgspec.Struct):
    version: int
    cluster: ClusterId
    node_secret: _Secret
    current: KeyId
    keys: list[_KeyText]


def version_of(text: bytes) -> int:
    """The version of a keyring's file: 1, or 2 if it is wrapped. Raises KeyringError."""
    return decode(text, _Version).version


def decode(text: bytes, kind: type[_T]) -> _T:
    """The content of a keyring's file. Raises KeyringError with a message that quotes nothing from the file."""
    try:
        return decoding.decode(text, kind)
    except decoding.Malformed as error:  # it names the field and what was expected, never the value
        why = str(error)
    raise KeyringError(f"The keyring is malformed ({why}): restore it from a backup.")


@lru_cache(1024)  # a node derives the same few for each image
def _hkdf(secret: bytes, info: bytes, size: int) -> bytes:
    return HKDF(SHA256(), size, salt=None, info=info).derive(secret)
