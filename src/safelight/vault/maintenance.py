"""Maintenance of a vault in use: `sweep` deletes bodies that no record names, `rewrap` replaces old cluster keys.

Both may run together with uploads, removals and each other, and may die at any point: they change a chain only by
creating its next generation, and delete nothing that a record names or can name in the future.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec

from safelight.encryption.errors import CannotOpen
from safelight.encryption.sealed import rewrapped
from safelight.vault.chain import Generation
from safelight.vault.records import BODIES, RECORDS, USERS, Aborted, Image, Record, Removed, key_id, target_generation
from safelight.vault.stores.base import BadObject
from safelight.vault.vault import Vault

GRACE = 3600.0
"""Seconds without a change after which a body that no record names counts as abandoned. It only saves work: an upload
that is still alive must start again, and nothing is lost."""

UNREADABLE = "unreadable"
"""Stands for the key of a record or an image that does not open."""


async def sweep(vault: Vault, grace: float = GRACE) -> int:
    """Delete the bodies that no record names or can name in the future; return their number."""
    swept = 0
    async for entry in vault.store.list(BODIES):
        if vault.clock() - entry.modified >= grace and not entry.wrong:
            with suppress(BadObject):  # if an image's record is unreadable, nothing of the image is deleted
                swept += await _sweep(vault, entry.key)
    return swept


async def _sweep(vault: Vault, body: str) -> bool:
    """Delete a body unless it is an image's. Its writer makes it one only by creating its target generation."""
    aim = target_generation(body)
    if aim is None:
        return False
    chain, number = aim
    record, latest = await vault.latest(chain)
    if latest < number:
        if latest < number - 1 or isinstance(record, Image | Removed):
            return False  # not the target of any upload: leave it to `verify`
        if not await vault.append(chain, number, Aborted(vault.clock())):
            record, latest = await vault.latest(chain)
    if isinstance(record, Image) and record.body == body:
        return False
    await vault.ensure_durable(chain, latest)
    await vault.store.delete(body)
    return True


async def rewrap(vault: Vault) -> AsyncIterator[Counter[str]]:
    """Bring every chain under the current cluster key, without touching a body; after each, yield how many needed which
    key.

    When a run ends in which only the current key was needed, no image or user that existed when it began needs another.
    An upload that started before a rotation may still commit under an old key. It may be stopped and run again at any
    time. Damaged chains stay as they are, and count as UNREADABLE.
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
    """The key id that the chain needed beside the current one; the current one if it needed no other."""
    needed = vault.keyring().current_id
    while True:
        record, keyring = vault.read(generation), vault.keyring()
        old = keys_of(generation, record) - {keyring.current_id}
        if not old:
            await vault.ensure_durable(generation.name, generation.number)
            return needed
        needed = min(old)
        if isinstance(record, Image):
            header = rewrapped(record.parsed_header, keyring)
            record = msgspec.structs.replace(record, header=header.encode())
        await vault.append(generation.name, generation.number + 1, record)
        latest = await vault.chains.latest(generation.name)
        assert latest is not None
        generation = latest


def keys_of(generation: Generation, record: Record) -> set[str]:
    """The ids of the cluster keys that this record and its image need to open."""
    sealed_with = {key_id(generation.data)}
    return sealed_with | {record.parsed_header.key_id} if isinstance(record, Image) else sealed_with
