"""The operator's commands about users. They need the keyring and the vault, and no node."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from safelight.cli.output.documents import Outcome
from safelight.config import Config
from safelight.errors import SafelightError
from safelight.node.state import data_directory
from safelight.node.state.key_file import wrapper_of
from safelight.node.state.users import LostUser, Users
from safelight.vault.bootstrap import open_vault
from safelight.vault.records import Revoked, User
from safelight.wire.messages import Problem, Refusal

FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@asynccontextmanager
async def opened(config: Config) -> AsyncIterator[Users]:
    """The cluster's users. Raises DataError, KeyringError, CannotUseVault and StoreError."""
    data_directory.check_cluster(config.data_dir)
    keyring = data_directory.find_keyring(config.data_dir, wrapper=wrapper_of(config)).read()
    vault = await open_vault(config.vault_url, config.data_dir, lambda: keyring)
    try:
        yield Users(lambda: vault)
    finally:
        await vault.store.close()


async def add(config: Config, name: str, fingerprint: str) -> Outcome:
    """Add a user by the fingerprint that the user's client shows.

    Raises SafelightError for a malformed fingerprint, and as `opened` and `Users.enrol`.
    """
    _check(fingerprint)
    async with opened(config) as users:
        try:
            new = await users.enrol(name, fingerprint)
        except LostUser as error:
            raise SafelightError(str(error)) from None
        except Refusal as refusal:
            if refusal.problem not in (Problem.NAME_TAKEN, Problem.USER_REVOKED):
                raise
            state = "has another token" if refusal.problem is Problem.NAME_TAKEN else "was revoked"
            raise SafelightError(
                f"{name} {state}: if it is the same person, `safelight user token {name} FINGERPRINT` gives the new one"
            ) from None
    text = f"{name} may use this cluster now." if new else f"{name} could use this cluster already."
    return _outcome(text, name, "active", new)


async def give(config: Config, name: str, fingerprint: str) -> Outcome:
    """Replace a user's token. Raises as `add` and `Users.give`."""
    _check(fingerprint)
    async with opened(config) as users:
        new = await users.give(name, fingerprint)
    text = f"{name} has this token now, and no other." if new else f"{name} had this token already."
    return _outcome(text, name, "active", new)


async def revoke(config: Config, name: str) -> Outcome:
    """Revoke a user. Raises as `opened` and `Users.revoke`."""
    async with opened(config) as users:
        new = await users.revoke(name)
    text = f"{name} is revoked. The images stay." if new else f"{name} was revoked already."
    return _outcome(text, name, "revoked", new)


async def listing(config: Config) -> Outcome:
    """All users, by name: when each was created, and whether each is active. Raises as `opened`."""
    async with opened(config) as users:
        found = await users.all()
    width = max([len(each.user) for each in found], default=0)
    lines = [f"{'USER':<{max(width, 4)}}  {'CREATED':<20}  STATE"]
    for each in found:
        state = f"revoked {_moment(each.revoked)}" if isinstance(each, Revoked) else "active"
        lines.append(f"{each.user:<{max(width, 4)}}  {_moment(each.created)}  {state}")
    return Outcome.of("\n".join(lines), users=[_row(each) for each in found])


def _outcome(text: str, user: str, state: str, changed: bool) -> Outcome:
    return Outcome.of(text, user=user, state=state, changed=changed)


def _row(user: User | Revoked) -> dict[str, object]:
    revoked = user.revoked if isinstance(user, Revoked) else None
    return {
        "user": user.user,
        "state": "active" if revoked is None else "revoked",
        "created": user.created,
        "revoked": revoked,
        "fingerprint": user.fingerprint,
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _check(fingerprint: str) -> None:
    if not FINGERPRINT.fullmatch(fingerprint):
        raise SafelightError("a fingerprint has 64 hex digits: `safelight token` shows a user's own")
