"""The data directory: one for each machine, shared by its nodes. The keyring and the epochs.

keyring.json             all secrets of the cluster (see key_file.py)
vault.json               that there has been a vault, and where
vault/                   the vault, if it is nowhere else
epoch-N.json             the last epoch that node N has been in
life-N.json              while node N runs, and after a crash: since when it did, and after how many crashes
usage-N.json             how often node N has used each cluster key (see key_usage.py)
probe-N                  what node N writes to see whether it can

All are readable by their owner alone.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from safelight.decoding import Malformed, decode
from safelight.election.bully import NEVER, Epoch
from safelight.encryption.keyring_protection import Wrapper
from safelight.encryption.keys import Keyring
from safelight.node.state.key_file import DataError as DataError
from safelight.node.state.key_file import KeyFile, Keys
from safelight.runtime import atomic_file, private_file
from safelight.runtime.descriptors import any_left
from safelight.sizes import human_size

RESERVE = 32 << 20
"""Bytes that must be free where the data directory is: for epochs, users and the spools of a few images."""

NO_DESCRIPTORS = "it has no free file descriptors"
"""The fault of a node that can open no file, and accept no connection: other faults are its consequences."""

_sync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync(2)


def prepare(directory: Path) -> None:
    """Create the directory, readable by its owner alone. Raises DataError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot use {directory} as data directory: {error.strerror}") from None
    _check(directory)
    if any(directory.glob("users/*.json")):
        raise DataError(
            f"{directory / 'users'} is of an unreleased Safelight, and is not read any more: move it away; on loopback "
            "users enrol again by themselves, elsewhere add them again with `safelight user add`"
        )


def _check(directory: Path) -> None:
    try:
        private_file.check_directory(directory)
    except private_file.NotPrivate as error:
        raise DataError(f"cannot use this data directory: {error}") from None
    except OSError as error:
        raise DataError(f"cannot use {directory} as data directory: {error.strerror}") from None


def create_cluster(directory: Path, wrapper: Wrapper | None = None) -> Keyring:
    """Create the keyring of a new cluster, encrypted if there is a `wrapper`. Raises DataError if one exists."""
    prepare(directory)
    file = KeyFile(directory, wrapper)
    if _used(directory) and not file.path.exists():
        raise _lost(file.path)
    keyring = _new_keyring()
    if not file.create(keyring):
        raise DataError(f"{file.path} exists already: this data directory has its cluster")
    return keyring


def check_cluster(directory: Path) -> None:
    """Raises DataError if the directory has no cluster."""
    try:
        KeyFile(directory).path.stat()
    except FileNotFoundError:
        raise DataError(
            f"there is no cluster in {directory}: name its data directory with --data-dir, "
            "or make a new one with `safelight init`"
        ) from None
    except OSError as error:
        raise DataError(f"cannot use {directory} as data directory: {error.strerror}") from None
    prepare(directory)


def load_keys(directory: Path, *, create: bool, wrapper: Wrapper | None = None) -> Keys:
    """The keyring, for a running node; with `create`, a new one if the data directory is new, too. Nodes that do this
    at the same time get the same keyring. Raises DataError.
    """
    return Keys(find_keyring(directory, create=create, wrapper=wrapper))


def find_keyring(directory: Path, *, create: bool = False, wrapper: Wrapper | None = None) -> KeyFile:
    """The keyring's file, which exists, or is created as for `load_keys`. Raises DataError."""
    file = KeyFile(directory, wrapper)
    if directory.exists():
        _check(directory)
    used = _used(directory)
    if not file.path.exists():
        if used:
            raise _lost(file.path)
        if not create:
            raise DataError(f"there is no keyring in {directory}: make one with `safelight init`, or copy it there")
        prepare(directory)
        file.create(_new_keyring())
    return file


def load_epoch(directory: Path, node: int) -> Epoch:
    """The last epoch of the node; `NEVER` if there is none. Raises DataError."""
    path = _epoch_path(directory, node)
    try:
        return decode(path.read_bytes(), Epoch)
    except FileNotFoundError:
        with suppress(OSError):  # the health monitor will find out what is wrong with the disk
            save_epoch(directory, node, NEVER)  # the file also marks this directory as the node's
        return NEVER
    except (OSError, Malformed) as error:
        raise DataError(f"{path} is unreadable ({error}): delete it while the node's peers run") from None


def save_epoch(directory: Path, node: int, epoch: Epoch) -> None:
    """Put the epoch on the disk; also on a full one, if the file exists. Raises OSError."""
    replace(_epoch_path(directory, node), msgspec.json.encode(epoch))


class DirectoryState(NamedTuple):
    """The faults of a data directory, each as a message; empty if there is none."""

    disk: str
    keyring: str
    full: str
    """Too little free space, if all nodes that may lead have their epochs here: then no other node has more."""
    descriptors: str = ""
    """This process can open no file; then the other faults are unknown."""


class NodeFiles:
    """One node's use of the data directory."""

    def __init__(self, directory: Path, node: int, peers: Iterable[int], keys: Keys) -> None:
        self._directory, self._node, self._peers, self._keys = directory, node, frozenset(peers) - {node}, keys

    def save_epoch(self, epoch: Epoch) -> None:
        """Raises OSError."""
        save_epoch(self._directory, self._node, epoch)

    def examine(self, known_peers: Collection[int]) -> DirectoryState:
        """The state of the directory now. `known_peers` might lead instead; before any is known, all. Writes a byte."""
        return _examine(self._directory, self._node, known_peers or self._peers, self._keys)


def _examine(directory: Path, node: int, others: Iterable[int], keys: Keys) -> DirectoryState:
    enough = any_left()
    fault, full = _disk_fault(directory, node)
    shared = full and all(os.path.exists(_epoch_path(directory, each)) for each in others)
    state = DirectoryState(
        disk="" if shared else fault,
        keyring=keys.look(),
        full=fault if shared else "",
    )
    return state if enough and any_left() else DirectoryState("", "", "", NO_DESCRIPTORS)


def _disk_fault(directory: Path, node: int) -> tuple[str, bool]:
    """The fault of the disk, if any; and whether the disk is only full."""
    try:
        probe = os.open(directory / f"probe-{node}", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.write(probe, b"\n")  # always the same block, which wears a flash disk little
            _sync(probe)
        finally:
            os.close(probe)
        free = shutil.disk_usage(directory).free
    except OSError as error:
        return f"{directory} cannot be written to ({error.strerror})", error.errno in (errno.ENOSPC, errno.EDQUOT)
    if free < RESERVE:
        return f"less than {human_size(RESERVE)} are free in {directory}", True
    return "", False


def replace(path: Path, data: bytes) -> None:
    """Replace a small file, also on a full disk if the file exists. Raises OSError."""
    try:
        atomic_file.replace(path, data)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        atomic_file.overwrite(path, data)


def _new_keyring() -> Keyring:
    return Keyring.new(created=int(time.time()))


def _used(directory: Path) -> bool:
    """Whether a cluster has used this directory: then a missing keyring is data loss."""
    return any(directory.glob("users/*/*")) or any(directory.glob("epoch-*.json"))


def _lost(path: Path) -> DataError:
    return DataError(
        f"{path} is missing, but this cluster is in use: restore it from a backup "
        "(a new keyring could not open the images of the old one)"
    )


def _epoch_path(directory: Path, node: int) -> Path:
    return directory / f"epoch-{node}.json"
