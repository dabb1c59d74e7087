"""What keeps a vault in order while it is in use: bodies that nobody names are swept, old keys are given up.

Both may meet uploads, removals and each other at any point, and may die at any point: they change nothing but by
creating the next generation of a chain, and delete nothing that a record names or could come to name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec

from safelight.encryption.errors import CannotOpen
from safelight.encryption.sealed import read_header, rewrapped
from safelight.vault.chain import Generation
from safelight.vault.records import BODIES, RECORDS, USERS, Aborted, Image, Record, Removed, key_id, target_generation
from safelight.vault.stores.base import BadObject
from safelight.vault.vault import Vault

GRACE = 3600.0
"""Seconds without a change after which a body that no record names counts as abandoned. A courtesy only: an upload
that lives, and is taken for dead, must begin again, and nothing is lost."""

UNREADABLE = "unreadable"
"""Stands for the key of a record, or an image, that does not open."""


async def sweep(vault: Vault, grace: float = GRACE) -> int:
    """Delete the bodies that no record names nor can come to name; how many."""
    swept = 0
    async for entry in vault.store.list(BODIES):
        if vault.clock() - entry.modified >= grace and not entry.wrong:
            with suppress(BadObject):  # where it is not clear what an image's record says, nothing of it is deleted
                swept += await _sweep(vault, entry.key)
    return swept


async def _sweep(vault: Vault, body: str) -> bool:
    """Delete a body unless it is an image's. Its writer can make it one only by creating the generation it aims at."""
    aim = target_generation(body)
    if aim is None:
        return False
    chain, number = aim
    record, latest = await vault.latest(chain)
    if latest < number:
        if latest < number - 1 or isinstance(record, Image | Removed):
            return False  # no upload aims there: this is not ours to judge
        if not await vault.append(chain, number, Aborted(vault.clock())):
            record, latest = await vault.latest(chain)
    if isinstance(record, Image) and record.body == body:
        return False
    await vault.ensure_durable(chain, latest)
    await vault.store.delete(body)
    return True


async def rewrap(vault: Vault) -> AsyncIterator[Counter[str]]:
    """Bring every chain under the current cluster key, without touching a body: after each, how many needed which.

    When a run ends in which only the current key was needed, no image or user that was there when it began needs
    another; an upload that was under way before a rotation may still commit under an old key. May be stopped, and run
    again, at any time. What is damaged stays as it is, and counts as UNREADABLE.
    """
    counts: Counter[str] = Counter()
    for prefix in (USERS, RECORDS):
        try:
            async for generation in vault.chains.all(prefix):
                try:
                    counts[await _rewrap(vault, generation)] += 1
                except (BadObject, CannotOpen):
                    counts[UNREADABLE] += 1
                yield counts
        except BadObject:
            counts[UNREADABLE] += 1
            yield counts


async def _rewrap(vault: Vault, generation: Generation) -> str:
    """The key id that the chain needed, other than the current one; the current one if that is all."""
    needed = vault.keyring().current_id
    while True:
        record, keyring = vault.read(generation), vault.keyring()
        old = keys_of(generation, record) - {keyring.current_id}
        if not old:
            await vault.ensure_durable(generation.name, generation.number)
            return needed
        needed = min(old)
        if isinstance(record, Image):
            header = rewrapped(read_header(record.header), keyring)
            record = msgspec.structs.replace(record, header=header.encode())
        await vault.append(generation.name, generation.number + 1, record)
        latest = await vault.chains.latest(generation.name)
        assert latest is not None
        generation = latest


def keys_of(generation: Generation, record: Record) -> set[str]:
    """The key ids of the cluster keys without which this record, or its image, does not open."""
    sealed_with = {key_id(generation.data)}
    return sealed_with | {read_header(record.header).key_id} if isinstance(record, Image) else sealed_with
