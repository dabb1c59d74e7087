"""One user's work with the cluster: images in, sealed files out, and back."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from safelight import names
from safelight.client import inputs, outputs
from safelight.client.account import Account
from safelight.client.errand import Errand
from safelight.client.feedback import Feedback
from safelight.client.servers import Servers
from safelight.config import Config
from safelight.imagetypes import HEAD, sniff
from safelight.protocol import Action, Offer, Problem, Refusal, Scheme

BLINK = 0.1
"""Seconds that nobody needs to be told of; a disk takes longer to sync what is large."""


@dataclass(frozen=True)
class Saved:
    """The file that was put in place, the node that did the work, and the file's size in bytes."""

    path: Path
    node: int
    size: int


class Session:
    """A user at a cluster; an async context manager."""

    def __init__(self, config: Config, user: str) -> None:
        self._config = config
        self._servers = Servers(config)
        self._account = Account(config, self._servers, user)
        self._swept: set[Path] = set()

    async def __aenter__(self) -> Self:
        await self._servers.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._servers.__aexit__(kind, error, trace)

    async def seal(
        self,
        path: str | Path,
        *,
        to: Path,
        scheme: Scheme = Scheme.SEALED,
        any_type: bool = False,
        feedback: Feedback,
    ) -> Saved:
        """Encrypt the image at `path` into a new file in the directory `to`. Raises SafelightError."""
        with inputs.open_image(path, any_type=any_type, max_size=self._config.max_image_size) as source:
            extension = source.extension or "bin"
            now = int(time.time())
            name = Path(path).name
            wanted = (names.encrypted_name(name, now + later, extension) for later in count())
            return await self._transform(source, Action.SEAL, scheme, to, wanted, outputs.Reservation.commit, feedback)

    async def open(self, path: str | Path, *, to: Path, scheme: Scheme = Scheme.SEALED, feedback: Feedback) -> Saved:
        """Decrypt the file at `path` into a new file in the directory `to`. Raises SafelightError."""
        with inputs.open_image(path, any_type=True, max_size=sys.maxsize) as source:
            name = names.decrypted_name(Path(path).name)
            wanted = (names.counted(name, number) for number in count(1))
            return await self._transform(source, Action.OPEN, scheme, to, wanted, _commit_opened, feedback)

    async def fingerprint(self) -> str:
        """What an operator needs to add this user: the SHA-256 of its token, made now if there is none."""
        return await self._account.fingerprint()

    # -- one image -----------------------------------------------------------------------------------

    async def _transform(
        self,
        source: inputs.Source,
        action: Action,
        scheme: Scheme,
        to: Path,
        wanted: Iterator[str],
        commit: Callable[[outputs.Reservation], None],
        feedback: Feedback,
    ) -> Saved:
        if to not in self._swept:
            outputs.sweep(to)
            self._swept.add(to)
        while True:
            with outputs.reserve(to, wanted) as reservation:
                offer = Offer(
                    user=self._account.user,
                    upload=secrets.token_hex(16),
                    name=reservation.name,
                    size=source.size,
                    action=action,
                    scheme=scheme,
                    cluster=await self._account.cluster(),
                )
                errand = Errand(self._config, self._servers, self._account, offer, source, reservation, feedback)
                try:
                    node = await errand.run()
                except Refusal as refusal:
                    if refusal.problem is Problem.IMAGE_TAKEN:  # in the vault, by an upload from elsewhere
                        continue
                    raise
                saving = asyncio.get_running_loop().call_later(BLINK, feedback.waiting, "saving")
                try:
                    await _in_thread(lambda: commit(reservation))
                except outputs.NameTaken:
                    continue
                finally:
                    saving.cancel()
                return Saved(reservation.path, node, reservation.path.stat().st_size)


def _commit_opened(reservation: outputs.Reservation) -> None:
    """Under a suffix that says what the image is, if the reserved name has none.

    Nobody else knows an opened image's name yet: it may change until the last moment.
    """
    image_type = sniff(os.pread(reservation.file.fileno(), HEAD, 0))
    if image_type is None or (better := names.with_type(reservation.name, image_type.extension)) == reservation.name:
        reservation.commit()
        return
    for number in count(1):
        with suppress(outputs.NameTaken):
            reservation.commit(names.counted(better, number))
            return


async def _in_thread(work: Callable[[], None]) -> None:
    """Do it while the event loop goes on. Cancelled, wait for its end: its file must not be closed under it."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as told:
            cancelled = told
    if cancelled:
        running.exception()  # looked at, or asyncio would report it as forgotten
        raise cancelled
    running.result()
