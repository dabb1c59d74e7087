"""Who a token belongs to. The cluster keeps a token's SHA-256 only; the token itself stays with its user.

Users are files in the data directory, one each, made once and never changed, so the nodes of a machine
share them without talking: a node that meets an unknown token looks whether another has enrolled it.
"""

from __future__ import annotations

import hmac
import re
import time
from pathlib import Path

import msgspec

from safelight import durable
from safelight.names import check_user
from safelight.node.datadir import DataError
from safelight.protocol import Problem, Refusal, fingerprint

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
        self._by_fingerprint: dict[str, User] = {}
        self._read: set[str] = set()

    def of_token(self, token: str) -> str:
        """The user whose token this is. Raises Refusal (UNKNOWN_TOKEN)."""
        user = self._find(fingerprint(token))
        if user is None:
            raise Refusal(Problem.UNKNOWN_TOKEN, "this token is nobody's here: enrol first, or use the right one")
        return user.user

    def enrol(self, name: str, token_sha256: str) -> bool:
        """Let the first token for a name claim it. True if it is new, False if it was enrolled before.

        Raises InvalidName, and Refusal where another token has the name (NAME_TAKEN) or the token another
        name (WRONG_USER).
        """
        user = User(check_user(name), token_sha256, int(time.time()))
        owner = self._find(token_sha256)
        if owner is not None and owner.user != name:
            raise Refusal(Problem.WRONG_USER, f"this token is {owner.user}'s: each user has a token of its own")
        path = self._directory / f"{name}.json"
        if durable.create_once(path, msgspec.json.encode(user)):
            self._remember(user)
            return True
        if not hmac.compare_digest(_read(path).token_sha256, token_sha256):
            raise Refusal(Problem.NAME_TAKEN, f"the name {name} belongs to another token: choose another name")
        return False

    def _find(self, token_sha256: str) -> User | None:
        if token_sha256 not in self._by_fingerprint:
            for path in self._directory.glob("[!.]*.json"):
                if path.name not in self._read:
                    self._remember(_read(path))
        return self._by_fingerprint.get(token_sha256)

    def _remember(self, user: User) -> None:
        self._by_fingerprint[user.token_sha256] = user
        self._read.add(f"{user.user}.json")


def add(data_dir: Path, name: str, token_sha256: str) -> bool:
    """Enrol a user from the operator's side, by the fingerprint that the user's client shows.

    True if the user is new. Raises DataError for what is no fingerprint, and as `Users.enrol`.
    """
    if not FINGERPRINT.fullmatch(token_sha256):
        raise DataError("a fingerprint has 64 hex digits: the user's client shows it with `safelight token`")
    return Users(data_dir).enrol(name, token_sha256)


def _read(path: Path) -> User:
    try:
        return msgspec.json.decode(path.read_bytes(), type=User)
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"{path} is unreadable ({error}): restore it from a backup") from None
