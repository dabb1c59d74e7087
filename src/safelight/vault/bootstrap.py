"""Which vault there is, and whether it is this cluster's: found by its address, created once, never silently replaced.

    vault (in the store)       whose it is: the cluster's id and a check of its secret; made once, with the store
    vault.json (in data_dir)   that this machine has used a vault, and which: made after the other

With the second, a vault that is missing or empty is known to be a loss: a share that is not mounted, a bucket's name
mistyped. With the first, nobody works in another cluster's vault, and no new keyring is made beside a vault in use.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import msgspec

from safelight.config import Config
from safelight.decoding import Malformed, decode
from safelight.encryption.keys import Keyring
from safelight.errors import SafelightError, missing_extra, reason
from safelight.runtime import atomic_file
from safelight.vault.chain import Chains, key_of
from safelight.vault.records import BODIES, RECORDS, TOKENS, USERS
from safelight.vault.stores.base import BadObject, Missing, Store, StoreError
from safelight.vault.stores.directory import DirectoryStore, read_from
from safelight.vault.vault import Vault

OWNER = "vault"
"""The object that says whose the vault is."""

MARKER = "vault.json"
NONE = "none"
BUCKETS = ("s3", "gs", "az")


class CannotUseVault(SafelightError):
    """This is not a vault that this cluster may use, and what to do. Trying again does not help."""


class _Owner(msgspec.Struct, frozen=True):
    cluster: str
    check: str


class _Marker(msgspec.Struct, frozen=True):
    url: str
    cluster: str


async def open_vault(config: Config, keyring: Callable[[], Keyring], *, begin: bool = True) -> Vault | None:
    """The vault; None if the configuration says so. With `begin` it is begun if there has been none; without, nothing
    is made, there or here.

    Raises CannotUseVault, and StoreError, after which trying again may help.
    """
    if config.vault == NONE:
        return None
    ring = keyring()
    marker = _read_marker(config)  # before the vault is looked at: other nodes may be about to begin it
    store = await _store_of(config, begin=begin and marker is None)
    try:
        store.guard(OWNER, await _check_owner(store, config, ring, marker, begin=begin))
        if begin:
            if marker is None and (here := config.data_dir / "users").is_dir():
                await _carry_over(DirectoryStore(here), store)
            _write_marker(config, _Marker(url_of(config), ring.cluster_id), marker)
    except BaseException:
        await store.close()
        raise
    return Vault(store, keyring)


async def open_users(config: Config, keyring: Callable[[], Keyring], *, begin: bool = True) -> Vault:
    """Where the cluster's users are. `begin` and errors are as with `open_vault`."""
    return await open_vault(config, keyring, begin=begin) or users_here(config, keyring)


def users_here(config: Config, keyring: Callable[[], Keyring], sealed: Callable[[str], object] = str) -> Vault:
    """Where the users of a cluster without a vault are: a directory that is like a vault with nothing else in it.

    `sealed` as for `Vault`.
    """
    return Vault(DirectoryStore(config.data_dir / "users"), keyring, sealed=sealed)


async def _carry_over(here: Store, store: Store) -> None:
    """Bring the users from the time before the vault into it. Where it knows better, it does.

    Their objects are the same there, so this may break off, be done by many at once, and be done again.
    """
    async for entry in here.list(TOKENS):
        await store.create(entry.key, await here.get(entry.key))
    async for latest in Chains(here).all(USERS):
        for number in range(1, latest.number + 1):
            key = key_of(latest.name, number)
            data = await here.get(key)
            if not await store.create(key, data) and await store.get(key) != data:
                break  # from here on it is another history


async def check_unused(config: Config) -> None:
    """Make sure that no vault is in use: a keyring that is made now could not open it.

    Raises CannotUseVault, also if it cannot be found out, and StoreError.
    """
    directory = directory_of(config)
    if config.vault == NONE or (directory is not None and not directory.exists()):
        return
    store = await _store_of(config, begin=False)
    try:
        if await _owner_of(store) is not None or await _anything_in(store):
            raise CannotUseVault(
                f"{config.data_dir / 'keyring.json'} is missing, but the vault {url_of(config)} is in use: "
                "restore it from a backup (a new keyring could not open the images of the old one)"
            )
    finally:
        await store.close()


def url_of(config: Config) -> str:
    """The vault's address."""
    return config.vault or (config.data_dir.absolute() / "vault").as_uri()


def directory_of(config: Config) -> Path | None:
    """Where the vault is, if it is a directory. Raises CannotUseVault for what is no address for one."""
    hosts = {address.host for address in config.addresses.values() if not address.loopback}
    if not config.vault and len(hosts) > 1:  # each would keep what the others do not find
        raise CannotUseVault(
            "vault: these servers are on several machines: name a directory that all mount, or a bucket, or none"
        )
    url = url_of(config)
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise CannotUseVault(f"vault: {url!r} is no vault's address: {error}") from None
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        return Path(os.fsdecode(unquote_to_bytes(parts.path)))
    if url == NONE or (parts.scheme in BUCKETS and parts.netloc):
        return None
    raise CannotUseVault(
        f"vault: {url!r} is no vault's address: write file:///directory, s3://bucket/prefix, gs://…, az://…, or none"
    )


def fault_in(directory: Path, ring: Keyring) -> str:
    """What keeps a node from working with the cluster's vault in this directory, in words; empty if nothing does.

    A file system that is not mounted, an empty directory and another cluster's vault do. Blocks.
    """
    try:
        owner = _decoded(read_from(directory, OWNER))
    except Missing:
        return f"the vault {directory} has no object {OWNER!r}: it is not mounted, or its contents are gone"
    except SafelightError as error:
        return str(error)
    if owner != _ours(ring):
        return f"the vault {directory} belongs to another cluster"
    # Asks the file system, too: even the superuser cannot write to what is mounted read-only (access(2), EROFS).
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        return f"the vault {directory} cannot be written to"
    return ""


async def _store_of(config: Config, *, begin: bool) -> Store:
    """The store at the vault's address. With `begin` it may be new."""
    url, directory = url_of(config), directory_of(config)
    if directory is None:
        try:
            from safelight.vault.stores.bucket import BucketStore  # its library is large, and an extra
        except ModuleNotFoundError as error:
            if error.name != "obstore":
                raise
            raise CannotUseVault(missing_extra("bucket", f"the vault {url}")) from None
        return BucketStore.open(url)
    if begin:
        if not directory.parent.is_dir():
            raise CannotUseVault(f"vault: {directory.parent} is missing: mount or make it, or write another address")
        DirectoryStore.make(directory)
    elif not directory.exists():
        raise _lost(config, f"the vault {directory} is missing")
    return DirectoryStore(directory)


def _ours(ring: Keyring) -> _Owner:
    return _Owner(ring.cluster_id, ring.derive("vault-check").hex()[:16])


async def _check_owner(store: Store, config: Config, ring: Keyring, marker: _Marker | None, *, begin: bool) -> bytes:
    """Make sure that the vault is the cluster's. A new one becomes it, if it may `begin`. The object that says so."""
    ours = _ours(ring)
    owner = await _owner_of(store)
    if owner is None:
        if marker is not None or not begin:
            raise _lost(config, f"the vault {url_of(config)} has no object {OWNER!r}, which says whose it is")
        if await _anything_in(store) and await _owner_of(store) is None:  # asked again: others may have begun it
            raise CannotUseVault(
                f"the vault {url_of(config)} has images in it, and nothing that says whose: restore its object "
                f"{OWNER!r} from a backup, or use another place"
            )
        await store.create(OWNER, msgspec.json.encode(ours))
        owner = await _owner_of(store)
    if owner is None or owner.cluster != ours.cluster:
        whose = "another cluster" if owner is None else f"cluster {owner.cluster[:8]}"
        raise CannotUseVault(
            f"the vault {url_of(config)} belongs to {whose}, and this is cluster {ours.cluster[:8]}: "
            "use another place, or the other keyring"
        )
    if owner.check != ours.check:
        raise CannotUseVault(
            f"the vault {url_of(config)} was made with another node secret than the keyring's in {config.data_dir}: "
            "restore that keyring"
        )
    return await store.get(OWNER)


async def _owner_of(store: Store) -> _Owner | None:
    try:
        return _decoded(await store.get(OWNER))
    except Missing:
        return None
    except BadObject as error:
        raise CannotUseVault(f"the vault's object {OWNER!r} is damaged ({error}): restore it from a backup") from None


def _decoded(data: bytes) -> _Owner:
    try:
        return decode(data, _Owner)
    except Malformed:
        raise CannotUseVault(f"the vault's object {OWNER!r} is damaged: restore it from a backup") from None


async def _anything_in(store: Store) -> bool:
    for prefix in (RECORDS, BODIES, USERS, TOKENS):
        async for _ in store.list(prefix):
            return True
    return False


def _lost(config: Config, what: str) -> CannotUseVault:
    marker = config.data_dir / MARKER
    if not marker.exists():
        return CannotUseVault(f"{what}: mount it, or restore it from a backup; a node begins a new one when it starts")
    return CannotUseVault(
        f"{what}, but this cluster has used a vault: mount it, or restore it from a backup; "
        f"to begin an empty one, delete {marker}"
    )


def _read_marker(config: Config) -> _Marker | None:
    path = config.data_dir / MARKER
    try:
        return decode(path.read_bytes(), _Marker)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {reason(error)}") from None
    except Malformed:
        raise CannotUseVault(f"{path} is damaged: delete it, if the vault is where it was") from None


def _write_marker(config: Config, marker: _Marker, found: _Marker | None) -> None:
    path = config.data_dir / MARKER
    try:
        if found is None:
            atomic_file.create_once(path, msgspec.json.encode(marker))
        elif found != marker:  # the vault has moved
            atomic_file.replace(path, msgspec.json.encode(marker))
    except OSError as error:
        raise StoreError(f"cannot write {path}: {reason(error)}") from None
