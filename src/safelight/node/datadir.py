"""The data directory: one for each machine, shared by its nodes. The keyring, the users, the epochs.

keyring.json       0600; all secrets of the cluster
users/NAME.json    0600; the fingerprint of the user's token
epoch-N.json       the last epoch that node N has been in
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec

from safelight import durable
from safelight.bully import Epoch
from safelight.encryption.errors import KeyringError
from safelight.encryption.keys import Keyring
from safelight.errors import SafelightError


class DataError(SafelightError):
    """The data directory cannot be used, and what to do about it."""


def prepare(directory: Path) -> None:
    """Make the directory, readable by its owner alone. Raises DataError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (directory / "users").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot use {directory} as data directory: {error.strerror}") from None


def create_cluster(directory: Path) -> Keyring:
    """Make the keyring of a new cluster. Raises DataError if there is one, or was one."""
    prepare(directory)
    path = _keyring_path(directory)
    if _lived_in(directory) and not path.exists():
        raise _lost(path)
    keyring = Keyring.new()
    if not _create_once(path, keyring.to_json()):
        raise DataError(f"{path} exists already: this data directory has its cluster")
    return keyring


def load_keyring(directory: Path, *, create: bool) -> Keyring:
    """The keyring; with `create`, a new one if the data directory is new, too. Nodes that do this at the
    same moment end with the same keyring. Raises DataError or KeyringError.
    """
    path = _keyring_path(directory)
    lived_in = _lived_in(directory)
    if not path.exists():
        if lived_in:
            raise _lost(path)
        if not create:
            raise DataError(f"there is no keyring in {directory}: make one with `safelight init`, or copy it there")
        prepare(directory)
        _create_once(path, Keyring.new().to_json())
    return _read_keyring(path)


def load_epoch(directory: Path, node: int) -> Epoch:
    """The epoch that the node was last in, or (0, 0). Raises DataError."""
    path = _epoch_path(directory, node)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Epoch)
    except FileNotFoundError:
        return Epoch(0, 0)
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"{path} is unreadable ({error}): delete it while the node's peers run") from None


def save_epoch(directory: Path, node: int, epoch: Epoch) -> None:
    durable.replace(_epoch_path(directory, node), msgspec.json.encode(epoch))


def _read_keyring(path: Path) -> Keyring:
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise DataError(f"{path} can be read by others: chmod 600 {path}")
            text = file.read(1 << 20)
    except OSError as error:
        raise DataError(f"cannot read the keyring {path}: {error.strerror}") from None
    try:
        return Keyring.from_json(text)
    except KeyringError as error:
        raise DataError(f"{path}: {error}") from None


def _create_once(path: Path, data: bytes) -> bool:
    try:
        return durable.create_once(path, data)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from None


def _lived_in(directory: Path) -> bool:
    """Whether a cluster has worked here: then a missing keyring is a loss, not a beginning."""
    return any(directory.glob("users/*.json")) or any(directory.glob("epoch-*.json"))


def _lost(path: Path) -> DataError:
    return DataError(
        f"{path} is missing, but this cluster has been at work: restore it from a backup "
        "(a new keyring could not open the images of the old one)"
    )


def _keyring_path(directory: Path) -> Path:
    return directory / "keyring.json"


def _epoch_path(directory: Path, node: int) -> Path:
    return directory / f"epoch-{node}.json"
