"""Who a token belongs to. The cluster keeps a token's SHA-256 only; the token itself stays with its user.

Users are files in the data directory, made once and never changed, so the nodes of a machine share them without
talking. There are two of each, made in this order, each by whoever comes first:

    users/by-token/SHA256    the name that this token has claimed, once and for all
    users/NAME.json          whose token has the name

A token is a user's if the two name each other. A claim whose enrolment was cut short before the second file waits
for its token to enrol again, and keeps nobody else from the name; if another token gets it in the meantime, the
claim is void, and its token with it: whoever has it makes another.
"""

from __future__ import annotations

import hmac
import re
import time
from pathlib import Path
from typing import TypeVar

import msgspec

from safelight import durable
from safelight.names import check_user
from safelight.node import datadir
from safelight.node.datadir import DataError
from safelight.protocol import Problem, Refusal, fingerprint

T = TypeVar("T")

FINGERPRINT = re.compile(r"[0-9a-f]{64}")


class User(msgspec.Struct, frozen=True):
    """One user's record. `token_sha256` in 64 hex digits, `created` in Unix seconds."""

    user: str
    token_sha256: str
    created: int


class Users:
    """The users of the data directory."""

    def __init__(self, data_dir: Path) -> None:
        self._directory = data_dir / "users"
        self._known: dict[str, str] = {}
        """Names by fingerprint, where both files are there."""

    def of_token(self, token: str) -> str:
        """The user whose token this is. Raises Refusal (UNKNOWN_TOKEN)."""
        token_sha256 = fingerprint(token)
        if (name := self._known.get(token_sha256)) is not None:
            return name
        name = self._claimed(token_sha256)
        if name is None or self._owner(name) != token_sha256:
            raise Refusal(Problem.UNKNOWN_TOKEN, "this token is nobody's here: enrol first, or use the right one")
        self._known[token_sha256] = name
        return name

    def enrol(self, name: str, token_sha256: str) -> bool:
        """Let the first token for a name claim it. True if it is new, False if it was enrolled before.

        Raises InvalidName, and Refusal where another token has the name (NAME_TAKEN) or the token another
        name (WRONG_USER).
        """
        user = User(check_user(name), token_sha256, int(time.time()))
        if self._claimed(token_sha256) is None:
            self._check_free(user)  # before the claim: a token that asked for a name in vain is good for another
            durable.create_once(self._directory / "by-token" / token_sha256, msgspec.json.encode(name))
        claimed = self._claimed(token_sha256)
        if claimed != name:
            raise Refusal(Problem.WRONG_USER, f"this token has claimed the name {claimed}: each user has its own")
        created = durable.create_once(self._directory / f"{name}.json", msgspec.json.encode(user))
        self._check_free(user)
        return created

    def _check_free(self, user: User) -> None:
        owner = self._owner(user.user)
        if owner is not None and not hmac.compare_digest(owner, user.token_sha256):
            raise Refusal(Problem.NAME_TAKEN, f"the name {user.user} belongs to another token: choose another name")

    def _claimed(self, token_sha256: str) -> str | None:
        """The name that a token has claimed."""
        return _read(self._directory / "by-token" / token_sha256, str)

    def _owner(self, name: str) -> str | None:
        """The fingerprint of the token that has a name."""
        user = _read(self._directory / f"{name}.json", User)
        return None if user is None else user.token_sha256


def add(data_dir: Path, name: str, token_sha256: str) -> bool:
    """Enrol a user from the operator's side, by the fingerprint that the user's client shows.

    True if the user is new. Raises DataError for what is no fingerprint and for a data directory without a
    cluster, and as `Users.enrol`.
    """
    if not FINGERPRINT.fullmatch(token_sha256):
        raise DataError("a fingerprint has 64 hex digits: the user's client shows it with `safelight token`")
    datadir.check_cluster(data_dir)
    try:
        return Users(data_dir).enrol(name, token_sha256)
    except OSError as error:
        raise DataError(f"cannot add users to {data_dir}: {error.strerror}") from None


def _read(path: Path, kind: type[T]) -> T | None:
    """What is in a file; None if there is no such file. Raises DataError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is unreadable ({error}): restore it from a backup") from None
