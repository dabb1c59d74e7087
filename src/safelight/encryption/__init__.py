"""Keys, the sealed format and the classic format: no network, no clock, no disk.

Sealers and openers take chunks of any size and use constant memory:

    sealer = seal(Scheme.SEALED, "alice", keyring)
    for chunk in image:
        for piece in sealer.update(chunk):
            file.write(piece)
    file.write(sealer.finish())

`open_` works in the same way. The returned buffers belong to the caller: nothing writes to them again. A sealer or
opener serves one file; after `finish`, or after an error, create another. docs/format.md specifies both formats.
"""

import os
from enum import StrEnum
from typing import Protocol

from safelight.encryption import classic, sealed
from safelight.encryption.keys import Keyring, Random
from safelight.encryption.stream import Bytes


class Scheme(StrEnum):
    """How an image is encrypted. The caller always states it; it is never detected."""

    SEALED = "sealed"
    CLASSIC = "classic"


class Sealer(Protocol):
    """Encrypts an image into a complete file: the concatenation of what `update` and `finish` return."""

    def update(self, chunk: Bytes, /) -> list[Bytes]: ...

    def finish(self) -> Bytes: ...


class Opener(Protocol):
    """Decrypts a complete file into the image. Each method raises CannotOpen with the reason.

    What `update` returns from a sealed file is verified, but only `finish` proves that it is complete: a caller that
    passes data on before must be able to take it back or to break off visibly.
    """

    def update(self, chunk: Bytes, /) -> list[Bytes]: ...

    def finish(self) -> Bytes: ...


def seal(scheme: Scheme, user: str, keyring: Keyring, *, random: Random = os.urandom) -> Sealer:
    """Start a file for a user. Raises ValueError for a user name that is not 1 to 255 bytes long."""
    if scheme is Scheme.CLASSIC:
        return classic.ClassicSealer(user, random=random)
    return sealed.FileSealer(user, keyring, random=random)


def open_(scheme: Scheme, user: str, keyring: Keyring) -> Opener:
    """Start to open a file as a user."""
    if scheme is Scheme.CLASSIC:
        return classic.ClassicOpener(user)
    return sealed.FileOpener(user, keyring)


def sealed_size(scheme: Scheme, plain_size: int, user: str) -> int:
    """The exact size in bytes of the complete file for an image of `plain_size` bytes. Raises TooLarge."""
    if scheme is Scheme.CLASSIC:
        return classic.sealed_size(plain_size)
    return sealed.sealed_size(plain_size, user)
