"""Pouring a file into a connection, where what goes wrong goes wrong late."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from safelight.runtime.sendfile import FileBody, sendfile
from tests.running import GENEROUS


class Hanging(FileBody):
    """Takes a step that ends badly, when it is told to."""

    def __init__(self) -> None:
        super().__init__(lambda: -1)
        self.stepping, self.end, self.ended = threading.Event(), threading.Event(), threading.Event()

    def step(self, connection: int, offset: int, count: int) -> int:
        self.stepping.set()
        assert self.end.wait(GENEROUS)
        self.ended.set()
        raise BrokenPipeError


def test_a_step_that_fails_when_nobody_waits_for_it_any_more_is_not_reported(tmp_path: Path) -> None:
    reported: list[dict[str, Any]] = []

    async def go() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context))
        here, there = socket.socketpair()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=here)
        file = Hanging()
        pouring = asyncio.create_task(sendfile(transport, file, 0, 1000, stall_timeout=GENEROUS))
        assert await asyncio.to_thread(file.stepping.wait, GENEROUS)
        pouring.cancel()
        await asyncio.wait([pouring])
        file.end.set()
        assert await asyncio.to_thread(file.ended.wait, GENEROUS)
        await asyncio.sleep(0.1)
        del pouring
        gc.collect()
        await asyncio.sleep(0)
        transport.close()
        there.close()

    asyncio.run(go())
    assert reported == []


def test_how_fast_the_other_side_takes_it_is_told_and_may_end_it(tmp_path: Path) -> None:
    heard: list[tuple[float, int]] = []

    def taken(waited: float, count: int) -> None:
        heard.append((waited, count))
        if sum(count for _, count in heard) >= 10_000:
            raise InterruptedError

    async def go() -> None:
        here, there = socket.socketpair()
        here.setblocking(False)
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=here)
        path = tmp_path / "file"
        path.write_bytes(bytes(4 << 20))
        file = FileBody(lambda: os.open(path, os.O_RDONLY))
        await file.open()
        pouring = asyncio.create_task(sendfile(transport, file, 0, 4 << 20, stall_timeout=GENEROUS, taken=taken))
        for _ in range(1000):
            await asyncio.sleep(0.01)
            if pouring.done():
                break
            if heard:
                await asyncio.to_thread(there.recv, 1000)
        try:
            with pytest.raises(InterruptedError):
                await pouring
        finally:
            file.close()
            transport.close()
            there.close()

    asyncio.run(go())
    assert all(waited > 0 for waited, _ in heard)
