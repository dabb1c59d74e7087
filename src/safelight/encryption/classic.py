"""The classic file: 16 random bytes, then AES-128 in counter mode under SHA-256(username)[:16].

The 16 bytes are the initial counter block of NIST SP 800-38A, section 6.5, so `openssl enc -d -aes-128-ctr` opens the
rest of the file. Anyone who knows the username can open it, and nothing is authenticated: a changed byte, a missing end
or another user's name gives another image and no error. The format is for learning; docs/format.md specifies it.
"""

import os

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import CTR

from safelight.encryption.errors import ClassicIsSealed, ClassicTooShort
from safelight.encryption.keys import Random, classic_key
from safelight.encryption.sealed import MAGIC
from safelight.encryption.stream import Bytes

COUNTER_SIZE = 16


def sealed_size(plain_size: int) -> int:
    """The size in bytes of the classic file for an image of `plain_size` bytes."""
    return COUNTER_SIZE + plain_size


def plain_size(file_size: int) -> int:
    """The image's size in bytes in a classic file of `file_size` bytes. Raises ClassicTooShort."""
    if file_size < COUNTER_SIZE:
        raise ClassicTooShort
    return file_size - COUNTER_SIZE


class ClassicSealer:
    """Encrypts an image into a classic file: the concatenation of what `update` and `finish` return."""

    def __init__(self, user: str, *, random: Random = os.urandom) -> None:
        self._counter = random(COUNTER_SIZE)  # until it is released
        self._cipher = Cipher(AES128(classic_key(user)), CTR(self._counter)).encryptor()

    def update(self, chunk: Bytes) -> list[Bytes]:
        pieces = [self._counter, self._cipher.update(chunk)]
        self._counter = b""
        return [piece for piece in pieces if piece]

    def finish(self) -> Bytes:
        return self._counter + self._cipher.finalize()


class ClassicOpener:
    """Decrypts a classic file: into the image if the file is intact and the user's, else into noise.

    `update` and `finish` raise ClassicIsSealed for a sealed file; `finish` raises ClassicTooShort.
    """

    def __init__(self, user: str) -> None:
        self._key = AES128(classic_key(user))
        self._beginning = bytearray()  # until it is a whole counter block
        self._cipher: CipherContext | None = None

    def update(self, chunk: Bytes) -> list[Bytes]:
        data = memoryview(chunk)
        if self._cipher is None:
            taken = COUNTER_SIZE - len(self._beginning)
            self._beginning += data[:taken]
            data = data[taken:]
            if self._beginning.startswith(MAGIC):
                raise ClassicIsSealed
            if len(self._beginning) < COUNTER_SIZE:
                return []
            self._cipher = Cipher(self._key, CTR(bytes(self._beginning))).decryptor()
        return [self._cipher.update(data)] if data else []

    def finish(self) -> Bytes:
        if self._cipher is None:
            raise ClassicTooShort
        return self._cipher.finalize()
