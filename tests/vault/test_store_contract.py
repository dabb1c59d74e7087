"""Every store keeps every law of the contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from safelight.vault.directory import Directory
from safelight.vault.store import Store
from tests.vault.contract import LAWS, Law


@asynccontextmanager
async def directory(tmp_path: Path) -> AsyncIterator[Store]:
    Directory.make(tmp_path / "vault")
    store = Directory(tmp_path / "vault")
    yield store
    await store.close()


STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[Store]]] = {"directory": directory}
"""An empty store each; the path is a directory for whatever it needs."""


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_a_store_keeps_the_law(law: Law, kind: str, tmp_path: Path) -> None:
    async def check() -> None:
        async with STORES[kind](tmp_path) as store:
            await law(store)

    asyncio.run(check())
