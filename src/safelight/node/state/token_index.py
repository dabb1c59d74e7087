"""Which tokens and names are taken, by listings: one listing tells any number of guessed tokens from those of users.

The lookup of one token costs reads of the store for it alone. A listing serves all requests that wait for it, and the
next one starts after a pause: the cost of guesses does not grow with their number, and a user waits for one listing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from safelight.runtime.tasks import shielded
from safelight.vault.records import TOKENS, USERS
from safelight.vault.vault import Vault

PAUSE = 0.5
"""Seconds between two listings at least; after a slow listing, `SHARE` times its duration."""

SHARE = 2


class TokenIndex:
    """The claims in one node's vault. All methods raise StoreError."""

    def __init__(self, vault: Callable[[], Vault]) -> None:
        """`vault` returns the vault, or raises StoreError while it is unavailable."""
        self._vault = vault
        self._next: asyncio.Task[frozenset[str]] | None = None  # it has not started to list
        self._listing = asyncio.Lock()
        self._not_before = 0.0

    async def token(self, fingerprint: str) -> bool:
        """Whether the token with this fingerprint has a claim, as of now: it may be a user's."""
        taken = await self._taken()
        return self._vault().records.token(fingerprint) in taken

    async def may_enrol(self, fingerprint: str, user: str) -> bool:
        """Whether this token may get this name, as of now: the name is new, or the token has a claim."""
        taken, records = await self._taken(), self._vault().records
        return records.user(user) not in taken or records.token(fingerprint) in taken

    async def _taken(self) -> frozenset[str]:
        """The tokens' claims and the users' chains, by a listing that has not started yet."""
        if self._next is None:
            self._next = asyncio.create_task(self._list())
        return await shielded(self._next)  # the request that asked first may be gone

    async def _list(self) -> frozenset[str]:
        async with self._listing:
            await asyncio.sleep(self._not_before - time.monotonic())
            self._next, started = None, time.monotonic()
            try:
                store = self._vault().store
                tokens = {each.key async for each in store.list(TOKENS)}
                chains = {each.key.rpartition(".")[0] async for each in store.list(USERS)}
                return frozenset(tokens | chains)
            finally:
                now = time.monotonic()
                self._not_before = now + max(PAUSE, SHARE * (now - started))
