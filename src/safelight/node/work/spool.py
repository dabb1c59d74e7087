"""Temporary storage of ciphertext that waits to be sent.

A spool is in memory up to a segment or two, then in a file without a name, which vanishes with its process. When many
spools are open, new ones are on disk from the first byte, so memory does not grow with the number of slow clients.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from safelight.encryption.stream import Bytes

IN_MEMORY, SPOOLS_IN_MEMORY = 2 << 20, 64
"""Bytes that a spool keeps in memory, and how many spools may: only in a crowd does a small image touch the disk."""

CHUNK = 256 * 1024
"""Bytes that are read from a spool at a time."""


class Spool:
    """Bytes that wait to be sent."""

    def __init__(self, directory: Path, in_memory: int, closed: Callable[[Spool], None]) -> None:
        """`in_memory`: bytes, at least 1, beyond which it moves to a file in `directory`."""
        self._file = tempfile.SpooledTemporaryFile(in_memory, dir=str(directory))  # noqa: SIM115 — `__aexit__` closes it
        self._in_memory = in_memory
        self._closed = closed
        self.size = 0

    async def write(self, pieces: Iterable[Bytes]) -> None:
        pieces = list(pieces)
        added = sum(map(len, pieces))
        if not added:
            return
        if self.size + added > self._in_memory:
            await asyncio.to_thread(self._file.writelines, pieces)
        else:
            self._file.writelines(pieces)
        self.size += added

    async def chunks(self) -> AsyncGenerator[bytes]:
        """All of it."""
        on_disk = self.size > self._in_memory
        await asyncio.to_thread(self._file.seek, 0) if on_disk else self._file.seek(0)
        while chunk := (await asyncio.to_thread(self._file.read, CHUNK) if on_disk else self._file.read()):
            yield chunk

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed(self)
        if self.size > self._in_memory:  # a file system may take seconds to free a large file
            await asyncio.to_thread(self._file.close)
        else:
            self._file.close()


class Spools:
    """The spools of one node."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: set[Spool] = set()

    def new(self) -> Spool:
        """A new spool, to be used with `async with`."""
        spool = Spool(self._directory, IN_MEMORY if len(self._open) < SPOOLS_IN_MEMORY else 1, self._open.discard)
        self._open.add(spool)
        return spool
