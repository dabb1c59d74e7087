"""The users, and who has which token. The cluster stores the SHA-256 of a token, its fingerprint, not the token.

Users are records in the vault (see `vault.records`):

    users/USER.N    a chain: the token that has the name, or that the user was revoked
    tokens/TOKEN    the user that this token has claimed, permanently

A token belongs to a user if the two name each other. The claim comes first. An enrolment that stops between the two
leaves a claim that its token can complete later, and that does not reserve the name: if another token gets the name in
the meantime, the claim is void, and the holder of its token makes another token. The owner of a name changes only by
the next generation of its chain, which exactly one writer creates. No name ever becomes free.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from hmac import compare_digest
from typing import NamedTuple

from safelight.errors import SafelightError
from safelight.names import check_user
from safelight.node.state.data_directory import DataError
from safelight.node.state.token_index import TokenIndex
from safelight.runtime.tasks import shielded
from safelight.vault.records import BODIES, RECORDS, USERS, OtherKey, Record, Revoked, User
from safelight.vault.stores.base import BadObject, Missing
from safelight.vault.vault import Vault
from safelight.wire.messages import Problem, Refusal

FRESH = 1.0
"""Seconds for which a node caches what it read about a user, and a revoked token still works. Reading costs one request
to a bucket, or one failed open(2), for each active user."""

MISSED = 10_000
"""Unknown tokens that are cached for `FRESH`: a lookup costs as much."""

_CLAIM = re.compile(r"[0-9a-f]{32}")


class LostUser(Refusal):
    """The user has images, but no record: it was deleted, or the vault lost it."""


class NoSuchUser(SafelightError):
    """No user has, or had, this name."""


class Account(NamedTuple):
    """A user as enrolled: the name, and the enrolment id (see `vault.records.User`)."""

    user: str
    enrolment: str


class _Known(NamedTuple):
    """A token's user, as of lately."""

    chain: str
    account: Account
    until: float


class Users:
    """The users of a cluster. All methods raise StoreError, and DataError for records that are damaged."""

    def __init__(self, vault: Callable[[], Vault], *, clock: Callable[[], float] = time.monotonic) -> None:
        """`vault` returns the vault, or raises StoreError while it is unavailable. `clock` returns seconds."""
        self._vault = vault
        self._clock = clock
        self.claims = TokenIndex(vault)
        self._known: dict[str, _Known] = {}  # by fingerprint
        self._states: dict[str, tuple[User | Revoked | None, float]] = {}  # by user, with the time of the read
        self._missed: OrderedDict[str, float] = OrderedDict()  # fingerprints, and until when they count as unknown
        self._asking: dict[str, asyncio.Task[Account | None]] = {}
        self._enrolled = 0  # how often a token was enrolled here
        self._identity: int | None = None  # of the store in which that is so

    # -- for every request ---------------------------------------------------------------------------

    async def account(self, fingerprint: str) -> Account:
        """The user whose token has this fingerprint. Raises Refusal (UNKNOWN_TOKEN)."""
        now = self._clock()
        self._forget_another_store()
        known = self._known.get(fingerprint)
        if known is not None and now < known.until:
            return known.account
        user = None if self._missed.get(fingerprint, now) > now else await self._ask(fingerprint)
        if user is None:
            raise Refusal(
                Problem.UNKNOWN_TOKEN, "this token belongs to no user here: enrol first, or use the right token"
            )
        return user

    def knows(self, fingerprint: str) -> bool:
        """Whether the token needs no lookup of its own: a user had it the last time, or a lookup is in progress."""
        return fingerprint in self._known or fingerprint in self._asking

    def missed(self, fingerprint: str) -> bool:
        """Whether the token needs no lookup, as it was unknown just now."""
        now = self._clock()
        return self._missed.get(fingerprint, now) > now

    def _forget_another_store(self) -> None:
        """Forget what was read from another store: the vault was unavailable, and may be a copy now."""
        identity = self._vault().store.identity
        if identity != self._identity:
            self._identity = identity
            self._known.clear()
            self._missed.clear()
            self._states.clear()

    async def active(self, user: str, fingerprint: str | None = None, *, within: float = FRESH) -> bool:
        """Whether the user has not been revoked, and has this token still, if one is given by its fingerprint, as of
        `within` seconds ago. A user that is not known here, but on another machine, counts as active.
        """
        self._forget_another_store()
        state = self._states.get(user)
        if state is None or self._clock() - state[1] >= within:
            vault, now = self._vault(), self._clock()
            record, _ = await _look(vault, vault.records.user(user))
            state = self._states[user] = record, now
            if not isinstance(record, User):
                del self._states[user]  # only enrolled users are cached
        record = state[0]
        return not isinstance(record, Revoked) if fingerprint is None else _has(record, fingerprint)

    async def _ask(self, fingerprint: str) -> Account | None:
        """As `_find`; concurrent lookups of one token share the result."""
        if (asking := self._asking.get(fingerprint)) is None:
            asking = self._asking[fingerprint] = asyncio.create_task(self._find(fingerprint))
            asking.add_done_callback(lambda _: self._asking.pop(fingerprint))
        return await shielded(asking)  # also for others: the request that asked first may be gone

    async def _find(self, fingerprint: str) -> Account | None:
        """The user whose token has this fingerprint."""
        vault, now, enrolled = self._vault(), self._clock(), self._enrolled
        known = self._known.get(fingerprint)
        chain = known.chain if known else await _claimed(vault, fingerprint)
        record, _ = await _look(vault, chain) if chain else (None, 0)
        if chain is None or not isinstance(record, User) or not _has(record, fingerprint):
            self._known.pop(fingerprint, None)
            if enrolled == self._enrolled:  # else it may have been enrolled during the lookup
                self._missed[fingerprint] = now + FRESH
                self._missed.move_to_end(fingerprint)
                if len(self._missed) > MISSED:
                    self._missed.popitem(last=False)
            return None
        self._known[fingerprint] = _Known(chain, Account(record.user, record.id), now + FRESH)
        self._states[record.user] = record, now
        return self._known[fingerprint].account

    # -- changes -------------------------------------------------------------------------------------

    async def enrol(self, name: str, fingerprint: str) -> bool:
        """Enrol the first token for a name, by its fingerprint. False if it was enrolled before.

        Raises InvalidName, LostUser, and Refusal where another token has the name (NAME_TAKEN), where the user was
        revoked (USER_REVOKED), and where the token has claimed another name (WRONG_USER).
        """
        self._forget_another_store()
        try:
            return await self._enrol(check_user(name), fingerprint)
        finally:
            self._enrolled += 1
            self._missed.pop(fingerprint, None)

    async def _enrol(self, name: str, fingerprint: str) -> bool:
        vault, now = self._vault(), self._clock()
        chain = vault.records.user(name)
        record, number = await _look(vault, chain)
        if record is None and await _anything_of(vault, name):
            raise LostUser(
                Problem.NAME_TAKEN,
                f"{name} has images in the vault, and the record of the user is missing: the name is not given to "
                "another; the operator restores the record from a backup (see `safelight verify`)",
            )
        if await _claimed(vault, fingerprint) is None:
            _check_free(
                name, record, fingerprint
            )  # before the claim: a token that does not get a name can still claim another
        await _claim(vault, fingerprint, chain)
        if record is None:
            user = User(name, fingerprint, time.time(), secrets.token_hex(16))
            if await vault.append(chain, 1, user):
                self._known[fingerprint] = _Known(chain, Account(name, user.id), now + FRESH)
                return True
            record, number = await _look(vault, chain)
        _check_free(name, record, fingerprint)
        await vault.ensure_durable(chain, number)
        if isinstance(record, User):
            self._known[fingerprint] = _Known(chain, Account(name, record.id), now + FRESH)
        return False

    async def give(self, name: str, fingerprint: str) -> bool:
        """Replace the token of a user, also of a revoked one, by its fingerprint. False if the user has it already.

        Raises NoSuchUser, Refusal (WRONG_USER) as `enrol`, and SafelightError if another changes the user just now.
        """
        vault, name = self._vault(), check_user(name)
        chain = vault.records.user(name)
        seen, number = await _look(vault, chain)
        if seen is None:
            raise NoSuchUser(f"there is no user {name}: add one with `safelight user add`")
        await _claim(vault, fingerprint, chain)
        found: User | Revoked | None = seen
        while not _has(found, fingerprint):
            if found != seen:
                raise SafelightError(f"{name} was changed by another operator just now: see `safelight user list`")
            if await vault.append(chain, number + 1, User(name, fingerprint, seen.created, seen.id)):
                return True
            found, number = await _look(vault, chain)  # it may be the same record, under a new cluster key
        await vault.ensure_durable(chain, number)
        return False

    async def revoke(self, name: str) -> bool:
        """Revoke a user: no token is valid, and the name is never given to another. False if revoked already.

        Raises NoSuchUser.
        """
        vault, name = self._vault(), check_user(name)
        chain = vault.records.user(name)
        while True:
            record, number = await _look(vault, chain)
            if record is None:
                raise NoSuchUser(f"there is no user {name}: see `safelight user list`")
            if isinstance(record, Revoked):
                await vault.ensure_durable(chain, number)
                return False
            revoked = Revoked(name, record.fingerprint, record.created, time.time(), record.id)
            if await vault.append(chain, number + 1, revoked):
                return True

    async def all(self) -> list[User | Revoked]:
        """All users, also revoked ones, by name."""
        vault = self._vault()
        try:
            found = [_users(vault.read(each), each.key) async for each in vault.chains.all(USERS)]
        except BadObject as error:
            raise _damaged(error) from None
        return sorted(found, key=lambda each: each.user)


def _has(record: User | Revoked | None, fingerprint: str) -> bool:
    """Whether the user has this token."""
    return isinstance(record, User) and compare_digest(record.fingerprint, fingerprint)


def _check_free(name: str, record: User | Revoked | None, fingerprint: str) -> None:
    """Raises Refusal if another token has the name, or the user was revoked."""
    if isinstance(record, Revoked):
        raise Refusal(Problem.USER_REVOKED, f"the user {name} was revoked, and the name is not given to another")
    if record is not None and not _has(record, fingerprint):
        raise Refusal(Problem.NAME_TAKEN, f"the name {name} belongs to another token: choose another name")


async def _anything_of(vault: Vault, user: str) -> bool:
    """Whether the vault has any object of this user's images."""
    folder = vault.records.folder(user)
    for prefix in (folder, BODIES + folder.removeprefix(RECORDS)):
        async for _ in vault.store.list(prefix):
            return True
    return False


async def _claim(vault: Vault, fingerprint: str, chain: str) -> None:
    """Let a token claim a user, durably. Raises Refusal (WRONG_USER) if it has claimed another."""
    if await vault.store.create(vault.records.token(fingerprint), chain.removeprefix(USERS).encode()):
        return
    claimed = await _claimed(vault, fingerprint)
    if claimed != chain:
        record, _ = await _look(vault, claimed) if claimed else (None, 0)
        whose = record.user if record else "another user"
        raise Refusal(Problem.WRONG_USER, f"this token has claimed the name of {whose}: each user has its own token")


async def _claimed(vault: Vault, fingerprint: str) -> str | None:
    """The chain of the user that a token has claimed."""
    key = vault.records.token(fingerprint)
    try:
        user = (await vault.store.get(key)).decode("ascii", "replace")
    except Missing:
        return None
    except BadObject as error:
        raise _damaged(error) from None
    if not _CLAIM.fullmatch(user):
        raise _damaged(BadObject(f"{key} is damaged"))
    return USERS + user


async def _look(vault: Vault, chain: str) -> tuple[User | Revoked | None, int]:
    """The latest record of a user's chain, and its generation; (None, 0) if there is no chain."""
    try:
        record, number = await vault.latest(chain)
        return (None if record is None else _users(record, chain)), number
    except BadObject as error:
        raise _damaged(error) from None


def _users(record: Record, key: str) -> User | Revoked:
    if not isinstance(record, User | Revoked):
        raise BadObject(f"{key} is not a user's record")
    return record


def _damaged(error: BadObject) -> SafelightError:
    if isinstance(error, OtherKey):
        return error
    return DataError(f"a user's record cannot be read: {error}; restore it from a backup")
