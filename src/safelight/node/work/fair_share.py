"""Who gets a place when more is asked for than there are places: max-min fair shares between users (admission).

A node takes `most` transfers at a time, and `hard` at the utmost, with those that are slow or are only being answered
(they cost memory, and no work). As long as a place is free, everybody gets one. Where none is, a user still gets one
who has less than an equal share of them; and where even the utmost is reached, another is closed for it (eviction): the
slowest of the user who has the most. While others wait, whatever moves slower than `min_rate` is closed, too.

Why nobody starves. Let k users be active: who hold a place, or were refused one lately. A user who holds none has less
than its share, max(1, most / k), whatever the others hold, so its first transfer is refused only if `hard` places are
held by as many users, one each. And then no place is held permanently: others wait, so what is slower than `min_rate`
is closed, and what is not ends after its size divided by `min_rate`. A place that becomes free goes to who asks next,
which is not one of those who hold one, as they have their share: those who wait are alike, and ask at random times.
Whatever a user holds beyond its share, because nobody else wanted it, comes back as its transfers end: it gets no more
while others are below theirs. Users are as many as the operator admits; on loopback, where enrolment is open, one
person can make many users, and so get many shares.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf

from safelight.wire.messages import Problem, Refusal

WAITING = 5.0
"""Seconds for which a user that was refused counts as waiting: clients ask again after a second or so."""

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
        """Bytes a second; None as long as nobody has waited for its client for `WINDOW`."""

    def crawls(self, so: bool) -> None:
        """Whether its client lets us wait: then it takes no place."""
        self._shares.set_active(self, not so)

    def moved(self, waited: float, moved: int) -> None:
        """So many seconds were spent waiting for its client, and so many bytes have come or gone since the last time.

        Call it every second or so. Raises Refusal (STALLED) if the place is wanted for others.
        """
        self._waited += waited
        self._moved += moved
        if self._waited >= WINDOW:
            self.rate = self._moved / self._waited
            self._waited, self._moved = 0.0, 0
        if self._closed:
            raise Refusal(Problem.STALLED, f"{self._closed}: try again")

    def close(self, why: str) -> None:
        """Have `moved` raise."""
        self._closed = why


class FairShares:
    """The places of one kind on a node, and who holds them."""

    def __init__(self, most: int, hard: int, min_rate: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`min_rate` in bytes a second; `clock` gives seconds."""
        self._most, self._hard, self._min_rate, self._clock = most, hard, min_rate, clock
        self._held: dict[str, set[Slot]] = {}  # by user
        self._refused: dict[str, float] = {}  # users, and when
        self.active = 0
        self.total = 0

    @property
    def room(self) -> int:
        """How many more a node takes before it matters whose they are."""
        return max(0, min(self._most - self.active, self._hard - self.total))

    def held(self, user: str) -> int:
        return len(self._held.get(user, ()))

    def takes(self, user: str, *, promised: int = 0, own: int = 0) -> bool:
        """Whether a user gets one more place; `promised` are as good as held, and `own` of them by this user."""
        users = len({*self._held, *self._waiting(), user})
        active = sum(place.active for place in self._held.get(user, ())) + own
        if self.active + promised >= self._most and active >= max(1, self._most // users):
            return False
        if self.total + promised < self._hard:
            return True
        can_evict = max(map(len, self._held.values()), default=0) > 1
        return can_evict and self.held(user) + own < max(1, self._hard // users)

    def refused(self, user: str) -> None:
        """A user gets none now, and will ask again: it waits."""
        self._refused[user] = self._clock()
        self._reclaim(user)

    @contextmanager
    def place(self, user: str, *, active: bool = True) -> Iterator[Slot]:
        """A place for this user, whether there is one or not: `takes` says so."""
        if self.total >= self._hard:
            self._evict()
        elif active and self.active >= self._most:
            self._reclaim(user)
        place = Slot(self, user, active)
        self._held.setdefault(user, set()).add(place)
        self.total += 1
        self.active += active
        try:
            yield place
        finally:
            self._leave(place)

    def set_active(self, place: Slot, active: bool) -> None:
        if place in self._held.get(place.user, ()):
            self.active += active - place.active
            place.active = active

    def _waiting(self) -> list[str]:
        """Users that were refused lately."""
        oldest = self._clock() - WAITING
        self._refused = {user: when for user, when in self._refused.items() if when >= oldest}
        return [*self._refused]

    def _reclaim(self, user: str) -> None:
        """Close the slowest transfer of another user, if it is too slow while this one waits."""
        slow = [
            place
            for other, places in self._held.items()
            for place in places
            if other != user and place.rate is not None and place.rate < self._min_rate
        ]
        if slow:
            place = min(slow, key=lambda place: (not place.active, place.rate))
            self._close(place, f"it moved slower than {self._min_rate:g} bytes a second while others waited")

    def _evict(self) -> None:
        """Close the slowest transfer of the user who has the most, if that is more than one."""
        places = max(self._held.values(), key=len)
        if len(places) > 1:
            place = min(places, key=lambda place: (place.active, inf if place.rate is None else place.rate))
            self._close(place, "its place was needed for another user")

    def _close(self, place: Slot, why: str) -> None:
        self._leave(place)
        place.close(why)

    def _leave(self, place: Slot) -> None:
        places = self._held.get(place.user, set())
        if place in places:
            places.remove(place)
            self.total -= 1
            self.active -= place.active
            if not places:
                del self._held[place.user]
