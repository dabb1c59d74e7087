"""A node's hold on its vault, where a look at it ends in anything unexpected."""

from __future__ import annotations

import asyncio
from pathlib import Path
from unittest.mock import Mock

import pytest

from safelight.encryption.keys import Keyring
from safelight.local.cluster import ephemeral_config
from safelight.node.state import vault_handle
from safelight.node.state.data_directory import find_keyring
from safelight.node.state.vault_handle import VaultHandle
from tests.running import GENEROUS


def test_a_look_at_the_vault_that_ends_in_anything_unexpected_is_trouble_until_one_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ephemeral_config(tmp_path, 1)
    keyring = find_keyring(config.data_dir, create=True).read()
    monkeypatch.setattr(vault_handle, "LOOK", 0.05)

    def fails(directory: Path, ring: Keyring) -> str:
        raise RuntimeError("can't start new thread")

    async def go() -> None:
        reasons = asyncio.Queue[str]()
        it = VaultHandle(
            config,
            1,
            lambda: keyring,
            election=Mock(leads=False),
            peers=Mock(another_is_unhealthy=Mock(return_value=False)),
            health=Mock(observe_vault=lambda fault, suspicion: reasons.put_nowait(fault)),
            log=list[str]().append,
        )
        async with asyncio.timeout(GENEROUS):
            await it.start()
            with monkeypatch.context() as patch:
                patch.setattr(vault_handle, "fault_in", fails)
                while "can't start new thread" not in await reasons.get():
                    pass
            while await reasons.get():
                pass
        await it.stop()

    asyncio.run(go())
