"""Files with a secret: who may own and read them.

One rule for keyrings, their secrets, TLS keys and tokens: a regular file, of this account or root's, that group and
others cannot use at all. A file of root's may be readable for its group, as systems hand secrets to services so
(Debian's `ssl-cert`, Kubernetes' `fsGroup`); for root itself, it may not. A symbolic link to such a file is this
account's or root's, too. The data directory may be read, and is written to by its owner alone: who can write to it can
put another file in place.
"""

import os
import shlex
import stat
from pathlib import Path

from safelight.errors import SafelightError


class NotPrivate(SafelightError):
    """The owner or the mode of a file or directory is not safe for a secret; the message says how to fix it."""


def read(path: Path, most: int) -> bytes:
    """The contents of a file with a secret, at most so many bytes. Raises NotPrivate, OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found, quoted = os.fstat(descriptor), shlex.quote(str(path))
        if not stat.S_ISREG(found.st_mode):
            raise NotPrivate(f"{quoted} is not a regular file; move it away, then try again")
        _check_owner(found, quoted)
        _check_owner(path.lstat(), quoted)
        allowed = 0o740 if found.st_uid == 0 != os.geteuid() else 0o700
        if stat.S_IMODE(found.st_mode) & 0o777 & ~allowed:
            raise NotPrivate(f"{quoted} can be read by others; run: chmod 600 {quoted}")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(descriptor)


def check_directory(path: Path) -> None:
    """Raises NotPrivate if others than the owner can write to a directory of files with secrets, and OSError."""
    found, quoted = path.stat(), shlex.quote(str(path))
    if not stat.S_ISDIR(found.st_mode):
        raise NotPrivate(f"{quoted} is not a directory; move it away, then try again")
    _check_owner(found, quoted)
    if stat.S_IMODE(found.st_mode) & 0o022:
        raise NotPrivate(f"others can write to {quoted}; run: chmod 700 {quoted}")


def _check_owner(found: os.stat_result, quoted: str) -> None:
    if found.st_uid not in (0, os.geteuid()):
        raise NotPrivate(f"{quoted} belongs to another account; use that account, or give it to this one with chown")
