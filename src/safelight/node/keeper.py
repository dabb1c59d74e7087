"""A node's hold on the vault: opened as soon as it can be, tidied, and swept while the node leads.

A bucket that is away is everybody's trouble: the node runs without it, answers that the vault is away, and goes on
trying. What no trying would mend ends the node's start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from safelight.config import Config
from safelight.encryption.keys import Keyring
from safelight.errors import SafelightError
from safelight.vault.directory import Directory
from safelight.vault.opening import NONE, open_vault
from safelight.vault.store import StoreError
from safelight.vault.upkeep import sweep
from safelight.vault.vault import Vault

FIRST_TRY = 3.0
"""Seconds that a node's start waits for its vault."""

RETRY = 2.0
"""Seconds between two attempts to open it."""

SWEEP = 3600.0
"""Seconds between two sweeps: a listing of all bodies, and a record read for each of those that are old."""


class Keeper:
    """One node's keeper."""

    def __init__(
        self,
        config: Config,
        keyring: Callable[[], Keyring],
        *,
        leads: Callable[[], bool],
        say: Callable[[str], None],
        interval: float = SWEEP,
    ) -> None:
        self._config, self._keyring, self._leads, self._say, self._interval = config, keyring, leads, say, interval
        self._vault: Vault | None = None
        self._trouble = "the vault is not open yet"
        self._task: asyncio.Task[None] | None = None

    @property
    def vault(self) -> Vault | None:
        """The vault; None where the cluster has none. Raises StoreError while it is away."""
        if self._vault is None and self._config.vault != NONE:
            raise StoreError(self._trouble)
        return self._vault

    async def start(self) -> None:
        """Open the vault, or begin to try, and look after it until `stop`. Raises CannotUseVault."""
        if self._config.vault == NONE:
            return
        opening = asyncio.create_task(self._open())
        await asyncio.wait({opening}, timeout=FIRST_TRY)
        if opening.done():
            try:
                await opening
            except StoreError as error:
                self._tell(error)
        self._task = asyncio.create_task(self._look_after(opening))

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._vault is not None:
            await self._vault.store.close()

    async def _open(self) -> None:
        self._vault = await open_vault(self._config, self._keyring)

    async def _look_after(self, opening: asyncio.Task[None]) -> None:
        while self._vault is None:
            try:
                await opening
            except SafelightError as error:
                self._tell(error)
                await asyncio.sleep(RETRY)
                opening = asyncio.create_task(self._open())
        while True:
            if isinstance(self._vault.store, Directory):
                await self._tend(self._vault.store.tidy(), "half-written files of an earlier crash")
            await asyncio.sleep(self._interval)
            if self._leads():
                await self._tend(sweep(self._vault), "bodies that belonged to no image")

    async def _tend(self, removing: Coroutine[object, object, int], what: str) -> None:
        """Do some housekeeping, which may fail: there is always a next time."""
        try:
            removed = await removing
        except SafelightError as error:
            self._say(f"the vault could not be swept: {error}")
        else:
            if removed:
                self._say(f"swept the vault: removed {removed} {what}")

    def _tell(self, error: SafelightError) -> None:
        """Say what keeps the vault closed; the same once."""
        if str(error) != self._trouble:
            self._trouble = str(error)
            self._say(f"WARNING: {error}")
