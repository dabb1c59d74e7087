"""Judge from its calls whether a store works: calls started, answered and failed in; the reason of a failure out.

No clock, no disk. Each kind of call is judged separately: a disk may still read, and even accept writes into memory,
while it makes nothing durable. Calls are real calls or probes: calls that a node makes only to test the store, while
there is a suspicion and perhaps no real work. A probe may read from memory: its success does not outweigh a real read
that waits, nor, for `RECENT` seconds, one that failed.
"""

from __future__ import annotations

from enum import Enum

HANG = 3.0
"""Seconds without an answer, while a call waits, after which the store counts as hung."""

FAILING = 1.0
"""Seconds from the first to the last of consecutive failures after which the store counts as failed."""

SUSPICIOUS = 1.0
"""Seconds without an answer, while a call waits, after which a probe is useful."""

RECENT = 3.0
"""Seconds after the failure of a real call in which a probe's success proves nothing."""


class CallKind(Enum):
    """What a call does."""

    LOOK = "looks"  # checks whether the store is there, without a call of it
    READ = "reads"  # of small objects
    BODY = "bodies"  # read, or poured into a connection
    WRITE = "writes"  # into an unfinished body
    COMMIT = "commits"  # durable when it returns


_CACHED = {CallKind.READ, CallKind.BODY}
"""Kinds whose probes memory may answer while the disk does not."""

_SLOW = "the vault is slow to answer"


class _Calls:
    """The calls of one kind."""

    def __init__(self, *, cached: bool) -> None:
        self._cached = cached
        self._waiting = 0
        self._since: float | None = None  # when calls began to wait, or the latest answer to one of several
        self._first: float | None = None  # of a row of failures
        self._latest = self._real = 0.0  # failure, and failure of a real call
        self._why = ""

    def started(self, now: float) -> None:
        self._waiting += 1
        if self._since is None:
            self._since = now

    def answered(self, now: float, why: str, probe: bool) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._since = None
        elif not (probe and self._cached):
            self._since = now
        if why:
            self._failed(now, why, probe)
        elif self._first is not None and (not probe or now - self._real >= RECENT):
            self._first = None

    def _failed(self, now: float, why: str, probe: bool) -> None:
        if self._first is None:
            self._first, self._real = now, -RECENT
        self._latest, self._why = now, why
        if not probe:
            self._real = now

    def dropped(self, now: float) -> None:
        self._waiting -= 1  # its answer is still to come
        if self._cached and self._silent(now) >= SUSPICIOUS:
            self._failed(now, _SLOW, probe=False)

    @property
    def unknown(self) -> bool:
        return self._since is not None and not self._waiting

    def reason(self, now: float) -> str:
        if self._first is not None and self._latest - self._first >= FAILING:
            return self._why
        return f"the vault has answered nothing for {HANG:g} s" if self._silent(now) >= HANG else ""

    def suspicion(self, now: float) -> str:
        if self._first is not None:
            return self._why
        return _SLOW if self._silent(now) >= SUSPICIOUS else ""

    def _silent(self, now: float) -> float:
        return 0.0 if self._since is None else now - self._since


class StoreHealth:
    """The health of one store. Times are in seconds, of one monotonic clock."""

    def __init__(self) -> None:
        self._calls = {kind: _Calls(cached=kind in _CACHED) for kind in CallKind}

    def started(self, kind: CallKind, now: float) -> None:
        """A call was made."""
        self._calls[kind].started(now)

    def answered(self, kind: CallKind, now: float, why: str = "", *, probe: bool = False) -> None:
        """A call was answered; with a reason in `why`, it failed because of the store."""
        self._calls[kind].answered(now, why, probe)

    def dropped(self, kind: CallKind, now: float) -> None:
        """A call was cancelled before an answer. A read that had waited long counts as failed."""
        self._calls[kind].dropped(now)

    @property
    def unknown(self) -> bool:
        """Whether a cancelled call was not answered and no other waits: a probe finds out what became of it."""
        return any(calls.unknown for calls in self._calls.values())

    def reason(self, now: float) -> str:
        """Why the store counts as failed or hung; empty if it does not."""
        return next(filter(None, (calls.reason(now) for calls in self._calls.values())), "")

    def suspicion(self, now: float) -> str:
        """What becomes a reason unless a probe or another call succeeds; empty if nothing does."""
        return next(filter(None, (calls.suspicion(now) for calls in self._calls.values())), "")
