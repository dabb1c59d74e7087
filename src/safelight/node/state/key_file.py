"""The keyring on the disk: made once, read, changed under a lock; wrapped, where a secret is configured.

keyring.json        the keyring, or the keyring wrapped (`safelight keys wrap`)
keyring.lock        held (flock) by the process that changes it: the nodes of a machine share the file
keyring.json.part   what is being written; it replaces the other in one step

A node that runs holds it as `Keys`, which only ever learns: what another node of the machine has written, what an
order says, which key its peers use.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safelight.config import Config
from safelight.encryption.errors import KeyringError
from safelight.encryption.keyring_protection import Wrapper, is_wrapped
from safelight.encryption.keys import ClusterKey, Keyring
from safelight.errors import SafelightError
from safelight.runtime import atomic_file, private_file

SECRET = "SAFELIGHT_KEYRING_SECRET"  # noqa: S105 — the variable's name
MIN_SECRET, MAX_SECRET = 16, 4096
"""Bytes of a secret. With fewer no keyring is wrapped; one that an earlier version has wrapped so still opens."""
MAX_FILE = 1 << 20


class DataError(SafelightError):
    """The data directory cannot be used, and what to do about it."""


def wrapper_of(config: Config) -> Wrapper | None:
    """What wraps the keyring: the secret in `keyring_secret_file` or in SAFELIGHT_KEYRING_SECRET. None if there is
    neither. Raises DataError.

    The end of line that editors leave does not count. The secret is no part of `Config`, which is shown and
    passed on freely.
    """
    path, said = config.keyring_secret_file, os.environ.get(SECRET)
    if path is None:
        secret, where = os.fsencode(said or ""), SECRET
        if said is None:
            return None
    elif said is not None:
        raise DataError(f"the keyring's secret is set twice: unset keyring_secret_file or {SECRET}")
    else:
        secret, where = _read_private(path, MAX_SECRET + 2, "keyring_secret_file"), str(path)
    secret = secret.rstrip(b"\r\n")
    if not 1 <= len(secret) <= MAX_SECRET:
        raise DataError(f"the keyring's secret in {where} has to have {MIN_SECRET} to {MAX_SECRET} bytes")
    return Wrapper(secret)


class KeyFile:
    """`keyring.json` of a data directory. Everything here raises DataError."""

    def __init__(self, directory: Path, wrapper: Wrapper | None = None) -> None:
        """With `wrapper` it may be wrapped, and is made so; one that is not is read as well."""
        self.path = directory / "keyring.json"
        self._lock = directory / "keyring.lock"
        self._wrapper = wrapper

    def create(self, keyring: Keyring) -> bool:
        """Make it, unless it exists: then return False."""
        try:
            return atomic_file.create_once(self.path, self._text(keyring, wrapped=self._wrapper is not None))
        except OSError as error:
            raise DataError(f"cannot write {self.path}: {error.strerror}") from None

    def read(self) -> Keyring:
        return self._parse(_read_private(self.path, MAX_FILE, "the keyring"))

    @property
    def weak(self) -> bool:
        """Whether it is wrapped with a secret that is too short for a new one."""
        return self._wrapper is not None and self._wrapper.length < MIN_SECRET and self.wrapped

    @property
    def wrapped(self) -> bool:
        return self._is_wrapped(_read_private(self.path, MAX_FILE, "the keyring"))

    def change(self, edit: Callable[[Keyring], Keyring], *, wrapped: bool | None = None) -> Keyring:
        """Replace the keyring by what `edit` makes of it, and return that once it is durable.

        Nobody else changes it meanwhile. It stays wrapped or not, unless `wrapped` says which.
        """
        with self._locked():
            text = _read_private(self.path, MAX_FILE, "the keyring")
            was = self._is_wrapped(text)
            found = self._parse(text)
            keyring = edit(found)
            be = was if wrapped is None else wrapped
            try:
                if (keyring, be) != (found, was):
                    part = self.path.with_name(f"{self.path.name}.part")
                    part.unlink(missing_ok=True)  # of a process that was killed in mid-write
                    atomic_file.replace(self.path, self._text(keyring, wrapped=be), part=part)
                else:  # the process that wrote it may have died before this
                    atomic_file.sync_directory(self.path.parent)
            except OSError as error:
                raise DataError(f"cannot write {self.path}: {error.strerror}") from None
            return keyring

    def stamp(self) -> tuple[int, ...]:
        """A value that changes with the file; empty if the file cannot be read."""
        try:
            seen = os.stat(self.path)
        except OSError:
            return ()
        return (seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)

    def _text(self, keyring: Keyring, *, wrapped: bool) -> bytes:
        if not wrapped:
            return keyring.to_json()
        if self._wrapper is None:
            raise DataError(f"there is no secret to wrap {self.path} with: {_GIVE}")
        if self._wrapper.length < MIN_SECRET and not (self.path.exists() and self.wrapped):
            raise DataError(
                f"the keyring's secret has {self._wrapper.length} bytes: take one of {MIN_SECRET} at least, "
                "such as the output of: openssl rand -base64 24"
            )
        return self._wrapper.wrap(keyring)

    def _parse(self, text: bytes) -> Keyring:
        wrapped = self._is_wrapped(text)
        if wrapped and self._wrapper is None:
            raise DataError(f"{self.path} is wrapped: {_GIVE}")
        try:
            return self._wrapper.unwrap(text) if wrapped and self._wrapper else Keyring.from_json(text)
        except KeyringError as error:
            raise DataError(f"{self.path}: {error}") from None

    def _is_wrapped(self, text: bytes) -> bool:
        try:
            return is_wrapped(text)
        except KeyringError as error:
            raise DataError(f"{self.path}: {error}") from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The lock ends with its process; the file stays."""
        try:
            descriptor = os.open(self._lock, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataError(f"cannot use {self._lock}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class Keys:
    """The keyring of a running node: `ring`, to be read at every use. From any thread.

    What `ring` has come to know it never forgets, and it knows of nothing current that is not on the disk.
    """

    def __init__(self, file: KeyFile) -> None:
        """Raises DataError."""
        self._file = file
        self.weak = file.weak
        self._busy = threading.RLock()  # the health monitor and an admin command may call at the same time
        self._stamp, self._fault = file.stamp(), ""
        self.ring = file.read()

    def current(self) -> Keyring:
        """`ring`."""
        return self.ring

    def add(self, key: ClusterKey) -> None:
        """Store another key, durably; it is not used yet. Raises DataError, KeyringError."""
        self._change(lambda ring: ring.added(key))

    def use(self, key_id: str) -> bool:
        """Encrypt with this key from now on; stored first. False if this, or a later one, is used already.

        Raises DataError, KeyringError.
        """
        before = self.ring.current_id
        if self.ring.find(key_id) is None:
            raise DataError(f"there is no key {key_id} in {self._file.path}: run `safelight keys rotate` again")
        self._change(lambda ring: ring.using(key_id))
        return self.ring.current_id != before

    def look(self) -> str:
        """Read what others wrote to the file. Return its fault, if a node that starts now could not decrypt what this
        node encrypts; otherwise an empty text.
        """
        with self._busy:
            stamp = self._file.stamp()
            if self._fault or stamp != self._stamp:
                self._fault, self._stamp = self._adopt(), stamp
            return self._fault

    def _adopt(self) -> str:
        try:
            found = self._file.read()
        except DataError as error:
            return str(error)
        if not found.belongs_with(self.ring) or found.find(self.ring.current_id) is None:
            return f"{self._file.path} is not the keyring that this node works with: restore it, or restart the node"
        self.ring = self.ring.merged(found)
        return ""

    def _change(self, edit: Callable[[Keyring], Keyring]) -> None:
        with self._busy:
            self.ring = self._file.change(lambda found: edit(found.merged(self.ring)))


_GIVE = f"name a file with the secret in keyring_secret_file, or put it into {SECRET}"


def _read_private(path: Path, most: int, what: str) -> bytes:
    """A file with a secret. Raises DataError."""
    try:
        return private_file.read(path, most)
    except private_file.NotPrivate as error:
        raise DataError(str(error)) from None
    except OSError as error:
        raise DataError(f"cannot read {what} {path}: {error.strerror}") from None
