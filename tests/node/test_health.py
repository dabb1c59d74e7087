"""The health monitor continues, whatever an examination of the disk ends in."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection
from unittest.mock import AsyncMock, Mock

import pytest

from safelight.election.bully import Epoch
from safelight.node.election import health
from safelight.node.election.health import HealthMonitor
from safelight.node.state.data_directory import DirectoryState
from tests.running import GENEROUS


@pytest.mark.parametrize("fails", [1, 2], ids=["first", "later"])
def test_an_unexpected_error_of_an_examination_is_a_fault_and_ends_no_other(
    monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    monkeypatch.setattr(health, "INTERVAL", 0.01)
    examinations, reasons, went_on = 0, list[str](), threading.Event()

    def examine(known_peers: Collection[int]) -> DirectoryState:
        nonlocal examinations
        examinations += 1
        if examinations > fails + 2:
            went_on.set()
        if examinations == fails:
            raise RuntimeError("can't start new thread")
        return DirectoryState("", "", "")

    async def go() -> None:
        it = HealthMonitor(
            Mock(examine=examine),
            Mock(another_is_healthy=Mock(return_value=True)),
            leader_timeout=GENEROUS,
            crashes=0,
            log=list[str]().append,
        )
        follower = Mock(leads=False, wait_for_leader=AsyncMock(return_value=2))
        follower.set_eligible = lambda eligible: reasons.append(it.ineligible)
        it.bind(follower)
        async with asyncio.timeout(GENEROUS):
            await it.start()
            assert await asyncio.to_thread(went_on.wait, GENEROUS / 2)
        assert it.save(Epoch(1, 2))  # as the disk answers
        it.stop()

    asyncio.run(go())
    assert reasons[0] == "the disk cannot be examined (can't start new thread)"
