"""Whether a node may lead: what was observed, and when, in; ready or not, and why not, out. No clock, no disk.

A node is unfit while anything is wrong with it, and then for a hold-down: what broke once may break again. Each
further time within a while doubles the hold-down, so that a disk that comes and goes does not make leadership come
and go with it. (Route flap damping, RFC 2439, and the reset of a hold-down after stability have the same reasons.)
"""

from __future__ import annotations

from math import inf

FIRST_HOLD, LONGEST_HOLD = 2.0, 60.0
"""Seconds that a node is held down after its first failure, and at most."""

CALM = 300.0
"""Seconds of fitness after which earlier failures are forgotten."""


class Fitness:
    """One node's fitness. Times are in seconds, of one monotonic clock."""

    def __init__(self) -> None:
        self._wrong: dict[str, str] = {}  # causes that last were not well, and their words
        self._held_until = -inf
        self._failures = 0  # without a calm time between them
        self._stepped_down_until = -inf
        self.leaving = False
        self._last_words = ""

    def observe(self, cause: str, ok: bool, now: float, why: str = "") -> None:
        """Something ("disk", "keyring", "epoch") is well, or is not, and in which words to say so."""
        if ok:
            was_wrong = self._wrong.pop(cause, None) is not None
            if was_wrong and not self._wrong:
                hold = FIRST_HOLD * 2.0 ** min(self._failures - 1, 30)
                self._held_until = now + min(hold, LONGEST_HOLD)
            return
        if not self._wrong:
            if now - self._held_until >= CALM:
                self._failures = 0
            self._failures += 1
        self._wrong[cause] = self._last_words = why or f"the {cause} failed"

    def leave(self) -> None:
        """The node is stopping: unfit from now on, whatever comes."""
        self.leaving = True

    def step_down(self, until: float) -> None:
        """The operator wants another to lead until then; a time that has passed takes it back."""
        self._stepped_down_until = until

    def why_not(self, now: float) -> str:
        """Why the node may not lead; empty if it may."""
        if self.leaving:
            return "it is stopping"
        if self._wrong:
            return "; ".join(self._wrong.values())
        if now < self._stepped_down_until:
            return "its operator wants another to lead"
        if now < self._held_until:
            return self._last_words
        return ""

    def ready(self, now: float) -> bool:
        return not self.why_not(now)
