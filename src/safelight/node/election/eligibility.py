"""Whether a node may lead: observations with their times in; eligible, or the reason why not, out. No clock, no disk.

A node is ineligible for one of these reasons, in this order:

- it is draining;
- a fault of its own, and after it a hold-down: what failed once may fail again. Each further failure within `CALM`
  doubles the hold-down, so that leadership does not alternate with a disk that comes and goes. (Route flap damping,
  RFC 2439, and the reset of a hold-down after a stable time have the same reasons.)
- a shared fault (`SHARED`: all nodes may have one vault, or one disk), but only while it hears of another node without
  a fault. If all nodes have one, the highest leads in spite of it: it is degraded, and reports the reason;
- it has crashed more than once, or its operator made it step down, but only while another node leads. It has no
  fault, and without a leader it is eligible at once.
"""

from __future__ import annotations

from math import inf

FIRST_HOLD, LONGEST_HOLD = 2.0, 60.0
"""Seconds of the hold-down after the first failure, and at most."""

SHARED = frozenset({"vault", "disk", "key", "descriptors"})
"""Components whose fault makes a node ineligible only while another node has none."""

LINGER = 2.0
"""Seconds for which a shared fault still makes a node ineligible when it no longer hears of a healthy node: the fault
of that one may be over in a moment."""

CALM = 300.0
"""Seconds without a failure after which earlier failures are forgotten."""


ROOT = "descriptors"
"""The component whose fault causes others: a node that can open no file can use neither its disk nor its vault."""


class _Faults:
    """The faults of some components, and the hold-down after them."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}  # of the components that have a fault
        self._last_reason = ""
        self._held_until = -inf
        self._failures = 0  # less than CALM apart

    def observe(self, component: str, ok: bool, now: float, reason: str, *, leads: bool) -> None:
        if ok:
            recovered = self._reasons.pop(component, None) is not None
            if recovered and not self._reasons and not leads:
                self._held_until = now + _hold(self._failures)
            return
        if not self._reasons:
            if now - self._held_until >= CALM:
                self._failures = 0
            self._failures += 1
        self._reasons[component] = self._last_reason = reason or f"the {component} failed"

    def has(self, component: str) -> bool:
        return component in self._reasons

    def reason(self, now: float) -> str:
        if self._reasons:
            return self._reasons.get(ROOT) or "; ".join(self._reasons.values())
        return self._last_reason if now < self._held_until else ""


class Eligibility:
    """One node's eligibility. Times are in seconds, of one monotonic clock."""

    def __init__(self) -> None:
        self._own, self._shared = _Faults(), _Faults()
        self._notes: dict[str, str] = {}
        self._another, self._heard = True, inf  # whether another node is healthy, and when that was last heard
        self._yields: dict[str, float] = {}  # why it leaves leadership to another node, and until when
        self.draining = False

    def observe(self, component: str, ok: bool, now: float, reason: str = "", *, leads: bool = False) -> None:
        """A component ("disk", "keyring", "vault", "epoch", "descriptors") works, or has a fault, for this reason.

        A node that `leads` in spite of a fault has no hold-down when the fault is over: it remains the leader.
        """
        faults = self._shared if component in SHARED else self._own
        faults.observe(component, ok, now, reason, leads=leads)

    def note(self, component: str, reason: str) -> None:
        """A component has a fault that makes no node ineligible; with an empty `reason` it no longer has it."""
        self._notes[component] = reason

    def hear(self, healthy: bool, now: float) -> None:
        """Whether another node is known to have no fault. Until the first call, one is assumed to have none."""
        if healthy:
            self._another, self._heard = True, now
        elif now - self._heard >= LINGER or self._heard == inf or not self._shared.reason(now):
            self._another = False

    def crashed(self, times: int, now: float) -> None:
        """The node was restarted after so many crashes; the first costs nothing."""
        if times > 1:
            self._yields[f"it has crashed {times} times lately"] = now + _hold(times - 1)

    def step_down(self, until: float) -> None:
        """The operator makes another node lead until then; a time that has passed ends it."""
        self._yields["its operator wants another to lead"] = until

    def yields(self, now: float) -> bool:
        """Whether the node leaves leadership to another although it has no fault."""
        return any(now < until for until in self._yields.values())

    def no_leader(self) -> None:
        """No node leads, so there is none to leave leadership to."""
        self._yields.clear()

    def drain(self) -> None:
        """The node stops: it is ineligible from now on, whatever is observed."""
        self.draining = True

    def reason(self, now: float) -> str:
        """Why the node is ineligible; empty if it is eligible."""
        if self.draining:
            return "it is stopping"
        own, shared = self._own.reason(now), self._shared.reason(now)
        if own or (self._another and shared):
            return shared if self._shared.has(ROOT) else "; ".join(filter(None, [shared, own]))
        for reason, until in self._yields.items():
            if now < until:
                return f"{reason}; {until - now:.0f} s more if another leads"
        return ""

    def degraded(self, now: float) -> str:
        """The faults of a node that is eligible in spite of them; empty if it has none or is ineligible."""
        reasons = [] if self.reason(now) else [self._shared.reason(now), *self._notes.values()]
        return "; ".join(dict.fromkeys(filter(None, reasons)))

    def eligible(self, now: float) -> bool:
        return not self.reason(now)


def _hold(failures: int) -> float:
    return min(FIRST_HOLD * 2.0 ** min(failures - 1, 30), LONGEST_HOLD)
