"""File descriptors: how many this process may have open, and whether any is left."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import suppress

NONE_LEFT = frozenset({errno.EMFILE, errno.ENFILE})
"""Errors of a process, or a system, that has as many files open as it may (open(2), accept(2))."""

UNLIMITED = 1 << 20
"""What counts as the limit where the system names none."""

_OPEN_MAX = 10240
"""What macOS takes as soft limit at most where its hard one is infinite (setrlimit(2) there)."""


def raise_limit() -> int:
    """Raise the soft limit of this process to its hard one (getrlimit(2)). The limit that holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (hard, max(soft, _OPEN_MAX)):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            break
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UNLIMITED if soft == resource.RLIM_INFINITY else soft


def any_left() -> bool:
    """Whether this process can open a file at this moment."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in NONE_LEFT
    return True
