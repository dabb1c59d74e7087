"""The way of an image through a node: from the request's body, through the cipher, into a spool.

A spool holds ciphertext only, in memory up to a segment or two, then in a file that has no name and so
vanishes with its process. Memory does not grow with the image, and nothing is left behind.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from aiohttp import StreamReader

from safelight.config import Config
from safelight.encryption import Scheme, open_, seal, sealed_size
from safelight.encryption.keys import Keyring
from safelight.protocol import Action, Problem, Refusal

IN_MEMORY = 2 << 20
"""Bytes that a spool keeps in memory: a small image never touches the disk."""

CHUNK = 256 * 1024
"""Bytes that are read from a spool at a time."""

AT_ONCE = 64
"""Images in work at the same time; more wait with their bodies unread."""


@dataclass(frozen=True)
class Job:
    """One admitted request. `size` is what the client announced, None if it could not say."""

    user: str
    upload: str
    name: str
    size: int | None
    action: Action
    scheme: Scheme


class Spool:
    """Bytes that wait to be sent."""

    def __init__(self, directory: str) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY, dir=directory)  # noqa: SIM115 — `close` closes it
        self.size = 0

    async def write(self, pieces: Iterable[bytes]) -> None:
        pieces = list(pieces)
        added = sum(map(len, pieces))
        if not added:
            return
        if self.size + added > IN_MEMORY:
            await asyncio.to_thread(self._file.writelines, pieces)
        else:
            self._file.writelines(pieces)
        self.size += added

    async def chunks(self) -> AsyncIterator[bytes]:
        """Everything from the beginning."""
        await asyncio.to_thread(self._file.seek, 0) if self.size > IN_MEMORY else self._file.seek(0)
        while chunk := (
            await asyncio.to_thread(self._file.read, CHUNK) if self.size > IN_MEMORY else self._file.read()
        ):
            yield chunk

    def close(self) -> None:
        self._file.close()


class Workshop:
    """Does what jobs ask for, for one node."""

    def __init__(self, config: Config, keyring: Keyring) -> None:
        self._config = config
        self._keyring = keyring
        self.places = asyncio.Semaphore(AT_ONCE)

    def limit(self, job: Job) -> int:
        """The largest body that the job may have, in bytes."""
        largest = self._config.max_image_size
        return largest if job.action is Action.SEAL else sealed_size(job.scheme, largest, job.user)

    def check_size(self, job: Job) -> None:
        """Raises Refusal (TOO_LARGE, BAD_REQUEST)."""
        if job.size is not None and job.size > self.limit(job):
            raise Refusal(
                Problem.TOO_LARGE,
                f"{job.size} bytes are more than the {self.limit(job)} that this cluster takes: "
                "its operator can raise max_image_size",
            )
        if job.size == 0:
            raise Refusal(Problem.BAD_REQUEST, "the body is empty: there is nothing to encrypt or to open")

    async def seal(self, job: Job, body: StreamReader) -> Spool:
        """The sealed file of the body. Raises Refusal."""
        sealer = seal(job.scheme, job.user, self._keyring)
        spool = Spool(str(self._config.data_dir))
        try:
            async for chunk in self._read(job, body):
                await spool.write(sealer.update(chunk))
            await spool.write([sealer.finish()])
        except BaseException:
            spool.close()
            raise
        return spool

    async def verify(self, job: Job, body: StreamReader) -> tuple[Spool, int]:
        """The sealed file as it came, when all of it has proved genuine, and its image's size in bytes.

        Raises CannotOpen, Refusal. So a damaged file is refused with a reason, before a byte of the image
        is released; opening it a second time, from the spool, costs less than taking back a wrong answer.
        """
        opener = open_(job.scheme, job.user, self._keyring)
        spool = Spool(str(self._config.data_dir))
        size = 0
        try:
            async for chunk in self._read(job, body):
                size += sum(map(len, opener.update(chunk)))
                await spool.write([chunk])
            size += len(opener.finish())
        except BaseException:
            spool.close()
            raise
        return spool, size

    async def opened(self, job: Job, spool: Spool) -> AsyncIterator[bytes]:
        """The image in a sealed file. Raises CannotOpen."""
        opener = open_(job.scheme, job.user, self._keyring)
        async for chunk in spool.chunks():
            for piece in opener.update(chunk):
                yield piece
        yield opener.finish()

    async def _read(self, job: Job, body: StreamReader) -> AsyncIterator[bytes]:
        """The body, as long as it moves, and as long as announced."""
        limit, received = self.limit(job), 0
        while True:
            try:
                async with asyncio.timeout(self._config.body_timeout):
                    chunk = await body.readany()
            except TimeoutError:
                raise Refusal(
                    Problem.STALLED, f"no byte came for {self._config.body_timeout:g} s: send the image again"
                ) from None
            if not chunk:
                break
            received += len(chunk)
            if received > limit:
                raise Refusal(Problem.TOO_LARGE, f"the body is larger than the {limit} bytes taken here")
            yield chunk
        if received == 0:
            raise Refusal(Problem.BAD_REQUEST, "the body is empty: there is nothing to encrypt or to open")
        if job.size is not None and received != job.size:
            raise Refusal(Problem.BAD_LENGTH, f"{job.size} bytes were announced, {received} came")
