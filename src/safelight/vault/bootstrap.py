"""Find the vault at its address, check that it is this cluster's, and create it once, never silently again.

    vault (in the store)       its identity: the cluster's id and a check of its secret; created once, with the store
    vault.json (in data_dir)   that this machine has used a vault, and which; written after the other

The second reveals a missing or empty vault as a loss: a share that is not mounted, a mistyped name of a bucket. The
first keeps nodes out of another cluster's vault, and prevents a new keyring beside a vault in use.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import msgspec

from safelight.decoding import Malformed, decode
from safelight.encryption.keys import Keyring
from safelight.errors import SafelightError, missing_extra, reason
from safelight.runtime import atomic_file
from safelight.vault.chain import Chains, key_of
from safelight.vault.records import BODIES, IDENTITY, RECORDS, TOKENS, USERS
from safelight.vault.stores.base import BadObject, Missing, Store, StoreError
from safelight.vault.stores.directory import DirectoryStore, read_from
from safelight.vault.vault import Vault

MARKER = "vault.json"


class CannotUseVault(SafelightError):
    """This cluster may not use this vault; the message states the reason and the remedy. A retry does not help."""


class _Identity(msgspec.Struct, frozen=True):
    cluster: str
    check: str


class _Marker(msgspec.Struct, frozen=True):
    url: str
    cluster: str


async def open_vault(url: str, data_dir: Path, keyring: Callable[[], Keyring], *, create: bool = True) -> Vault:
    """The vault at this address. With `create` it is created if there has been none; without, nothing is created, in
    the store or in the data directory.

    Raises CannotUseVault, and StoreError, after which a retry may help.
    """
    ring = keyring()
    marker = _read_marker(data_dir)  # before the vault is read: other nodes may be creating it
    store = await _open_store(url, data_dir, create=create and marker is None)
    try:
        store.guard(IDENTITY, await _check_identity(store, url, data_dir, ring, marker, create=create))
        if create:
            if marker is None and (here := data_dir / "users").is_dir():
                await _carry_over(DirectoryStore(here), store)
            _write_marker(data_dir, _Marker(url, ring.cluster_id), marker)
    except BaseException:
        await store.close()
        raise
    return Vault(store, keyring)


async def _carry_over(here: Store, store: Store) -> None:
    """Copy the users of a machine that ran Safelight 0.1 without a vault; existing vault records win.

    The objects are the same in both, so this may be interrupted, run concurrently, and run again.
    """
    async for entry in here.list(TOKENS):
        await store.create(entry.key, await here.get(entry.key))
    async for latest in Chains(here).all(USERS):
        for number in range(1, latest.number + 1):
            key = key_of(latest.name, number)
            data = await here.get(key)
            if not await store.create(key, data) and await store.get(key) != data:
                break  # from here on the vault has another history


async def check_unused(url: str, data_dir: Path) -> None:
    """Make sure that no vault is in use: a keyring that is created now could not open it.

    Raises CannotUseVault, also if this cannot be determined, and StoreError.
    """
    directory = directory_of(url)
    if directory is not None and not directory.exists():
        return
    store = await _open_store(url, data_dir, create=False)
    try:
        if await _identity_of(store) is not None or await _anything_in(store):
            raise CannotUseVault(
                f"{data_dir / 'keyring.json'} is missing, but the vault {url} is in use: "
                "restore it from a backup (a new keyring could not open the images of the old one)"
            )
    finally:
        await store.close()


def directory_of(url: str) -> Path | None:
    """The directory at a vault's address; None for a bucket. Raises CannotUseVault for any other address."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise CannotUseVault(f"vault: {url!r} is not a vault's address: {error}") from None
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        return Path(os.fsdecode(unquote_to_bytes(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        return None
    raise CannotUseVault(f"vault: {url!r} is not a vault's address: write file:///directory or s3://bucket/prefix")


def fault_in(directory: Path, ring: Keyring) -> str:
    """Why a node cannot use the cluster's vault in this directory, in words; empty if it can. Blocks.

    Reasons are a file system that is not mounted, an empty directory and another cluster's vault.
    """
    try:
        identity = _decoded(read_from(directory, IDENTITY))
    except Missing:
        return f"the vault {directory} has no object {IDENTITY!r}: it is not mounted, or its contents are gone"
    except SafelightError as error:
        return str(error)
    if identity != _ours(ring):
        return f"the vault {directory} belongs to another cluster"
    # access(2) asks the file system, too: even the superuser cannot write to a read-only mount (EROFS).
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        return f"the vault {directory} cannot be written to"
    return ""


async def _open_store(url: str, data_dir: Path, *, create: bool) -> Store:
    """The store at the vault's address. With `create` it may be new."""
    directory = directory_of(url)
    if directory is None:
        try:
            from safelight.vault.stores.bucket import BucketStore  # noqa: PLC0415 — its library is large, and an extra
        except ModuleNotFoundError as error:
            if error.name != "obstore":
                raise
            raise CannotUseVault(missing_extra("bucket", f"the vault {url}")) from None
        return BucketStore.open(url)
    if create:
        if not directory.parent.is_dir():
            raise CannotUseVault(f"vault: {directory.parent} is missing: mount or make it, or write another address")
        DirectoryStore.make(directory)
    elif not directory.exists():
        raise _lost(data_dir, f"the vault {directory} is missing")
    return DirectoryStore(directory)


def _ours(ring: Keyring) -> _Identity:
    return _Identity(ring.cluster_id, ring.derive("vault-check").hex()[:16])


async def _check_identity(
    store: Store, url: str, data_dir: Path, ring: Keyring, marker: _Marker | None, *, create: bool
) -> bytes:
    """Make sure that the vault is this cluster's, and return its identity object. With `create` a new vault becomes the
    cluster's.
    """
    ours = _ours(ring)
    identity = await _identity_of(store)
    if identity is None:
        if marker is not None or not create:
            raise _lost(data_dir, f"the vault {url} has no object {IDENTITY!r}, which identifies it")
        if await _anything_in(store) and await _identity_of(store) is None:  # read again: others may have created it
            raise CannotUseVault(
                f"the vault {url} has images in it, and no object that identifies it: restore its object "
                f"{IDENTITY!r} from a backup, or use another place"
            )
        await store.create(IDENTITY, msgspec.json.encode(ours))
        identity = await _identity_of(store)
    if identity is None or identity.cluster != ours.cluster:
        whose = "another cluster" if identity is None else f"cluster {identity.cluster[:8]}"
        raise CannotUseVault(
            f"the vault {url} belongs to {whose}, and this is cluster {ours.cluster[:8]}: "
            "use another place, or the other keyring"
        )
    if identity.check != ours.check:
        raise CannotUseVault(
            f"the vault {url} was made with another node secret than the keyring's in {data_dir}: restore that keyring"
        )
    return await store.get(IDENTITY)


async def _identity_of(store: Store) -> _Identity | None:
    try:
        return _decoded(await store.get(IDENTITY))
    except Missing:
        return None
    except BadObject as error:
        raise CannotUseVault(
            f"the vault's object {IDENTITY!r} is damaged ({error}): restore it from a backup"
        ) from None


def _decoded(data: bytes) -> _Identity:
    try:
        return decode(data, _Identity)
    except Malformed:
        raise CannotUseVault(f"the vault's object {IDENTITY!r} is damaged: restore it from a backup") from None


async def _anything_in(store: Store) -> bool:
    for prefix in (RECORDS, BODIES, USERS, TOKENS):
        async for _ in store.list(prefix):
            return True
    return False


def _lost(data_dir: Path, what: str) -> CannotUseVault:
    marker = data_dir / MARKER
    if not marker.exists():
        return CannotUseVault(f"{what}: mount it, or restore it from a backup; a node creates one when it starts")
    return CannotUseVault(
        f"{what}, but this cluster has used a vault: mount it, or restore it from a backup; "
        f"to start with an empty one, delete {marker}"
    )


def _read_marker(data_dir: Path) -> _Marker | None:
    path = data_dir / MARKER
    try:
        return decode(path.read_bytes(), _Marker)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {reason(error)}") from None
    except Malformed:
        raise CannotUseVault(f"{path} is damaged: delete it, if the vault is where it was") from None


def _write_marker(data_dir: Path, marker: _Marker, found: _Marker | None) -> None:
    path = data_dir / MARKER
    try:
        if found is None:
            atomic_file.create_once(path, msgspec.json.encode(marker))
        elif found != marker:  # the vault has moved
            atomic_file.replace(path, msgspec.json.encode(marker))
    except OSError as error:
        raise StoreError(f"cannot write {path}: {reason(error)}") from None
