"""Where the bytes of a response go: a part file, or memory. An attempt that breaks off starts again from nothing."""

from typing import Protocol

CHUNK = 1 << 20
"""Bytes that are received at a time, at most."""


class Sink(Protocol):
    """What takes a response's body, piece by piece."""

    def restart(self) -> None:
        """Throw away what was written, for another attempt."""

    async def append(self, data: bytes) -> None:
        """Take the next piece. Raises CannotWrite."""


class Memory:
    """A sink for what its user wants as `bytes`."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def restart(self) -> None:
        self._pieces.clear()

    async def append(self, data: bytes) -> None:
        self._pieces.append(data)

    def content(self) -> bytes:
        return b"".join(self._pieces)
