"""Keys, the sealed format and the classic format: no network, no clock, no disk.

Both formats are pushed through in chunks of any size, in constant memory:

    sealer = seal(Scheme.SEALED, "alice", keyring)
    for chunk in image:
        for piece in sealer.update(chunk):
            file.write(piece)
    file.write(sealer.finish())

and `open_` likewise. What comes out is bytes of their own: keep them, or hand them to a transport, freely.
A sealer or opener serves one file; after `finish`, or after an error, make another.
"""

import os
from enum import StrEnum
from typing import Protocol

from safelight.encryption import classic, sealed
from safelight.encryption.keys import Keyring, Random
from safelight.encryption.stream import Bytes


class Scheme(StrEnum):
    """How an image is encrypted. Always said, never detected."""

    SEALED = "sealed"
    CLASSIC = "classic"


class Sealer(Protocol):
    """An image in, a complete file out: join what `update` and `finish` return."""

    def update(self, chunk: Bytes, /) -> list[Bytes]: ...

    def finish(self) -> Bytes: ...


class Opener(Protocol):
    """A complete file in, the image out. Each method raises a CannotOpen that says what is wrong.

    What `update` returns is verified (in a sealed file), yet only when `finish` returns is it known to be
    complete: a caller that passes it on before must be able to revoke it or to abort visibly.
    """

    def update(self, chunk: Bytes, /) -> list[Bytes]: ...

    def finish(self) -> Bytes: ...

    def plain_size(self, file_size: int, /) -> int | None:
        """The size of the image in a file of so many bytes; None while too little was pushed in to tell."""


def seal(scheme: Scheme, user: str, keyring: Keyring, *, random: Random = os.urandom) -> Sealer:
    """Begin a file for the user. Raises ValueError for a name that no file can hold (1 to 255 bytes)."""
    if scheme is Scheme.CLASSIC:
        return classic.ClassicSealer(user, random=random)
    return sealed.FileSealer(user, keyring, random=random)


def open_(scheme: Scheme, user: str, keyring: Keyring) -> Opener:
    """Begin to open a file as the user."""
    if scheme is Scheme.CLASSIC:
        return classic.ClassicOpener(user)
    return sealed.FileOpener(user, keyring)


def sealed_size(scheme: Scheme, plain_size: int, user: str) -> int:
    """The exact size of the complete file for an image of `plain_size` bytes. Raises TooLarge."""
    if scheme is Scheme.CLASSIC:
        return classic.sealed_size(plain_size)
    return sealed.sealed_size(plain_size, user)
