"""Chains of generations: compare-and-swap, built on create-if-absent alone.

A chain is a name with immutable objects NAME.1, NAME.2, …; the highest generation decides. To change a name, a process
reads the highest generation n and creates n + 1. Of several that do so at the same time exactly one succeeds; the
others read again. So a chain has no gap, and no change is lost or made twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from itertools import islice
from typing import NamedTuple

from safelight.vault.stores.base import BadObject, Body, Missing, Store

BATCH = 500
"""Generations read at a time."""

REMEMBERED = 20_000
"""Generations cached in memory, at most a kilobyte each."""


class Generation(NamedTuple):
    """One generation of one chain: its number, from 1, and its content."""

    name: str
    number: int
    data: bytes

    @property
    def key(self) -> str:
        return key_of(self.name, self.number)


def key_of(name: str, number: int) -> str:
    """The key of a generation's object."""
    return f"{name}.{number}"


class Chains:
    """The chains in a store. Generations that were read are cached, because they never change; only later ones are
    read.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: OrderedDict[str, Generation] = OrderedDict()
        self._identity = store.identity

    async def latest(self, name: str) -> Generation | None:
        """The highest generation; None if there is none. It may not be durable yet: see `Store.ensure_durable`."""
        latest, identity = self._recall(name), self._identity
        while True:
            number = latest.number + 1 if latest else 1
            try:
                latest = Generation(name, number, await self._store.get(key_of(name, number)))
            except Missing:
                if self._store.identity != identity:  # what was read before may be of another vault
                    latest, identity = self._recall(name), self._identity
                    continue
                return self._remembered(latest) if latest else None

    def knows(self, name: str) -> bool:
        """Whether any generation of a chain is cached here."""
        return self._recall(name) is not None

    async def append(
        self, name: str, number: int, data: bytes, *, body: Body | None = None, reserve: bool = False
    ) -> bool:
        """Create generation `number`, durably, the one after the highest that the caller read. False if another process
        did.

        `body`: the one that it names, to be finished first. `reserve`: as in `Store.create`.
        """
        if number > 1:  # or a power failure could remove what was read, and leave a gap before the new generation
            await self.ensure_durable(name, number - 1)
        key = key_of(name, number)
        if body is None:
            made = await self._store.create(key, data, reserve=reserve)
        else:
            made = await self._store.create_with_body(body, key, data)
        if not made:
            return False
        self._remembered(Generation(name, number, data))
        return True

    async def ensure_durable(self, name: str, number: int) -> None:
        """Make sure that a generation that was found is durable. Raises BadObject if it is gone."""
        try:
            await self._store.ensure_durable(key_of(name, number))
        except BadObject:
            self.forget(name)
            raise

    def forget(self, name: str) -> None:
        """Read a chain again next time: what was read is damaged, and may be restored."""
        self._known.pop(name, None)

    async def all(self, prefix: str) -> AsyncIterator[Generation]:
        """The highest generation of every chain whose name begins with `prefix`, a folder; in no order.

        A chain that is created or grows meanwhile may come in its earlier state. If objects cannot be read, raises
        BadObject after all others.
        """
        highest: dict[str, int] = {}
        bad: list[BadObject] = []
        async for entry in self._store.list(prefix):
            name, _, digits = entry.key.rpartition(".")
            if entry.wrong:
                bad.append(BadObject(f"{entry.key} is not an object of the vault: {entry.wrong}"))
            elif digits.isdecimal():
                highest[name] = max(highest.get(name, 0), int(digits))
        left = iter(highest.items())
        while batch := list(islice(left, BATCH)):
            found = {name: self._recall(name) for name, _ in batch}
            new = [(name, number) for name, number in batch if (known := found[name]) is None or known.number < number]
            found |= {each.name: each for each in await self._read(new, bad)}
            for generation in found.values():
                if generation is not None:
                    yield self._remembered(generation)
        if bad:
            raise bad[0]

    async def _read(self, generations: list[tuple[str, int]], bad: list[BadObject]) -> list[Generation]:
        """Read many generations from a listing; add the errors of those that cannot be read to `bad`."""
        keys = [key_of(name, number) for name, number in generations]
        try:
            data = await self._store.get_many(keys)
            return [Generation(*each, data) for each, data in zip(generations, data, strict=True)]
        except (BadObject, Missing):  # find out which of them, and read the others
            read = []
            for each, key in zip(generations, keys, strict=True):
                try:
                    read.append(Generation(*each, await self._store.get(key)))
                except BadObject as error:
                    bad.append(error)
                except Missing:
                    bad.append(BadObject(f"{key} existed, and is gone: restore it from a backup"))
            return read

    def _recall(self, name: str) -> Generation | None:
        """The cached generation of a chain; none if the store's identity has changed since."""
        if self._identity != self._store.identity:
            self._known.clear()
            self._identity = self._store.identity
        return self._known.get(name)

    def _remembered(self, generation: Generation) -> Generation:
        known = self._recall(generation.name)
        if known is None or known.number < generation.number:
            self._known[generation.name] = generation
        self._known.move_to_end(generation.name)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return generation
