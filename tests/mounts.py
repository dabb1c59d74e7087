"""File systems for tests: a small one that can be filled, one that comes and goes; and names that are exchanged."""

import ctypes
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def small_disk(directory: Path, mebibytes: int, *, files: int = 0) -> Iterator[Path]:
    """A file system of that size at `directory`, which is made if need be; with `files`, for so many at most. Skips
    the test where it may not be mounted.
    """
    directory.mkdir(exist_ok=True)
    options = f"size={mebibytes}m" + (f",nr_inodes={files}" if files else "")
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(directory)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only the superuser can mount a small file system to fill")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@contextmanager
def seen_at(directory: Path, place: Path) -> Iterator[Callable[[bool], None]]:
    """A directory mounted at another place, as a file system is; what is given unmounts and mounts it again, also
    while it is in use. Skips the test where that may not be done.
    """
    place.mkdir()
    bind = ["mount", "--bind", str(directory), str(place)]
    if os.geteuid() != 0 or subprocess.run(bind, capture_output=True).returncode != 0:
        pytest.skip("only the superuser can mount")
    mounted = True

    def mount(there: bool) -> None:
        nonlocal mounted
        if there != mounted:
            subprocess.run(bind if there else ["umount", "-l", str(place)], check=True)
            mounted = there

    try:
        yield mount
    finally:
        mount(False)


def exchange(one: Path, other: Path) -> None:
    """Exchange two names in one step: renameat2(2). Skips the test where there is none."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        pytest.skip("there is no renameat2(2) here")
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        if number not in (errno.ENOENT, errno.ENOTDIR):  # another exchanges what is above it
            raise OSError(number, os.strerror(number))
