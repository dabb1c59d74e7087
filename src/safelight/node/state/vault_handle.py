"""A node's access to the vault: opened as soon as possible, monitored, and swept while the node leads.

While the vault is unavailable the node runs without it, says so in its answers, and retries. An error that no retry
fixes ends the node's start. The node knows the vault's health from the calls that it makes for its clients and, once
one of these fails or is slow, here or on another node, from probes. It reports that health to the health monitor.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from safelight.config import Config
from safelight.encryption.keys import Keyring
from safelight.errors import SafelightError
from safelight.runtime.tasks import cancel
from safelight.vault.bootstrap import directory_of, fault_in, open_vault
from safelight.vault.maintenance import sweep
from safelight.vault.monitored_store import MonitoredStore
from safelight.vault.store_health import CallKind, StoreHealth
from safelight.vault.stores.base import StoreError
from safelight.vault.stores.directory import DirectoryStore
from safelight.vault.vault import Vault

FIRST_TRY = 3.0
"""Seconds that a node's start waits for its vault."""

RETRY = 2.0
"""Seconds between two attempts to open it."""

LOOK = 0.5
"""Seconds between two looks at how the vault does."""

ALARM = 10.0
"""Seconds for which a node probes after another node has reported a fault, as it may have the same one."""

SWEEP = 3600.0
"""Seconds between two sweeps: a listing of all bodies, and a record read for each of those that are old."""


class Leadership(Protocol):
    """Whether this node leads (`ElectionDriver`)."""

    @property
    def leads(self) -> bool: ...


class Peers(Protocol):
    """What other nodes report of themselves (`LoadTracker`)."""

    def another_is_unhealthy(self) -> bool: ...


class VaultObserver(Protocol):
    """Learns, twice a second, why the vault is unavailable, and what may become such a reason (`HealthMonitor`)."""

    def observe_vault(self, fault: str, suspicion: str) -> None: ...


class VaultHandle:
    """One node's access to its vault, and what it knows about the vault's state."""

    def __init__(
        self,
        config: Config,
        node: int,
        keyring: Callable[[], Keyring],
        *,
        election: Leadership,
        peers: Peers,
        health: VaultObserver,
        sealed: Callable[[str], object] = str,
        log: Callable[[str], None],
        interval: float = SWEEP,
    ) -> None:
        """`sealed` as for `Vault`. `interval`: seconds between two sweeps."""
        self._node, self._election, self._peers, self._observer = node, election, peers, health
        self._sealed, self._log = sealed, log
        self._url, self._data_dir = config.vault_url, config.data_dir
        self._keyring, self._interval = keyring, interval
        self._vault: Vault | None = None
        self._fault = "the vault is not open yet"
        self._place: tuple[int, int] | None = None  # the directory's device and inode, when it was the vault last
        self._untended = ""  # why housekeeping failed the last time
        self._health = StoreHealth()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def vault(self) -> Vault:
        """The vault. Raises StoreError while it is unavailable."""
        if self._vault is None:
            raise StoreError(self._fault)
        return self._vault

    def get(self) -> Vault:
        """`vault`."""
        return self.vault

    async def start(self) -> None:
        """Open the vault, or begin to try, and look after it until `stop`. Raises CannotUseVault."""
        opening = asyncio.create_task(self._open())
        await asyncio.wait({opening}, timeout=FIRST_TRY)
        if opening.done():
            try:
                await opening
            except StoreError as error:
                self._log_once(error)
        self._tasks = [asyncio.create_task(each) for each in (self._look_after(opening), self._keep_looking())]

    async def stop(self) -> None:
        await cancel(*self._tasks)
        if self._vault is not None:
            await self._vault.store.close()

    async def _open(self) -> None:
        self._store = (await open_vault(self._url, self._data_dir, self._keyring)).store
        self._monitored = MonitoredStore(self._store, self._health)
        self._vault = Vault(self._monitored, self._keyring, sealed=self._sealed)

    # -- its health ----------------------------------------------------------------------------------

    async def _keep_looking(self) -> None:
        directory, looking, probing, calm = directory_of(self._url), None, None, time.monotonic()
        try:
            while True:
                now = time.monotonic()
                if self._vault is None:
                    self._observer.observe_vault(self._fault, "")
                else:
                    if directory is not None and (looking is None or looking.done()):
                        looking = asyncio.create_task(self._look(directory))
                    suspicion = self._health.suspicion(now)
                    if not self._peers.another_is_unhealthy():
                        calm = now
                    alarmed = 0 < now - calm < ALARM
                    if (suspicion or alarmed or self._health.unknown) and (probing is None or probing.done()):
                        probing = asyncio.create_task(self._monitored.probe(f"{self._node}"))
                    self._observer.observe_vault(self._health.reason(now), suspicion)
                await asyncio.sleep(LOOK)
        finally:
            for task in (looking, probing):
                if task is not None:
                    task.cancel()

    async def _look(self, directory: Path) -> None:
        """Look at the vault without a call of it. Costs next to nothing, and so is done also where nobody calls."""
        self._health.started(CallKind.LOOK, time.monotonic())

        def look() -> tuple[str, tuple[int, int] | None]:
            if fault := fault_in(directory, self._keyring()):
                return fault, self._place
            state = os.stat(directory)
            return "", (state.st_dev, state.st_ino)

        place = self._place
        try:
            fault, place = await asyncio.to_thread(look)
        except Exception as error:  # among them, that no thread can be started
            fault = f"the vault cannot be examined ({error})"
        self._health.answered(CallKind.LOOK, time.monotonic(), fault, probe=True)
        was, self._place = self._place, place
        if was not in (None, place):  # it has the same object `vault`, as an older copy would have
            self._log(
                f"WARNING: another directory is at {directory} than before: if it is an older copy of the vault "
                "(below a mount point, for example), put the newer one back"
            )

    # -- housekeeping --------------------------------------------------------------------------------

    async def _look_after(self, opening: asyncio.Task[None]) -> None:
        while self._vault is None:
            try:
                await opening
            except SafelightError as error:
                self._log_once(error)
                await asyncio.sleep(RETRY)
                opening = asyncio.create_task(self._open())
        while True:
            if isinstance(self._store, DirectoryStore):
                with suppress(StoreError):  # those who use the vault hear of it
                    await self._store.fill_reserve()
                await self._tend(self._store.tidy(), "half-written files of an earlier crash")
            await asyncio.sleep(self._interval)
            if self._election.leads:
                await self._tend(sweep(self._vault), "bodies that belonged to no image")

    async def _tend(self, removing: Coroutine[object, object, int], what: str) -> None:
        """Do some housekeeping, which may fail: there is always a next time."""
        try:
            removed = await removing
        except SafelightError as error:
            if str(error) != self._untended:
                self._untended = str(error)
                self._log(f"the vault could not be swept: {error}")
        else:
            self._untended = ""
            if removed:
                self._log(f"swept the vault: removed {removed} {what}")

    def _log_once(self, error: SafelightError) -> None:
        """Log why the vault is not open; the same reason once."""
        if str(error) != self._fault:
            self._fault = str(error)
            self._log(f"WARNING: {error}")
