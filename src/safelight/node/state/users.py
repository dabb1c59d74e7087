"""Who a token belongs to. The cluster keeps a token's SHA-256, its fingerprint; the token itself stays with its user.

Users are records in the vault (see `vault.records`):

    users/USER.N    a chain: whose token has the name, or that the user was revoked
    tokens/TOKEN    the user that this token has claimed, once and for all

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
"""Seconds for which a node believes what it read of a user: so long a token works on after it was revoked. Reading
costs one request to a bucket, or one failed open(2), for each user who is at work."""

MISSED = 10_000
"""Unknown tokens that are remembered for `FRESH`: looking one up costs as much."""

_CLAIM = re.compile(r"[0-9a-f]{32}")


class LostUser(Refusal):
    """There is no record of this user, but there are images: another has deleted it, or the vault has lost it."""


class NoSuchUser(SafelightError):
    """Nobody has this name, nor had it."""


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
        self._known: dict[str, _Known] = {}
        self._states: dict[str, tuple[User | Revoked | None, float]] = {}  # by user, and when they were read
        self._missed: OrderedDict[str, float] = OrderedDict()  # until when they count as unknown
        self._asking: dict[str, asyncio.Task[Account | None]] = {}
        """These by fingerprint."""
        self._enrolled = 0  # how often a token was enrolled here
        self._identity: int | None = None  # of the store in which that is so

    # -- for every request ---------------------------------------------------------------------------

    async def account(self, mine: str) -> Account:
        """The user whose token has this fingerprint. Raises Refusal (UNKNOWN_TOKEN)."""
        now = self._clock()
        self._forget_another_store()
        known = self._known.get(mine)
        if known is not None and now < known.until:
            return known.account
        user = None if self._missed.get(mine, now) > now else await self._ask(mine)
        if user is None:
            raise Refusal(
                Problem.UNKNOWN_TOKEN, "this token belongs to no user here: enrol first, or use the right token"
            )
        return user

    def knows(self, mine: str) -> bool:
        """Whether the token needs no look of its own: it was a user's the last time, or is being looked up now."""
        return mine in self._known or mine in self._asking

    def missed(self, mine: str) -> bool:
        """Whether the token needs no look as it was unknown just now."""
        now = self._clock()
        return self._missed.get(mine, now) > now

    def _forget_another_store(self) -> None:
        """Forget what was read before the store was away, and may have come back as another."""
        identity = self._vault().store.identity
        if identity != self._identity:
            self._identity = identity
            self._known.clear()
            self._missed.clear()
            self._states.clear()

    async def active(self, user: str, mine: str | None = None, *, within: float = FRESH) -> bool:
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
                del self._states[user]  # none of those who are at work
        record = state[0]
        return not isinstance(record, Revoked) if mine is None else _has(record, mine)

    async def _ask(self, mine: str) -> Account | None:
        """As `_find`; all who want to know the same at the same time share one answer."""
        if (asking := self._asking.get(mine)) is None:
            asking = self._asking[mine] = asyncio.create_task(self._find(mine))
            asking.add_done_callback(lambda _: self._asking.pop(mine))
        return await shielded(asking)  # also for others: the request that asked first may be gone

    async def _find(self, mine: str) -> Account | None:
        """The user whose token has this fingerprint."""
        vault, now, enrolled = self._vault(), self._clock(), self._enrolled
        known = self._known.get(mine)
        chain = known.chain if known else await _claimed(vault, mine)
        record, _ = await _look(vault, chain) if chain else (None, 0)
        if chain is None or not isinstance(record, User) or not _has(record, mine):
            self._known.pop(mine, None)
            if enrolled == self._enrolled:  # else it may have been enrolled while we looked
                self._missed[mine] = now + FRESH
                self._missed.move_to_end(mine)
                if len(self._missed) > MISSED:
                    self._missed.popitem(last=False)
            return None
        self._known[mine] = _Known(chain, Account(record.user, record.id), now + FRESH)
        self._states[record.user] = record, now
        return self._known[mine].account

    # -- changes -------------------------------------------------------------------------------------

    async def enrol(self, name: str, mine: str) -> bool:
        """Let the first token for a name claim it, by its fingerprint. True if it is new, False if it was enrolled
        before.

        Raises InvalidName, LostUser, and Refusal where another token has the name (NAME_TAKEN), where the user was
        revoked (USER_REVOKED), and where the token has claimed another name (WRONG_USER).
        """
        self._forget_another_store()
        try:
            return await self._enrol(check_user(name), mine)
        finally:
            self._enrolled += 1
            self._missed.pop(mine, None)

    async def _enrol(self, name: str, mine: str) -> bool:
        vault, now = self._vault(), self._clock()
        chain = vault.records.user(name)
        record, number = await _look(vault, chain)
        if record is None and await _anything_of(vault, name):
            raise LostUser(
                Problem.NAME_TAKEN,
                f"{name} has images in the vault, and the record of the user is missing: the name is not given to "
                "another; the operator restores the record from a backup (see `safelight verify`)",
            )
        if await _claimed(vault, mine) is None:
            _check_free(
                name, record, mine
            )  # before the claim: a token that asked for a name in vain is good for another
        await _claim(vault, mine, chain)
        if record is None:
            user = User(name, mine, time.time(), secrets.token_hex(16))
            if await vault.append(chain, 1, user):
                self._known[mine] = _Known(chain, Account(name, user.id), now + FRESH)
                return True
            record, number = await _look(vault, chain)
        _check_free(name, record, mine)
        await vault.ensure_durable(chain, number)
        if isinstance(record, User):
            self._known[mine] = _Known(chain, Account(name, record.id), now + FRESH)
        return False

    async def give(self, name: str, mine: str) -> bool:
        """Give a user another token, by its fingerprint, in place of the present one; to a revoked user as well. False
        if the user has it already.

        Raises NoSuchUser, Refusal (WRONG_USER) as `enrol`, and SafelightError if another changes the user just now.
        """
        vault, name = self._vault(), check_user(name)
        chain = vault.records.user(name)
        seen, number = await _look(vault, chain)
        if seen is None:
            raise NoSuchUser(f"there is no user {name}: `safelight user add` admits one")
        await _claim(vault, mine, chain)
        found: User | Revoked | None = seen
        while not _has(found, mine):
            if found != seen:
                raise SafelightError(f"{name} was changed by somebody else just now: see `safelight user list`")
            if await vault.append(chain, number + 1, User(name, mine, seen.created, seen.id)):
                return True
            found, number = await _look(vault, chain)  # it may say the same again, under a new cluster key
        await vault.ensure_durable(chain, number)
        return False

    async def revoke(self, name: str) -> bool:
        """Let no token be this user's any more; nor is the name ever another's. False if that is so already.

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
        """All users there are and were, by name."""
        vault = self._vault()
        try:
            found = [_users(vault.read(each), each.key) async for each in vault.chains.all(USERS)]
        except BadObject as error:
            raise _damaged(error) from None
        return sorted(found, key=lambda each: each.user)


def _has(record: User | Revoked | None, mine: str) -> bool:
    """Whether this is the user's token."""
    return isinstance(record, User) and compare_digest(record.fingerprint, mine)


def _check_free(name: str, record: User | Revoked | None, mine: str) -> None:
    """Make sure that nobody has the name, or this token has it. Raises Refusal."""
    if isinstance(record, Revoked):
        raise Refusal(Problem.USER_REVOKED, f"the user {name} was revoked, and the name is not given to another")
    if record is not None and not _has(record, mine):
        raise Refusal(Problem.NAME_TAKEN, f"the name {name} belongs to another token: choose another name")


async def _anything_of(vault: Vault, user: str) -> bool:
    """Whether there is any object of this user's images."""
    folder = vault.records.folder(user)
    for prefix in (folder, BODIES + folder.removeprefix(RECORDS)):
        async for _ in vault.store.list(prefix):
            return True
    return False


async def _claim(vault: Vault, mine: str, chain: str) -> None:
    """Have a token name a user, durably. Raises Refusal (WRONG_USER) if it names another."""
    if await vault.store.create(vault.records.token(mine), chain.removeprefix(USERS).encode()):
        return
    claimed = await _claimed(vault, mine)
    if claimed != chain:
        record, _ = await _look(vault, claimed) if claimed else (None, 0)
        whose = record.user if record else "another user"
        raise Refusal(Problem.WRONG_USER, f"this token has claimed the name of {whose}: each user has its own token")


async def _claimed(vault: Vault, mine: str) -> str | None:
    """The chain of the user that a token names."""
    key = vault.records.token(mine)
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
    """What a user's chain says now, and the number of that generation; (None, 0) for no chain."""
    try:
        record, number = await vault.latest(chain)
        return (None if record is None else _users(record, chain)), number
    except BadObject as error:
        raise _damaged(error) from None


def _users(record: Record, key: str) -> User | Revoked:
    if not isinstance(record, User | Revoked):
        raise BadObject(f"{key} is no user's record")
    return record


def _damaged(error: BadObject) -> SafelightError:
    if isinstance(error, OtherKey):
        return error
    return DataError(f"a user's record cannot be read: {error}; restore it from a backup")
