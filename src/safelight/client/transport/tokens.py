"""A client's bearer tokens: one file for each cluster and user.

    <client directory>/tokens/<cluster id>/<user>       one line, 0600 from the moment it exists

A token is on disk before it is first sent, so a client that dies in between loses nothing. Two clients that start at
once use the same token: each links a finished file into place, and only the first link succeeds. The cluster stores
only the token's fingerprint.
"""

import base64
import re
import secrets
import shlex
from pathlib import Path

from safelight.errors import SafelightError, reason
from safelight.names import check_user, shown
from safelight.runtime import private_file
from safelight.runtime.atomic_file import create_once, sync_directory
from safelight.wire.messages import TOKEN

_CLUSTER_ID = re.compile(r"[0-9a-f]{1,64}")
_READ_MAX = 256  # bytes; a token file has 48


class TokenError(SafelightError):
    """A token cannot be read or stored. The message never contains the token."""


class Secret(str):
    """Text whose repr hides it, so that no traceback or log that shows variables has it in it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(hidden)"


class Token(Secret):
    """A user's token."""

    __slots__ = ()


def load_or_create(directory: Path, cluster_id: str, user: str) -> tuple[Token, bool]:
    """The user's token for this cluster, and whether it was made just now.

    `directory` is the client's own, made (0700) if missing; `cluster_id` is lower-case hex.
    Raises InvalidName for the user, TokenError for everything else.
    """
    path = _path(directory, cluster_id, user)
    if token := _read(path):
        return token, False
    try:
        made = _create(path)
    except OSError as error:
        raise TokenError(f"cannot store a token in {shown(str(path.parent))}: {reason(error)}") from error
    token = _read(path)
    if token is None:
        raise TokenError(f"{shown(str(path))} was removed while it was made; try again")
    return token, made


def load(directory: Path, cluster_id: str, user: str) -> Token | None:
    """The user's token for this cluster, or None if there is none yet.

    Raises InvalidName for the user; TokenError if the file is readable by others, not ours, or not a token.
    """
    return _read(_path(directory, cluster_id, user))


def clusters(directory: Path, user: str = "*") -> set[str]:
    """The ids of the clusters for which this user, or any, has a token."""
    return {path.parent.name for path in directory.glob(f"tokens/*/{user}")}


def _path(directory: Path, cluster_id: str, user: str) -> Path:
    if not _CLUSTER_ID.fullmatch(cluster_id):  # it comes from the network, and it becomes a path
        raise TokenError(f"{shown(cluster_id)} is not a cluster's id: it has 1 to 64 hex digits in lower case")
    return directory / "tokens" / cluster_id / check_user(user)


def _read(path: Path) -> Token | None:
    quoted = shlex.quote(str(path))
    try:
        content = private_file.read(path, _READ_MAX).decode("ascii", errors="replace").removesuffix("\n")
    except FileNotFoundError as error:
        if path.is_symlink():
            raise TokenError(f"the token {quoted} is a symlink that leads nowhere; fix or remove it") from error
        return None
    except private_file.NotPrivate as error:
        raise TokenError(f"the token {error}") from error
    except OSError as error:
        raise TokenError(f"cannot read the token {quoted}: {reason(error)}") from error
    if not TOKEN.fullmatch(content):
        raise TokenError(f"{quoted} does not hold a token; restore it from a backup")
    return Token(content)


def _create(path: Path) -> bool:
    """Create a token at `path`, durable; False if another process was first. Raises OSError."""
    folders = [path.parent, path.parent.parent, path.parent.parent.parent]
    folders[-1].parent.mkdir(parents=True, exist_ok=True)
    for folder in reversed(folders):
        folder.mkdir(mode=0o700, exist_ok=True)
    token = "slt_" + base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    made = create_once(path, f"{token}\n".encode())
    for folder in (*folders[1:], folders[-1].parent):
        sync_directory(folder)
    return made
