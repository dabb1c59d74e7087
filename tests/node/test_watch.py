"""The watch over a node goes on, whatever a look at its disk ends in."""

from __future__ import annotations

import asyncio
import threading

import pytest

from safelight.node.election import health
from safelight.node.election.health import Watch
from safelight.node.state.data_directory import DirectoryState
from tests.running import GENEROUS


@pytest.mark.parametrize("fails", [1, 2], ids=["first", "later"])
def test_a_look_that_ends_in_anything_unexpected_is_trouble_and_not_the_last(
    monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    monkeypatch.setattr(health, "INTERVAL", 0.01)
    looks, troubles, went_on = 0, list[str](), threading.Event()

    def look() -> DirectoryState:
        nonlocal looks
        looks += 1
        if looks > fails + 2:
            went_on.set()
        if looks == fails:
            raise RuntimeError("can't start new thread")
        return DirectoryState("", "", "")

    async def leader() -> int | None:
        return 2

    async def go() -> None:
        it = Watch(
            look=look,
            save=lambda: None,
            ready=lambda fit: troubles.append(it.why_not),
            leader=leader,
            leads=lambda: False,
            another_is_well=lambda: True,
            crashes=0,
            say=lambda line: None,
        )
        async with asyncio.timeout(GENEROUS):
            await it.start()
            assert await asyncio.to_thread(went_on.wait, GENEROUS / 2)
        assert it.disk_answers
        it.stop()

    asyncio.run(go())
    assert troubles[0] == "the disk cannot be examined (can't start new thread)"
