"""Whether a node may lead: what was observed, and when, in; ready or not, and why not, out. No clock, no disk.

A node is unfit while anything is wrong with it, and then for a hold-down: what broke once may break again. Each
further time within a while doubles the hold-down, so that a disk that comes and goes does not make leadership come
and go with it. (Route flap damping, RFC 2439, and the reset of a hold-down after stability have the same reasons.)

What may be wrong with all nodes at once (`SHARED`: they may have one vault, or one disk) makes a node unfit only as
long as it hears of another with which nothing is wrong. Where all have such trouble, the highest leads in spite of it,
and is degraded: it says what is wrong, and what can still be done is done.

A node that crashes and is started again gives way in the same manner, from the second crash on, and so does one whose
operator wants another to lead; but only to another node that leads. Nothing is wrong with it, and where nobody leads
there is nobody to give way to.
"""

from __future__ import annotations

from math import inf

FIRST_HOLD, LONGEST_HOLD = 2.0, 60.0
"""Seconds that a node is held down after its first failure, and at most."""

SHARED = frozenset({"vault", "disk", "key", "descriptors"})
"""Causes that stop a node only if another node has none."""

LINGER = 2.0
"""Seconds for which a node that stands back for another goes on so when it hears no more of one that is well: what is
wrong with that one may be over in a moment."""

CALM = 300.0
"""Seconds without a failure after which earlier failures are forgotten."""


ROOT = "descriptors"
"""The cause of which others are consequences: a node that can open no file can use neither its disk nor its vault."""


class _Causes:
    """What is wrong with a node, and for how long after that it is held down."""

    def __init__(self) -> None:
        self._wrong: dict[str, str] = {}  # causes that last were not well, and their words
        self._held_until = -inf
        self._failures = 0  # without a calm time between them
        self._last_words = ""

    def observe(self, cause: str, ok: bool, now: float, why: str, *, leads: bool) -> None:
        if ok:
            was_wrong = self._wrong.pop(cause, None) is not None
            if was_wrong and not self._wrong and not leads:
                self._held_until = now + _hold(self._failures)
            return
        if not self._wrong:
            if now - self._held_until >= CALM:
                self._failures = 0
            self._failures += 1
        self._wrong[cause] = self._last_words = why or f"the {cause} failed"

    def has(self, cause: str) -> bool:
        return cause in self._wrong

    def why(self, now: float) -> str:
        if self._wrong:
            return self._wrong.get(ROOT) or "; ".join(self._wrong.values())
        return self._last_words if now < self._held_until else ""


class Fitness:
    """One node's fitness. Times are in seconds, of one monotonic clock."""

    def __init__(self) -> None:
        self._own, self._shared = _Causes(), _Causes()
        self._notes: dict[str, str] = {}
        self._another, self._heard = True, inf  # whether another node is well, and when that was last heard
        self._gives_way: dict[str, float] = {}  # why, and until when
        self.leaving = False

    def observe(self, cause: str, ok: bool, now: float, why: str = "", *, leads: bool = False) -> None:
        """Something ("disk", "keyring", "vault", "epoch", "descriptors") is well, or not, and why, in words.

        A node that `leads` in spite of what was wrong is not held down when that is over: it keeps what it has.
        """
        causes = self._shared if cause in SHARED else self._own
        causes.observe(cause, ok, now, why, leads=leads)

    def note(self, cause: str, why: str) -> None:
        """Something is not as it should be, which stops no node from leading; with an empty `why` it is again."""
        self._notes[cause] = why

    def hear(self, well: bool, now: float) -> None:
        """Whether another node is known to be without any trouble. Until this is first said, one is."""
        if well:
            self._another, self._heard = True, now
        elif now - self._heard >= LINGER or self._heard == inf or not self._shared.why(now):
            self._another = False

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
        own, shared = self._own.why(now), self._shared.why(now)
        if own or (self._another and shared):
            return shared if self._shared.has(ROOT) else "; ".join(filter(None, [shared, own]))
        for why, until in self._gives_way.items():
            if now < until:
                return f"{why}; {until - now:.0f} s more if another leads"
        return ""

    def degraded(self, now: float) -> str:
        """What is wrong with a node that may lead in spite of it; empty if nothing is, or if it may not."""
        wrong = [] if self.why_not(now) else [self._shared.why(now), *self._notes.values()]
        return "; ".join(dict.fromkeys(filter(None, wrong)))

    def ready(self, now: float) -> bool:
        return not self.why_not(now)


def _hold(failures: int) -> float:
    return min(FIRST_HOLD * 2.0 ** min(failures - 1, 30), LONGEST_HOLD)
