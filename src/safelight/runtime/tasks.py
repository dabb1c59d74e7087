"""What asyncio leaves to its callers: to end tasks, and to look at how they ended."""

import asyncio
from typing import Any, TypeVar

T = TypeVar("T")


async def cancel(*tasks: asyncio.Future[Any]) -> None:
    """Cancel these tasks, and return when all have ended, in whatever way."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def retrieve(done: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a future that nobody may await: else asyncio logs it as never retrieved."""
    if not done.cancelled():
        done.exception()


async def shielded(future: asyncio.Future[T]) -> T:
    """The result of a future that goes on if its caller is cancelled; its error is then dropped.

    As `asyncio.shield`, which logs such an error from Python 3.14 on.
    """
    future.add_done_callback(retrieve)
    await asyncio.wait([future])
    return future.result()
