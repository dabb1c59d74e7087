"""The loop of everything that is tried again at intervals."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

from safelight.client.transport.deadline import jitter


async def rounds(pause: float, seconds: float = math.inf) -> AsyncIterator[None]:
    """Yield at the start of each try; end `seconds` after the first.

    There is at least one try. Between two of them, wait for `pause` seconds with jitter.
    """
    clock = asyncio.get_running_loop().time
    give_up = clock() + seconds
    while True:
        yield
        if clock() >= give_up:
            return
        await asyncio.sleep(pause * jitter())
