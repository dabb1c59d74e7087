"""Chains of generations: compare-and-swap out of nothing but create-if-absent.

A chain is a name under which there are objects NAME.1, NAME.2, …, each immutable; the highest decides. Whoever wants
to change what a name says reads the highest generation n and creates n + 1; of all who do so at the same time exactly
one succeeds, and the others read again. So there is no gap in a chain, and no change is lost or made twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from itertools import islice
from typing import NamedTuple

from safelight.vault.store import Body, Missing, Store

BATCH = 500
"""Generations that are read at a time."""

REMEMBERED = 20_000
"""Generations that are kept in memory, a kilobyte each at most."""


class Generation(NamedTuple):
    """One generation of one chain: its number, from 1, and what it says."""

    name: str
    number: int
    data: bytes

    @property
    def key(self) -> str:
        return key_of(self.name, self.number)


def key_of(name: str, number: int) -> str:
    """The object that holds a generation."""
    return f"{name}.{number}"


class Chains:
    """The chains in a store. What was read once is remembered, as it cannot change; only what came after is asked."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: OrderedDict[str, Generation] = OrderedDict()

    async def latest(self, name: str) -> Generation | None:
        """The highest generation; None if there is none. It may not be durable yet: see `Store.settle`."""
        latest = self._known.get(name)
        while True:
            number = latest.number + 1 if latest else 1
            try:
                latest = Generation(name, number, await self._store.get(key_of(name, number)))
            except Missing:
                return self._remembered(latest) if latest else None

    def knows(self, name: str) -> bool:
        """Whether anything of a chain is remembered here."""
        return name in self._known

    async def append(self, name: str, number: int, data: bytes, *, after: Body | None = None) -> bool:
        """Make generation `number`, durably, the one after the highest that the caller saw. False if another did.

        `after`: a body that it names, and that is to be finished first.
        """
        if number > 1:  # or a power failure could take what was only seen, and leave what we make behind a gap
            await self._store.settle(key_of(name, number - 1))
        key = key_of(name, number)
        made = await self._store.create(key, data) if after is None else await after.publish(key, data)
        if not made:
            return False
        self._remembered(Generation(name, number, data))
        return True

    def forget(self, name: str) -> None:
        """Read a chain again next time: what was read was damaged, and may be restored."""
        self._known.pop(name, None)

    async def all(self, prefix: str) -> AsyncIterator[Generation]:
        """The highest generation of every chain whose name begins with `prefix`, a folder; in no order.

        A chain that is made or grows meanwhile may come as it was.
        """
        highest: dict[str, int] = {}
        async for entry in self._store.list(prefix):
            name, _, digits = entry.key.rpartition(".")
            if digits.isdecimal():
                highest[name] = max(highest.get(name, 0), int(digits))
        left = iter(highest.items())
        while batch := list(islice(left, BATCH)):
            found = {name: self._known.get(name) for name, _ in batch}
            new = [(name, number) for name, number in batch if (known := found[name]) is None or known.number < number]
            read = await self._store.get_many([key_of(name, number) for name, number in new])
            found |= {name: Generation(name, number, data) for (name, number), data in zip(new, read, strict=True)}
            for generation in found.values():
                assert generation is not None
                yield self._remembered(generation)

    def _remembered(self, generation: Generation) -> Generation:
        known = self._known.get(generation.name)
        if known is None or known.number < generation.number:
            self._known[generation.name] = generation
        self._known.move_to_end(generation.name)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return generation
