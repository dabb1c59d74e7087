"""Verify a vault: read every object, check every tag.

    damaged    an object is not what was written: bytes changed or missing, or in the place of another
    missing    a record names a body, a user or a user's token that does not exist, or a chain has a gap
    foreign    an object that Safelight did not create, or one for which the keyring has no key
    leftover   a body that no record names, of an interrupted upload: the sweeper deletes it; or a token's claim
               that no user's record confirms, of an interrupted enrolment

The first three are losses, or worse; the last is not. A vault may be in use while it is verified.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Set
from contextlib import aclosing
from typing import Literal

import msgspec

from safelight.encryption.errors import CannotOpen, OtherCluster
from safelight.encryption.sealed import MAX_HEADER_SIZE, read_header
from safelight.vault.chain import key_of
from safelight.vault.records import (
    BODIES,
    CLAIM,
    IDENTITY,
    PROBES,
    RECORDS,
    USERS,
    Image,
    OtherKey,
    Record,
    Removed,
    Revoked,
    User,
    is_token,
    target_generation,
)
from safelight.vault.stores.base import BadObject, Entry, Missing
from safelight.vault.vault import UnknownImage, Vault, sealed_size_of

Fault = Literal["", "damaged", "missing", "foreign", "leftover"]


class Checked(msgspec.Struct, frozen=True, rename={"fault": "trouble"}):
    """One checked object: its key, its size in bytes, and its fault, if it has one.

    `safelight verify --json` writes the fault under the name that 0.1 gave it: see `rename`.
    """

    key: str
    size: int
    fault: Fault = ""
    why: str = ""
    user: str = ""
    name: str = ""
    """The user and the image's name, if known."""


async def verify(vault: Vault) -> AsyncIterator[Checked]:  # noqa: C901 — one case for each kind of object
    """Check every object: records first, with what they name, then the others. Raises StoreError."""
    numbers: dict[str, set[int]] = {}
    named: set[str] = set()
    others: list[Entry] = []
    async for entry in vault.store.list(""):
        chain, _, digits = entry.key.rpartition(".")
        if entry.key.startswith((RECORDS, USERS)) and digits.isdecimal() and int(digits) > 0:
            numbers.setdefault(chain, set()).add(int(digits))
        else:
            others.append(entry)
    enrolments: dict[str, str] = {}  # of users, by their chains
    lost: set[str] = set()  # chains of users that are missing and have been reported
    for chain, there in sorted(numbers.items(), key=lambda each: not each[0].startswith(USERS)):
        for number in sorted(set(range(1, max(there))) - there):
            yield Checked(key_of(chain, number), 0, "missing", "this generation is gone, and later ones exist")
        for number in sorted(there):
            checked, record = await _record(vault, key_of(chain, number))
            yield checked
            if number < max(there):
                continue
            if isinstance(record, Image | Removed):
                owner = vault.records.user(record.user)
                if owner not in numbers and owner not in lost and owner not in enrolments:
                    if (present := await _enrolment(vault, owner)) is not None:  # created after the listing
                        enrolments[owner] = present
                    else:
                        lost.add(owner)
                        why = "there are images of this user, but no record of the user"
                        yield Checked(key_of(owner, 1), 0, "missing", why, record.user)
                if isinstance(record, Image) and record.owner != (enrolments.get(owner) or record.owner):
                    why = "its user is another than the present one of this name"
                    yield Checked(key_of(chain, number), 0, "damaged", why, record.user, record.name)
            if isinstance(record, Image):
                named.add(record.body)
                checked = await _image(vault, record)
                if not checked.fault or not await _gone(vault, record):
                    yield checked
            elif isinstance(record, User | Revoked):
                enrolments[chain] = record.id
                named.add(vault.records.token(record.fingerprint))
                yield await _token(vault, record)
    with_bodies = {entry.key.split("/")[1] for entry in others if entry.key.startswith(BODIES)}
    for entry in others:
        if entry.key not in named:
            yield await _other(vault, entry, numbers.keys() | lost, with_bodies)


async def _record(vault: Vault, key: str) -> tuple[Checked, Record | None]:
    try:
        data = await vault.store.get(key)
        record = vault.records.read(data, key)
    except Missing:
        return Checked(key, 0, "missing", "it existed a moment ago"), None
    except OtherKey as error:
        return Checked(key, 0, "foreign", str(error)), None
    except BadObject as error:
        return Checked(key, 0, "damaged", str(error)), None
    user = record.user if isinstance(record, Image | User | Revoked) else ""
    return Checked(key, len(data), user=user, name=record.name if isinstance(record, Image) else ""), record


async def _enrolment(vault: Vault, chain: str) -> str | None:
    """The current enrolment id of a chain's user; None if there is no chain, empty if it cannot be read."""
    try:
        record, _ = await vault.latest(chain)
    except BadObject:
        return ""
    return None if record is None else record.id if isinstance(record, User | Revoked) else ""


async def _image(vault: Vault, image: Image) -> Checked:
    """Decrypt a whole image, as a reader would."""

    def found(fault: Fault, why: str) -> Checked:
        return Checked(image.body, size, fault, why, image.user, image.name)

    size = 0
    try:
        size = await vault.store.size(image.body)
        if size != sealed_size_of(image):
            return found("damaged", f"it has {size} bytes, and should have {sealed_size_of(image)}")
        async with aclosing(vault.store.read(image.body, 0, MAX_HEADER_SIZE)) as chunks:
            written = read_header(b"".join([chunk async for chunk in chunks]))
        if written.fixed != image.parsed_header.fixed:
            return found("damaged", "its header is another file's")
        async with aclosing(vault.part(image, 0, image.size)) as parts:
            async for _ in parts:
                pass
    except (Missing, UnknownImage):
        return found("missing", "the image's record exists, its body does not")
    except OtherCluster as error:
        return found("foreign", str(error))
    except BadObject as error:
        return found("damaged", str(error))
    except CannotOpen:
        return found("damaged", "a tag does not verify: its bytes were changed after they were sealed")
    return found("", "")


async def _token(vault: Vault, user: User | Revoked) -> Checked:
    """Check that the user's token names the user."""
    key = vault.records.token(user.fingerprint)
    try:
        data = await vault.store.get(key)
    except Missing:
        return Checked(key, 0, "missing", "the user's record exists, the token's claim does not", user.user)
    except BadObject as error:
        return Checked(key, 0, "damaged", str(error), user.user)
    if USERS.encode() + data != vault.records.user(user.user).encode():
        return Checked(key, len(data), "damaged", "the token has claimed another name than its user's", user.user)
    return Checked(key, len(data), user=user.user)


async def _claim(vault: Vault, entry: Entry, users: Set[str], with_bodies: Set[str]) -> Checked:
    """Check a token that no user has now; `users` are the existing chains, `with_bodies` the users who have bodies."""
    try:
        claimed = USERS + (await vault.store.get(entry.key)).decode("ascii", "replace")
    except Missing:
        return Checked(entry.key, entry.size)
    except BadObject as error:
        return Checked(entry.key, entry.size, "damaged", str(error))
    if not CLAIM.fullmatch(claimed):
        return Checked(entry.key, entry.size, "damaged", "this is not a user that a token could claim")
    if claimed in users or await vault.chains.latest(claimed):
        return Checked(entry.key, entry.size)
    if claimed.removeprefix(USERS) in with_bodies:
        return Checked(key_of(claimed, 1), 0, "missing", "there are bodies of this user, but no record of the user")
    why = (
        f"the token has claimed {claimed}, and there is no such user: an enrolment was interrupted, or the record was "
        "deleted"
    )
    return Checked(entry.key, entry.size, "leftover", why)


async def _gone(vault: Vault, image: Image) -> bool:
    """Whether the image was removed while it was checked."""
    try:
        return (await vault.find(image.user, image.name)).body != image.body
    except (UnknownImage, BadObject):
        return True


async def _other(vault: Vault, entry: Entry, users: Set[str], with_bodies: Set[str]) -> Checked:
    """Check an object that no latest record named."""
    if entry.wrong:
        return Checked(entry.key, 0, "foreign", f"Safelight creates no such object: {entry.wrong}")
    aim = target_generation(entry.key) if entry.key.startswith(BODIES) else None
    if entry.key == IDENTITY:
        return Checked(entry.key, entry.size)
    if entry.key.startswith(PROBES):
        return Checked(entry.key, entry.size)
    if is_token(entry.key):  # of a user who has another token by now, or was never enrolled
        return await _claim(vault, entry, users, with_bodies)
    if aim is None:
        return Checked(entry.key, entry.size, "foreign", "Safelight creates no such object")
    try:
        record, _ = await vault.latest(aim[0])
    except BadObject:
        return Checked(entry.key, entry.size)  # its record has been reported already
    if isinstance(record, Image) and record.body == entry.key:
        return Checked(entry.key, entry.size)  # committed after the start
    return Checked(entry.key, entry.size, "leftover", "no record names it")
