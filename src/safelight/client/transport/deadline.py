"""Deadlines and pauses of everything that a client tries again. Pure: the caller passes the time, in seconds."""

from __future__ import annotations

import random
from collections.abc import Callable

ALL_DOWN = 2.25
"""Seconds after which a client gives up if no server can be reached at all: three with the start of its process."""

BUSY_FACTOR = 20
"""A client waits this many times longer for busy servers than for an election."""


def jitter() -> float:
    """A factor from 0.5 to 1.5, so that clients that failed together do not retry together."""
    return random.uniform(0.5, 1.5)  # noqa: S311 — spreads retries, protects nothing


class Deadline:
    """When to give up: `timeout` seconds after the beginning, or after the last progress."""

    def __init__(self, now: float, timeout: float) -> None:
        self._began = self._since = now
        self._timeout = timeout
        self._done = 0

    def progress(self, now: float, done: int) -> None:
        """If more is done than ever before, the whole timeout is left again."""
        if done > self._done:
            self._since, self._done = now, done

    def busy(self, now: float) -> None:
        """A server is at capacity: the same, until `BUSY_FACTOR` timeouts after the beginning."""
        self._since = max(self._since, min(now, self._began + BUSY_FACTOR * self._timeout))

    def waited(self, now: float) -> float:
        """Seconds since the beginning, or the last progress."""
        return now - self._since

    def at(self, *, unreachable: bool = False) -> float:
        """When it passes. `unreachable`: no server can be reached at all, so it passes after `ALL_DOWN` already."""
        return self._since + (min(ALL_DOWN, self._timeout) if unreachable else self._timeout)


class Backoff:
    """Pauses between tries: each twice as long as the one before, with jitter."""

    def __init__(self, first: float, jitter: Callable[[], float] = jitter) -> None:
        self._pause = first
        self._jitter = jitter

    def next(self, longest: float) -> float:
        """The next pause in seconds, `longest` at most before the jitter."""
        pause = min(self._pause, longest)
        self._pause = 2 * pause
        return pause * self._jitter()
