"""A store depends on its guard: without it nothing is written, acknowledged or reported missing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from safelight.encryption.keys import Keyring
from safelight.local.cluster import ephemeral_config
from safelight.vault.bootstrap import fault_in, open_vault
from safelight.vault.chain import Chains
from safelight.vault.stores import bucket
from safelight.vault.stores.base import Missing, Store, StoreError
from safelight.vault.stores.directory import DirectoryStore
from tests.vault.contract import BODY, RECORD, keys, put
from tests.vault.s3 import s3_server
from tests.vault.test_store_contract import STORES

GUARD, OURS = "vault", b"ours"


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with s3_server() as s3, pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment.items():
            patch.setenv(name, value)
        patch.setattr(bucket, "ASSURED", 0.0)
        yield


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("instead", [None, b"another's"])
def test_a_store_without_its_guard_is_unavailable(kind: str, instead: bytes | None, tmp_path: Path) -> None:
    async def check() -> None:
        async with STORES[kind](tmp_path) as store, STORES[kind](tmp_path) as second:
            other = second if kind == "directory" else store_beside(store)
            assert await store.create(GUARD, OURS)
            store.guard(GUARD, OURS)
            assert await store.create(RECORD, b"a record")
            with pytest.raises(Missing):
                await store.get(RECORD + "0")
            identity = store.identity
            for key in GUARD, RECORD:
                await other.delete(key)
            if instead is not None:
                await other.create(GUARD, instead)
            for attempt in (
                store.create(RECORD, b"a record"),
                put(store, BODY, b"a body"),
                store.get(RECORD),
                store.size(RECORD),
                store.delete(RECORD),
                keys(store),
                keys(store, "records/"),
            ):
                with pytest.raises(StoreError, match=GUARD):
                    await attempt
            assert await keys(other) == ({GUARD} if instead is not None else set())
            await other.delete(GUARD)
            await other.create(GUARD, OURS)
            assert await store.create(RECORD, b"another record")
            assert store.identity != identity

    asyncio.run(check())


def store_beside(store: Store) -> Store:
    """Another's way to the same bucket."""
    assert isinstance(store, bucket.BucketStore)
    return bucket.BucketStore.open(store._url)


@pytest.mark.parametrize("kind", STORES)
def test_what_was_remembered_is_read_again_after_the_store_was_away(kind: str, tmp_path: Path) -> None:
    async def check() -> None:
        async with STORES[kind](tmp_path) as store:
            other: Store = DirectoryStore(tmp_path / "vault") if kind == "directory" else store_beside(store)
            assert await store.create(GUARD, OURS)
            store.guard(GUARD, OURS)
            chains = Chains(store)
            for number in (1, 2):
                assert await chains.append("records/u/a", number, b"%d" % number)
            for key in (GUARD, "records/u/a.2"):
                await other.delete(key)
            with pytest.raises(StoreError):
                await chains.latest("records/u/a")
            await other.create(GUARD, OURS)
            latest = await chains.latest("records/u/a")
            assert latest is not None
            assert (latest.number, latest.data) == (1, b"1")

    asyncio.run(check())


def test_a_node_sees_that_what_is_there_is_not_the_clusters_vault(tmp_path: Path) -> None:
    config = ephemeral_config(tmp_path, 1)
    config.data_dir.mkdir()
    ring, vault = Keyring.new(), config.data_dir / "vault"
    assert asyncio.run(open_vault(config.vault_url, config.data_dir, lambda: ring))
    assert fault_in(vault, ring) == ""
    assert "belongs to another cluster" in fault_in(vault, Keyring.new())
    (vault / "vault").rename(tmp_path / "aside")
    assert "no object 'vault'" in fault_in(vault, ring)
    (vault / "vault").symlink_to(tmp_path / "aside")
    assert "a symbolic link" in fault_in(vault, ring)
    vault.rename(tmp_path / "moved")
    assert "missing" in fault_in(vault, ring)
