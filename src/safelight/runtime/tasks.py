"""What asyncio leaves to its callers: to end tasks, and to look at how they ended."""

import asyncio
from typing import Any


async def cancel(*tasks: asyncio.Future[Any]) -> None:
    """Cancel these tasks, and return when all have ended, in whatever way."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def retrieve(done: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a future that nobody may await: else asyncio logs it as never retrieved."""
    if not done.cancelled():
        done.exception()
