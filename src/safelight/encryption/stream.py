"""The payload of a sealed file: authenticated encryption in segments, from chunks of any size.

The wire format is that of Tink's AES-GCM-HKDF streaming AEAD with derived keys of 16 bytes and HKDF-SHA256
(https://developers.google.com/tink/streaming-aead/aes_gcm_hkdf_streaming), an instance of the STREAM
construction (Hoang, Reyhanitabar, Rogaway, Vizár: Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance, CRYPTO 2015):

    payload = header || segment 0 || segment 1 || …        header = 24 || salt (16) || nonce prefix (7)
    segment = AES-128-GCM(HKDF(key, salt, info = associated data), nonce, plaintext), tag included
    nonce   = nonce prefix || segment number (u32, big-endian) || 1 in the last segment, else 0

Cut the payload at every multiple of the segment size to get the segments; the header takes its 24 bytes from the first.
The nonce marks the last segment, so both sides hold a full segment until they know whether more follows. They hold the
pieces in which it arrived, without a copy: each piece passes through the cipher into the segment's output. These
buffers are all the memory that a stream uses.

`update` and `finish` return new buffers that nothing writes to again. Views into one reused buffer measured 10 %
faster, but event loops keep a buffer until the socket takes it, beyond `drain()`: reuse would corrupt data that is
still to be sent.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import AEADDecryptionContext, AEADEncryptionContext, Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from safelight.encryption.errors import Damaged, TooLarge
from safelight.encryption.keys import Random

Bytes = bytes | bytearray | memoryview

KEY_SIZE = 16
TAG_SIZE = 16
SALT_SIZE = 16
NONCE_PREFIX_SIZE = 7
HEADER_SIZE = 1 + SALT_SIZE + NONCE_PREFIX_SIZE
MAX_SEGMENTS = 1 << 32  # the nonce's counter has 32 bits
MOST_PIECES = 64
"""Pieces of one segment; more are joined, so that a client that sends single bytes does not cost a view for each."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The position of one segment, in bytes; `offset` counts from the beginning of the payload."""

    offset: int
    size: int
    plain_offset: int
    last: bool

    @property
    def plain_size(self) -> int:
        return self.size - TAG_SIZE


@dataclass(frozen=True, slots=True)
class Layout:
    """The arithmetic of a payload whose ciphertext segments have `segment_size` bytes. Files use 1 MiB."""

    segment_size: int

    def payload_size(self, plain_size: int) -> int:
        """The size in bytes of the payload for `plain_size` bytes of plaintext. Raises TooLarge."""
        segments = max(1, _ceil(plain_size + HEADER_SIZE, self.segment_size - TAG_SIZE))
        if segments > MAX_SEGMENTS:
            raise TooLarge
        return HEADER_SIZE + plain_size + segments * TAG_SIZE

    def plain_size(self, payload_size: int) -> int:
        """The inverse of `payload_size`. Raises Damaged for a size that no payload has."""
        segments = max(1, _ceil(payload_size, self.segment_size))
        plain_size = payload_size - HEADER_SIZE - segments * TAG_SIZE
        if plain_size < 0 or segments > MAX_SEGMENTS or self.payload_size(plain_size) != payload_size:
            raise Damaged
        return plain_size

    def segment(self, number: int, payload_size: int) -> Segment:
        """The position of segment `number` of a payload, to read it alone. Raises IndexError past the last."""
        count = _ceil(payload_size, self.segment_size)
        if not 0 <= number < count:
            raise IndexError(f"segment {number} of {count}")
        offset = max(HEADER_SIZE, number * self.segment_size)
        end = min(payload_size, (number + 1) * self.segment_size)
        plain_offset = max(0, number * (self.segment_size - TAG_SIZE) - HEADER_SIZE)
        return Segment(offset, end - offset, plain_offset, last=number == count - 1)

    def segments(self, start: int, end: int) -> range:
        """The numbers of the segments that contain the plaintext from `start` up to `end` (exclusive)."""
        plain = self.segment_size - TAG_SIZE
        return range((start + HEADER_SIZE) // plain, _ceil(end + HEADER_SIZE, plain)) if start < end else range(0)


LAYOUT = Layout(segment_size=1 << 20)


def segment_nonce(prefix: bytes, number: int, last: bool) -> bytes:
    """The 12-byte nonce of one segment."""
    return prefix + number.to_bytes(4, "big") + bytes([last])


class _Stream:
    """Cuts its input into segments and transforms each; holds one back until it is known whether it is the last.

    No reference cycles, and the end drops what was held: a node has thousands of streams, and their buffers would
    accumulate until the garbage collector runs.
    """

    def __init__(self, prefix: bytes, first: int, rest: int) -> None:
        self._prefix = prefix
        self._number = 0
        self._size = first  # of the segment that is being filled
        self._rest = rest  # size of all segments but the first
        self._held: list[memoryview] = []
        self._filled = 0
        self._open = True

    def update(self, chunk: Bytes) -> list[Bytes]:
        """Take a chunk; return the segments that it completed, in order, often none."""
        self._check_open()
        data = memoryview(chunk)
        released: list[Bytes] = []
        while len(data) > (missing := self._size - self._filled):  # more follows, so this one is not the last
            released.append(self._next([*self._held, data[:missing]], last=False))
            self._held, self._filled = [], 0
            data = data[missing:]
        self._hold(data)
        return released

    def finish(self) -> Bytes:
        """End the input; return the last segment."""
        self._check_open()
        return self._next(self._held, last=True)

    def _check_open(self) -> None:
        if not self._open:
            raise ValueError("this stream has finished or failed")

    def _next(self, pieces: Sequence[memoryview], last: bool) -> Bytes:
        self._open, self._held = False, []  # it stays closed if this raises: nothing is released after a failure
        if self._number >= MAX_SEGMENTS:
            raise TooLarge
        out = self._transform(segment_nonce(self._prefix, self._number, last), pieces)
        self._number += 1
        self._size = self._rest
        self._open = not last
        return out

    def _transform(self, nonce: bytes, pieces: Sequence[memoryview]) -> Bytes:
        raise NotImplementedError

    def _hold(self, data: memoryview) -> None:
        if data:
            self._held.append(data if data.readonly else memoryview(bytes(data)))  # the caller may write to it again
            self._filled += len(data)
        if len(self._held) > MOST_PIECES:
            self._held = [memoryview(b"".join(self._held))]


class StreamEncryptor(_Stream):
    """Encrypts plaintext into segments. `header` comes before them.

    `update` and `finish` raise TooLarge after 2^32 segments.
    """

    def __init__(
        self, key: bytes, associated_data: bytes, *, layout: Layout = LAYOUT, random: Random = os.urandom
    ) -> None:
        salt, prefix = random(SALT_SIZE), random(NONCE_PREFIX_SIZE)
        self.header = bytes([HEADER_SIZE]) + salt + prefix
        rest = layout.segment_size - TAG_SIZE
        super().__init__(prefix, rest - HEADER_SIZE, rest)
        self._key = _derived(key, salt, associated_data)

    def _transform(self, nonce: bytes, pieces: Sequence[memoryview]) -> Bytes:
        cipher = Cipher(AES128(self._key), GCM(nonce)).encryptor()
        out = bytearray(sum(map(len, pieces)) + TAG_SIZE)
        _pass(pieces, cipher, out)
        cipher.finalize()
        out[-TAG_SIZE:] = cipher.tag
        return out


class StreamDecryptor(_Stream):
    """Decrypts the payload's segments, which follow its 24-byte header, into plaintext.

    Releases a byte only after its whole segment is verified. Only `finish` proves that the payload is complete: until
    then what was released is a verified prefix.

    Raises Damaged, also from the constructor, for a payload that differs from what was sealed under this key and
    associated data. After that it releases nothing.
    """

    def __init__(self, key: bytes, associated_data: bytes, header: bytes, *, layout: Layout = LAYOUT) -> None:
        salt, prefix = _salt_and_prefix(header)
        super().__init__(prefix, layout.segment_size - HEADER_SIZE, layout.segment_size)
        self._key = _derived(key, salt, associated_data)

    def _transform(self, nonce: bytes, pieces: Sequence[memoryview]) -> Bytes:
        size = sum(map(len, pieces)) - TAG_SIZE
        _check_size(size, self._number)
        pieces, tag = _cut_off(pieces, TAG_SIZE)
        cipher = Cipher(AES128(self._key), GCM(nonce, tag)).decryptor()
        out = bytearray(size + TAG_SIZE)
        _pass(pieces, cipher, out)
        try:
            cipher.finalize()
        except InvalidTag:
            raise Damaged from None
        del out[size:]
        return out


class SegmentDecryptor:
    """Decrypts single segments of a payload, in any order, to read a part of an image.

    Raises Damaged (from the constructor too), as `StreamDecryptor` does. Only a caller that opens all segments knows
    that the payload is complete.
    """

    def __init__(
        self, key: bytes, associated_data: bytes, header: bytes, payload_size: int, *, layout: Layout = LAYOUT
    ) -> None:
        salt, self._prefix = _salt_and_prefix(header)
        self._cipher = AESGCM(_derived(key, salt, associated_data))
        self._payload_size, self._layout = payload_size, layout

    def open(self, number: int, segment: Bytes) -> Bytes:
        place = self._layout.segment(number, self._payload_size)
        if len(segment) != place.size:
            raise Damaged
        _check_size(place.plain_size, number)
        out = bytearray(place.plain_size)
        try:
            self._cipher.decrypt_into(segment_nonce(self._prefix, number, place.last), segment, None, out)
        except InvalidTag:
            raise Damaged from None
        return out


def _check_size(plain_size: int, number: int) -> None:
    """Only an empty plaintext has an empty segment, so each plaintext has one layout. Raises Damaged."""
    if plain_size < (number > 0):
        raise Damaged


def _pass(pieces: Sequence[memoryview], cipher: AEADEncryptionContext | AEADDecryptionContext, out: bytearray) -> None:
    """Pass the pieces through the cipher into `out`, which is longer by TAG_SIZE (the cipher needs a spare block)."""
    with memoryview(out) as view:
        at = 0
        for piece in pieces:
            at += cipher.update_into(piece, view[at:])


def _cut_off(pieces: Sequence[memoryview], size: int) -> tuple[Sequence[memoryview], bytes]:
    """The pieces without their last `size` bytes, and those bytes."""
    rest, end = list(pieces), b""
    while len(end) < size:
        piece = rest.pop()
        at = max(0, len(piece) - (size - len(end)))
        end = bytes(piece[at:]) + end
        if at:
            rest.append(piece[:at])
    return rest, end


def _salt_and_prefix(header: bytes) -> tuple[bytes, bytes]:
    if len(header) != HEADER_SIZE or header[0] != HEADER_SIZE:
        raise Damaged
    return header[1 : 1 + SALT_SIZE], header[1 + SALT_SIZE :]


def _derived(key: bytes, salt: bytes, associated_data: bytes) -> bytes:
    """The key of one payload."""
    return HKDF(SHA256(), KEY_SIZE, salt=salt, info=associated_data).derive(key)


def _ceil(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)
