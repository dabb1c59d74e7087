"""The sealed file, version 1: a header with the user and the wrapped data key, then the payload.

    fixed header   magic 8 | version 1 | file id 16 | user length 1 | user
    slots          count 1 | key id 8 | nonce 12 | wrapped data key 32
    header check   4: the first bytes of SHA-256 over everything before it
    payload        stream.py, under the data key, with the fixed header as associated data

The header check is not a security measure: anyone who changes a header can recompute it, and then the wrapped key or
the payload does not verify. It distinguishes a damaged header from an intact one of another user or cluster, which
makes errors exact. docs/format.md specifies the format. Later versions may have more slots, to share an image.
"""

import hashlib
import os
from dataclasses import dataclass, field, replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from safelight.encryption import stream
from safelight.encryption.errors import Damaged, NotSealed, OtherCluster, UnsupportedVersion, WrongUser
from safelight.encryption.keys import KEY_ID_SIZE, MAX_USER_BYTES, Keyring, Random, user_bytes
from safelight.encryption.stream import Bytes

# As in PNG: a non-ASCII byte, a name, then line ends and a control-Z that a transfer as text would change.
MAGIC = b"\x89SLT\r\n\x1a\n"
VERSION = 1

_VERSION_AT = len(MAGIC)
_FILE_ID_AT = _VERSION_AT + 1
_FILE_ID_SIZE = 16
_USER_LENGTH_AT = _FILE_ID_AT + _FILE_ID_SIZE
_USER_AT = _USER_LENGTH_AT + 1
_NONCE_SIZE = 12
_WRAPPED_SIZE = stream.KEY_SIZE + stream.TAG_SIZE
_SLOTS_SIZE = 1 + KEY_ID_SIZE + _NONCE_SIZE + _WRAPPED_SIZE
_CHECK_SIZE = 4

MAX_HEADER_SIZE = _USER_AT + MAX_USER_BYTES + _SLOTS_SIZE + _CHECK_SIZE
"""Bytes of the longest header: always enough for `read_header`."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a sealed file reveals without a key.

    file_id  32 hex digits, random for each sealing
    key_id   16 hex digits: the cluster key under which the data key is wrapped
    """

    file_id: str
    user: str
    key_id: str
    nonce: bytes = field(repr=False)
    wrapped_key: bytes = field(repr=False)

    @property
    def version(self) -> int:
        return VERSION

    @property
    def length(self) -> int:
        """Bytes before the payload."""
        return _header_size(len(user_bytes(self.user)))

    @property
    def fixed(self) -> bytes:
        """The part that never changes while the image exists. The wrapped key and the payload are bound to it."""
        return _fixed_header(bytes.fromhex(self.file_id), user_bytes(self.user))

    def encode(self) -> bytes:
        header = self.fixed + b"\x01" + bytes.fromhex(self.key_id) + self.nonce + self.wrapped_key
        return header + _check(header)

    def plain_size(self, file_size: int) -> int:
        """The image's size in bytes in a file of `file_size` bytes with this header. Raises Damaged."""
        return stream.LAYOUT.plain_size(file_size - self.length)


def read_header(beginning: Bytes) -> Header:
    """The header at the beginning of a sealed file; its first `MAX_HEADER_SIZE` bytes are enough.

    Raises NotSealed, UnsupportedVersion, and Damaged (also if the header is incomplete).
    """
    header = _parse(bytes(beginning[:MAX_HEADER_SIZE]))
    if header is None:
        raise Damaged if len(beginning) >= len(MAGIC) else NotSealed
    return header


def sealed_size(plain_size: int, user: str) -> int:
    """The size in bytes of the complete sealed file for an image of `plain_size` bytes. Raises TooLarge."""
    return _header_size(len(user_bytes(user))) + stream.LAYOUT.payload_size(plain_size)


class FileSealer:
    """Encrypts an image into a sealed file, which `update` and `finish` return in pieces. `header` is known at once."""

    def __init__(self, user: str, keyring: Keyring, *, random: Random = os.urandom) -> None:
        key = keyring.current
        file_id, data_key, nonce = random(_FILE_ID_SIZE), random(stream.KEY_SIZE), random(_NONCE_SIZE)
        fixed = _fixed_header(file_id, user_bytes(user))
        wrapped = AESGCM(key.user_key(user)).encrypt(nonce, data_key, fixed)
        self.header = Header(file_id.hex(), user, key.id, nonce, wrapped)
        self._stream = stream.StreamEncryptor(data_key, fixed, random=random)
        self._beginning = self.header.encode() + self._stream.header  # until it is released

    def update(self, chunk: Bytes) -> list[Bytes]:
        """Take a chunk of the image; return the completed pieces of the file, in order. Raises TooLarge."""
        pieces = self._stream.update(chunk)
        if self._beginning:
            pieces.insert(0, self._beginning)
            self._beginning = b""
        return pieces

    def finish(self) -> Bytes:
        """End the image; return the rest of the file."""
        return self._beginning + self._stream.finish()


class FileOpener:
    """Decrypts a sealed file into the image. Releases no byte before its segment is verified.

    Only `finish` proves that the file is complete: until then, what was released is a verified prefix of the image.

    `update` and `finish` raise NotSealed, UnsupportedVersion, WrongUser, OtherCluster or Damaged.
    """

    def __init__(self, user: str, keyring: Keyring) -> None:
        self._user = user
        self._keyring = keyring
        self._beginning = bytearray()  # until the stream can start
        self._stream: stream.StreamDecryptor | None = None
        self.header: Header | None = None

    def update(self, chunk: Bytes) -> list[Bytes]:
        """Take a chunk of the file; return the verified pieces of the image, in order."""
        if self._stream:
            return self._stream.update(chunk)
        taken = MAX_HEADER_SIZE + stream.HEADER_SIZE - len(self._beginning)
        self._beginning += chunk[:taken]
        beginning = bytes(self._beginning)
        header = _parse(beginning)
        if header is None or len(beginning) < header.length + stream.HEADER_SIZE:
            return []
        payload, segments = header.length, header.length + stream.HEADER_SIZE
        self._stream = stream.StreamDecryptor(self._unwrap(header), header.fixed, beginning[payload:segments])
        self.header = header
        return self._stream.update(beginning[segments:]) + self._stream.update(memoryview(chunk)[taken:])

    def finish(self) -> Bytes:
        """End the file; return the rest of the image. Raises Damaged if the file is incomplete."""
        if self._stream:
            return self._stream.finish()
        read_header(self._beginning)
        raise Damaged

    def _unwrap(self, header: Header) -> bytes:
        if header.user != self._user:
            raise WrongUser(header.user, self._user)
        return _unwrap(header, self._keyring)


class PartOpener:
    """Decrypts any part of an image: `segments` names the parts of the sealed file to read, `open` decrypts each.

    Raises OtherCluster and Damaged, also from the constructor.
    """

    def __init__(self, header: Header, payload_header: bytes, plain_size: int, keyring: Keyring) -> None:
        """`payload_header`: the `stream.HEADER_SIZE` bytes of the file after its header."""
        self._header = header
        self._payload_size = stream.LAYOUT.payload_size(plain_size)
        key = _unwrap(header, keyring)
        self._opener = stream.SegmentDecryptor(key, header.fixed, payload_header, self._payload_size)

    def segments(self, start: int, end: int) -> list[tuple[int, int, int]]:
        """The segments with the image's bytes from `start` up to `end`: (number, offset in the file, size) of each."""
        places = [
            (number, stream.LAYOUT.segment(number, self._payload_size)) for number in stream.LAYOUT.segments(start, end)
        ]
        return [(number, self._header.length + place.offset, place.size) for number, place in places]

    def open(self, number: int, segment: Bytes, start: int, end: int) -> memoryview:
        """The segment's share of the image's bytes from `start` up to `end`."""
        plain = self._opener.open(number, segment)
        offset = stream.LAYOUT.segment(number, self._payload_size).plain_offset
        return memoryview(plain)[max(0, start - offset) : max(0, end - offset)]


def rewrapped(header: Header, keyring: Keyring, *, random: Random = os.urandom) -> Header:
    """The same header with the data key wrapped under the keyring's current key. Raises OtherCluster and Damaged.

    It has the same length and the same fixed part: the payload stays as it is.
    """
    nonce = random(_NONCE_SIZE)
    wrapped = AESGCM(keyring.current.user_key(header.user)).encrypt(nonce, _unwrap(header, keyring), header.fixed)
    return replace(header, key_id=keyring.current_id, nonce=nonce, wrapped_key=wrapped)


def _unwrap(header: Header, keyring: Keyring) -> bytes:
    key = keyring.find(header.key_id)
    if key is None:
        raise OtherCluster(header.key_id)
    try:
        return AESGCM(key.user_key(header.user)).decrypt(header.nonce, header.wrapped_key, header.fixed)
    except InvalidTag:
        raise Damaged from None


def _parse(beginning: bytes) -> Header | None:
    """The header at the beginning of these bytes, or None if it is incomplete. Raises as `read_header`."""
    if beginning[: len(MAGIC)] != MAGIC[: len(beginning)]:
        raise NotSealed
    if len(beginning) <= _VERSION_AT:
        return None
    if beginning[_VERSION_AT] != VERSION:
        raise UnsupportedVersion(beginning[_VERSION_AT])
    if len(beginning) <= _USER_LENGTH_AT:
        return None
    user_length = beginning[_USER_LENGTH_AT]
    size = _header_size(user_length)
    if len(beginning) < size:
        return None
    covered, check = beginning[: size - _CHECK_SIZE], beginning[size - _CHECK_SIZE : size]
    slots_at = _USER_AT + user_length
    if _check(covered) != check or user_length == 0 or beginning[slots_at] != 1:
        raise Damaged
    try:
        user = beginning[_USER_AT:slots_at].decode()
    except UnicodeDecodeError:
        raise Damaged from None
    nonce_at = slots_at + 1 + KEY_ID_SIZE
    wrapped_at = nonce_at + _NONCE_SIZE
    return Header(
        file_id=beginning[_FILE_ID_AT:_USER_LENGTH_AT].hex(),
        user=user,
        key_id=beginning[slots_at + 1 : nonce_at].hex(),
        nonce=beginning[nonce_at:wrapped_at],
        wrapped_key=covered[wrapped_at:],
    )


def _fixed_header(file_id: bytes, user: bytes) -> bytes:
    return MAGIC + bytes([VERSION]) + file_id + bytes([len(user)]) + user


def _header_size(user_length: int) -> int:
    return _USER_AT + user_length + _SLOTS_SIZE + _CHECK_SIZE


def _check(covered: bytes) -> bytes:
    return hashlib.sha256(covered).digest()[:_CHECK_SIZE]
