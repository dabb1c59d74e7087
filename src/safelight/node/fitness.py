"""Whether a node may lead: what was observed, and when, in; ready or not, and why not, out. No clock, no disk.

A node is unfit while anything is wrong with it, and then for a hold-down: what broke once may break again. Each
further time within a while doubles the hold-down, so that a disk that comes and goes does not make leadership come
and go with it. (Route flap damping, RFC 2439, and the reset of a hold-down after stability have the same reasons.)

A node that crashes and is started again gives way in the same manner, from the second crash on, and so does one whose
operator wants another to lead; but only to another node that leads. Nothing is wrong with it, and where nobody leads
there is nobody to give way to.
"""

from __future__ import annotations

from math import inf
from typing import Annotated, NamedTuple

import msgspec

FIRST_HOLD, LONGEST_HOLD = 2.0, 60.0
"""Seconds that a node is held down after its first failure, and at most."""

CALM = 300.0
"""Seconds of fitness after which earlier failures are forgotten, and of a life after which earlier crashes are."""


class Life(NamedTuple):
    """One life of a node's process, as the next one finds it if this one does not end politely."""

    since: float  # Unix time
    crashes: Annotated[int, msgspec.Meta(ge=0)]  # before it, without a calm life between them


def next_life(last: Life | None, now: float) -> Life:
    """The life that begins `now` (Unix time) after a crash; or, with None, after a polite end or the unknown."""
    if last is None:
        return Life(now, 0)
    lately = abs(now - last.since) < CALM  # a clock that was set back tells less, but nothing that could do harm
    return Life(now, 1 + (last.crashes if lately else 0))


class Fitness:
    """One node's fitness. Times are in seconds, of one monotonic clock."""

    def __init__(self) -> None:
        self._wrong: dict[str, str] = {}  # causes that last were not well, and their words
        self._held_until = -inf
        self._failures = 0  # without a calm time between them
        self._gives_way: dict[str, float] = {}  # why, and until when
        self.leaving = False
        self._last_words = ""

    def observe(self, cause: str, ok: bool, now: float, why: str = "") -> None:
        """Something ("disk", "keyring", "vault", "epoch", "descriptors") is well, or not, and why, in words."""
        if ok:
            was_wrong = self._wrong.pop(cause, None) is not None
            if was_wrong and not self._wrong:
                self._held_until = now + _hold(self._failures)
            return
        if not self._wrong:
            if now - self._held_until >= CALM:
                self._failures = 0
            self._failures += 1
        self._wrong[cause] = self._last_words = why or f"the {cause} failed"

    def crashed(self, times: int, now: float) -> None:
        """The node has just been started, after so many crashes; the first costs nothing."""
        if times > 1:
            self._gives_way[f"it has crashed {times} times lately"] = now + _hold(times - 1)

    def step_down(self, until: float) -> None:
        """The operator wants another to lead until then; a time that has passed takes it back."""
        self._gives_way["its operator wants another to lead"] = until

    def gives_way(self, now: float) -> bool:
        """Whether the node would leave the lead to another, though nothing is wrong with it."""
        return any(now < until for until in self._gives_way.values())

    def nobody_leads(self) -> None:
        """There is nobody to give way to."""
        self._gives_way.clear()

    def leave(self) -> None:
        """The node is stopping: unfit from now on, whatever comes."""
        self.leaving = True

    def why_not(self, now: float) -> str:
        """Why the node may not lead; empty if it may."""
        if self.leaving:
            return "it is stopping"
        if self._wrong:
            return "; ".join(self._wrong.values())
        if now < self._held_until:
            return self._last_words
        for why, until in self._gives_way.items():
            if now < until:
                return f"{why}; {until - now:.0f} s more if another leads"
        return ""

    def ready(self, now: float) -> bool:
        return not self.why_not(now)


def _hold(failures: int) -> float:
    return min(FIRST_HOLD * 2.0 ** min(failures - 1, 30), LONGEST_HOLD)
