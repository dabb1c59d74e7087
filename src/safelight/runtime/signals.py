"""SIGTERM and SIGHUP end a process as Ctrl-C does: through its `with` and `finally` blocks, so that nothing is left.

The exit code is the shell's for a signal: 128 and its number. A second signal while it unwinds is ignored, and so
is a SIGHUP that was ignored from the start (nohup).
"""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import uvloop

from safelight.runtime.allocator import keep_segments

T = TypeVar("T")


def _ours() -> list[signal.Signals]:
    return [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]


@contextmanager
def unwinding() -> Iterator[None]:
    """For code without an event loop: the signal raises SystemExit, wherever the code is."""

    def unwind(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, unwind) for number in _ours()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within `run`, while the event loop stands still for what a person types: Ctrl-C raises KeyboardInterrupt at once.
    Otherwise it would be noticed only when the line has ended.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run(main: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, on uvloop, which takes half the time for each message; the signal cancels `main`: raised
    anywhere in a loop, an exception may hit any task.
    """
    keep_segments()
    before = {number: signal.getsignal(number) for number in _ours()}
    told: list[int] = []

    async def cancellable() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def cancel(number: int) -> None:
            if not told:
                told.append(number)
                task.cancel()

        for number in before:
            loop.add_signal_handler(number, cancel, number)
        return await main

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(cancellable())
    except asyncio.CancelledError:
        if told:
            raise SystemExit(128 + told[0]) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
