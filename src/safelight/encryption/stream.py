"""The payload of a sealed file: authenticated encryption in segments, pushed through in any chunks.

The wire format is that of Tink's AES-GCM-HKDF streaming AEAD with derived keys of 16 bytes and HKDF-SHA256
(https://developers.google.com/tink/streaming-aead/aes_gcm_hkdf_streaming), an instance of the STREAM
construction (Hoang, Reyhanitabar, Rogaway, Vizár: Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance, CRYPTO 2015):

    payload = header || segment 0 || segment 1 || …        header = 24 || salt (16) || nonce prefix (7)
    segment = AES-128-GCM(HKDF(key, salt, info = associated data), nonce, plaintext), tag included
    nonce   = nonce prefix || segment number (u32, big-endian) || 1 in the last segment, else 0

Cut the payload at every multiple of the segment size and you have the segments; the header takes its 24 bytes
from the first. Because the nonce tells the last segment, a full segment waits until it is known whether more
follows, on both sides; that, and one segment's output, is all the memory there is.

What `update` and `finish` return is fresh bytes that nobody writes to again. Views into one reused buffer
measured 10 % faster, but event loops keep what they are given until the socket takes it, beyond `drain()`: a
reused buffer would corrupt what is still on its way.
"""

import os
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
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


@dataclass(frozen=True, slots=True)
class Segment:
    """Where one segment lies, in bytes; `offset` counts from the beginning of the payload."""

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
        """The size of the payload of so many bytes of plaintext. Raises TooLarge."""
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
        """Where segment `number` of a payload lies, for reading it alone. Raises IndexError past the last."""
        count = _ceil(payload_size, self.segment_size)
        if not 0 <= number < count:
            raise IndexError(f"segment {number} of {count}")
        offset = max(HEADER_SIZE, number * self.segment_size)
        end = min(payload_size, (number + 1) * self.segment_size)
        plain_offset = max(0, number * (self.segment_size - TAG_SIZE) - HEADER_SIZE)
        return Segment(offset, end - offset, plain_offset, last=number == count - 1)

    def segments(self, start: int, end: int) -> range:
        """The numbers of the segments that hold the plaintext from `start` up to `end` (not included)."""
        plain = self.segment_size - TAG_SIZE
        return range((start + HEADER_SIZE) // plain, _ceil(end + HEADER_SIZE, plain)) if start < end else range(0)


LAYOUT = Layout(segment_size=1 << 20)


def segment_nonce(prefix: bytes, number: int, last: bool) -> bytes:
    """The 12-byte nonce of one segment."""
    return prefix + number.to_bytes(4, "big") + bytes([last])


_NOTHING = memoryview(bytearray())


class _Stream:
    """Cuts what is pushed into segments and transforms each, holding one back until its place is known.

    Nothing here refers to itself, and what was held is dropped at the end: a node has thousands of streams, and
    the garbage collector would let their buffers pile up before it looks.
    """

    def __init__(self, prefix: bytes, first: int, rest: int) -> None:
        self._prefix = prefix
        self._number = 0
        self._size = first  # of the segment that is being filled
        self._rest = rest  # the size of all segments but the first
        self._held = _NOTHING
        self._filled = 0
        self._open = True

    def update(self, chunk: Bytes) -> list[bytes]:
        """Push bytes in; get out what became complete, in order, often nothing."""
        self._check_open()
        data = memoryview(chunk)
        released = []
        while len(data) > (missing := self._size - self._filled):  # more follows, so this one is not the last
            if self._filled:
                self._hold(data[:missing])
                segment = self._held[: self._size]
            else:
                segment = data[:missing]
            released.append(self._next(segment, last=False))
            self._filled = 0
            data = data[missing:]
        self._hold(data)
        return released

    def finish(self) -> bytes:
        """Say that nothing more follows; get the last segment."""
        self._check_open()
        return self._next(self._held[: self._filled], last=True)

    def _check_open(self) -> None:
        if not self._open:
            raise ValueError("this stream has finished or failed")

    def _next(self, segment: memoryview, last: bool) -> bytes:
        self._open = False  # and it stays so if this raises: nothing is released after a failure
        held, self._held = self._held, _NOTHING
        if self._number >= MAX_SEGMENTS:
            raise TooLarge
        out = self._transform(segment_nonce(self._prefix, self._number, last), segment)
        self._number += 1
        self._size = self._rest
        if not last:
            self._open, self._held = True, held
        return out

    def _transform(self, nonce: bytes, segment: Bytes) -> bytes:
        raise NotImplementedError

    def _hold(self, data: memoryview) -> None:
        end = self._filled + len(data)
        if end > len(self._held):  # small images get small buffers; large ones reach a segment in a few steps
            grown = memoryview(bytearray(min(self._rest, max(end, 4 * len(self._held)))))
            grown[: self._filled] = self._held[: self._filled]
            self._held = grown
        self._held[self._filled : end] = data
        self._filled = end


class Sealer(_Stream):
    """Plaintext in, sealed segments out. `header` goes before them.

    `update` and `finish` raise TooLarge after 2^32 segments.
    """

    def __init__(
        self, key: bytes, associated_data: bytes, *, layout: Layout = LAYOUT, random: Random = os.urandom
    ) -> None:
        salt, prefix = random(SALT_SIZE), random(NONCE_PREFIX_SIZE)
        self.header = bytes([HEADER_SIZE]) + salt + prefix
        rest = layout.segment_size - TAG_SIZE
        super().__init__(prefix, rest - HEADER_SIZE, rest)
        self._cipher = _cipher(key, salt, associated_data)

    def _transform(self, nonce: bytes, segment: Bytes) -> bytes:
        return self._cipher.encrypt(nonce, segment, None)


class Opener(_Stream):
    """The payload's segments in (after its 24-byte header), plaintext out.

    A byte is released only when its whole segment is verified. Whether the payload is complete is known only
    when `finish` returns: until then what was released is a verified beginning.

    Raises Damaged (from the constructor too) for a payload that is not exactly what was sealed under this key
    and associated data. After that nothing more comes out.
    """

    def __init__(self, key: bytes, associated_data: bytes, header: bytes, *, layout: Layout = LAYOUT) -> None:
        salt, prefix = _salt_and_prefix(header)
        super().__init__(prefix, layout.segment_size - HEADER_SIZE, layout.segment_size)
        self._cipher = _cipher(key, salt, associated_data)

    def _transform(self, nonce: bytes, segment: Bytes) -> bytes:
        return _decrypt(self._cipher, nonce, self._number, segment)


class SegmentOpener:
    """Single segments of a payload in, in any order, their plaintext out: for reading a part of an image.

    Raises Damaged (from the constructor too), as `Opener` does. Only who opens all segments knows that all are there.
    """

    def __init__(
        self, key: bytes, associated_data: bytes, header: bytes, payload_size: int, *, layout: Layout = LAYOUT
    ) -> None:
        salt, self._prefix = _salt_and_prefix(header)
        self._cipher = _cipher(key, salt, associated_data)
        self._payload_size, self._layout = payload_size, layout

    def open(self, number: int, segment: Bytes) -> bytes:
        place = self._layout.segment(number, self._payload_size)
        if len(segment) != place.size:
            raise Damaged
        return _decrypt(self._cipher, segment_nonce(self._prefix, number, place.last), number, segment)


def _decrypt(cipher: AESGCM, nonce: bytes, number: int, segment: Bytes) -> bytes:
    # Only an empty plaintext has an empty segment: one plaintext, one layout.
    if len(segment) < TAG_SIZE + (number > 0):
        raise Damaged
    try:
        return cipher.decrypt(nonce, segment, None)
    except InvalidTag:
        raise Damaged from None


def _salt_and_prefix(header: bytes) -> tuple[bytes, bytes]:
    if len(header) != HEADER_SIZE or header[0] != HEADER_SIZE:
        raise Damaged
    return header[1 : 1 + SALT_SIZE], header[1 + SALT_SIZE :]


def _cipher(key: bytes, salt: bytes, associated_data: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), KEY_SIZE, salt=salt, info=associated_data).derive(key))


def _ceil(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)
