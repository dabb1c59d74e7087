"""Who gets a slot when a node is at capacity: max-min fair shares between users.

A node takes `most` transfers at a time, and `hard` including those that are slow or only being answered (these cost
memory, but no work). While a slot is free, every user gets one. When none is, a user with less than an equal share gets
one anyway; and at the hard limit another transfer is closed for it (eviction): the slowest of the user with the most.
While other users wait, transfers slower than `min_rate` are closed, too.

Why no user starves. Let k users be active: they hold a slot, or were refused one lately. A user without a slot has less
than its share, max(1, most / k), whatever the others hold, so its first transfer is refused only if `hard` slots are
held by as many users, one each. Then no slot is held permanently: others wait, so a transfer slower than `min_rate` is
closed, and any other ends after its size divided by `min_rate`. A free slot goes to the next request, which is from
none of those who hold one, as they have their share; those who wait are alike, and repeat at random times. What a user
holds beyond its share, because it was free, comes back as its transfers end: it gets no more while others have less
than theirs. There are as many users as the operator admits; on loopback, where enrolment is open, one person can enrol
many users, and so get many shares.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf

from safelight.wire.messages import Problem, Refusal

WAITING = 5.0
"""Seconds for which a user that was refused counts as waiting: clients retry after about a second."""

WINDOW = 5.0
"""Seconds of waiting for a client over which its rate is measured."""


class Slot:
    """One transfer of a user, and how fast its client moves it."""

    def __init__(self, shares: FairShares, user: str, active: bool) -> None:
        self._shares = shares
        self._waited, self._moved = 0.0, 0  # seconds and bytes since the rate was last measured
        self._closed = ""
        self.user = user
        self.active = active
        self.rate: float | None = None
        """Bytes a second; None until the node has waited for its client for `WINDOW`."""

    def set_slow(self, slow: bool) -> None:
        """Whether the node waits for its client: then it uses no capacity."""
        self._shares.set_active(self, not slow)

    def moved(self, waited: float, moved: int) -> None:
        """The node has waited `waited` seconds for its client, and `moved` bytes have moved, since the last call.

        Call it about every second. Raises Refusal (STALLED) if the slot is needed for another user.
        """
        self._waited += waited
        self._moved += moved
        if self._waited >= WINDOW:
            self.rate = self._moved / self._waited
            self._waited, self._moved = 0.0, 0
        if self._closed:
            raise Refusal(Problem.STALLED, f"{self._closed}: try again")

    def close(self, reason: str) -> None:
        """Let `moved` raise."""
        self._closed = reason


class FairShares:
    """The slots of one kind on a node, and who holds them."""

    def __init__(self, most: int, hard: int, min_rate: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`min_rate` in bytes a second; `clock` gives seconds."""
        self._most, self._hard, self._min_rate, self._clock = most, hard, min_rate, clock
        self._slots: dict[str, set[Slot]] = {}  # by user
        self._refused: dict[str, float] = {}  # when, by user
        self.active = 0
        self.total = 0

    @property
    def free_slots(self) -> int:
        """How many more transfers a node takes from any user."""
        return max(0, min(self._most - self.active, self._hard - self.total))

    def held(self, user: str) -> int:
        return len(self._slots.get(user, ()))

    def takes(self, user: str, *, promised: int = 0, own: int = 0) -> bool:
        """Whether a user gets one more slot. `promised`: grants that count as slots; `own`: those of this user."""
        users = len({*self._slots, *self._waiting(), user})
        active = sum(slot.active for slot in self._slots.get(user, ())) + own
        if self.active + promised >= self._most and active >= max(1, self._most // users):
            return False
        if self.total + promised < self._hard:
            return True
        can_evict = max(map(len, self._slots.values()), default=0) > 1
        return can_evict and self.held(user) + own < max(1, self._hard // users)

    def refused(self, user: str) -> None:
        """A user was refused: it counts as waiting."""
        self._refused[user] = self._clock()
        self._reclaim(user)

    @contextmanager
    def slot(self, user: str, *, active: bool = True) -> Iterator[Slot]:
        """A slot for this user. Whether there is a free one, the caller has asked `takes`."""
        if self.total >= self._hard:
            self._evict()
        elif active and self.active >= self._most:
            self._reclaim(user)
        slot = Slot(self, user, active)
        self._slots.setdefault(user, set()).add(slot)
        self.total += 1
        self.active += active
        try:
            yield slot
        finally:
            self._release(slot)

    def set_active(self, slot: Slot, active: bool) -> None:
        if slot in self._slots.get(slot.user, ()):
            self.active += active - slot.active
            slot.active = active

    def _waiting(self) -> list[str]:
        """The users that were refused lately."""
        oldest = self._clock() - WAITING
        self._refused = {user: when for user, when in self._refused.items() if when >= oldest}
        return [*self._refused]

    def _reclaim(self, user: str) -> None:
        """Close the slowest transfer of another user, if it is slower than `min_rate`."""
        slow = [
            slot
            for other, slots in self._slots.items()
            for slot in slots
            if other != user and slot.rate is not None and slot.rate < self._min_rate
        ]
        if slow:
            slot = min(slow, key=lambda slot: (not slot.active, slot.rate))
            self._close(slot, f"it moved slower than {self._min_rate:g} bytes a second while others waited")

    def _evict(self) -> None:
        """Close the slowest transfer of the user who has the most, if they have more than one."""
        slots = max(self._slots.values(), key=len)
        if len(slots) > 1:
            slot = min(slots, key=lambda slot: (slot.active, inf if slot.rate is None else slot.rate))
            self._close(slot, "its slot was needed for another user")

    def _close(self, slot: Slot, reason: str) -> None:
        self._release(slot)
        slot.close(reason)

    def _release(self, slot: Slot) -> None:
        slots = self._slots.get(slot.user, set())
        if slot in slots:
            slots.remove(slot)
            self.total -= 1
            self.active -= slot.active
            if not slots:
                del self._slots[slot.user]
