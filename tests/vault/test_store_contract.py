"""Every store keeps every law of the contract."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from safelight.vault.stores.base import Store
from safelight.vault.stores.bucket import BucketStore
from safelight.vault.stores.directory import DirectoryStore
from tests.vault.contract import LAWS, Law
from tests.vault.s3 import s3_server


@asynccontextmanager
async def directory(tmp_path: Path) -> AsyncIterator[Store]:
    DirectoryStore.make(tmp_path / "vault")
    store = DirectoryStore(tmp_path / "vault")
    yield store
    await store.close()


@asynccontextmanager
async def bucket(tmp_path: Path) -> AsyncIterator[Store]:
    store = BucketStore.open(f"s3://images/{secrets.token_hex(8)}")
    yield store
    await store.close()


STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[Store]]] = {"directory": directory, "bucket": bucket}
"""An empty store each; the path is a directory for whatever it needs."""


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with s3_server() as s3, pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment.items():
            patch.setenv(name, value)
        yield


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_a_store_keeps_the_law(law: Law, kind: str, tmp_path: Path) -> None:
    async def check() -> None:
        async with STORES[kind](tmp_path) as store:
            await law(store)

    asyncio.run(check())
