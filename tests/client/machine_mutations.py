"""Machines with a bug in each, to show that the exploration would notice it."""

from __future__ import annotations

from safelight.client.requests.leader_request_state import (
    BrokeOff,
    CancelBody,
    CancelOffers,
    Effect,
    Event,
    Phase,
    RequestMachine,
)
from safelight.client.requests.leader_search import LeaderSearch


class SendsAgainAfterSuccess(RequestMachine):
    """A success is taken for a lost answer."""

    def _done(self) -> None:
        self._broke_off("no answer")


class TwoBodies(RequestMachine):
    """The stalled body is not broken off before another server gets it."""

    def step(self, now: float, event: Event | None = None) -> list[Effect]:
        return [effect for effect in super().step(now, event) if not isinstance(effect, CancelBody)]


class GivesUpAtOnce(RequestMachine):
    """The first broken request is the last."""

    def _broke_off(self, reason: str) -> None:
        self._fail(BrokeOff(reason))


class ShortDeadline(RequestMachine):
    """The search for a leader ends after half of its timeout."""

    def _start_search(self, *, silent: bool) -> None:
        super()._start_search(silent=silent)
        assert self._search is not None
        self._search._deadline._timeout /= 2


class FinalRefusalRepeated(RequestMachine):
    """A refusal that counts only when all have replied ends the search at once."""

    def _go_on_searching(self, search: LeaderSearch) -> None:
        if search._final is not None and not search.grants:
            self._fail(search._final)
        else:
            super()._go_on_searching(search)


class NeverEnds(RequestMachine):
    """Broken requests are not counted."""

    def _broke_off(self, reason: str) -> None:
        self._attempts = 0
        super()._broke_off(reason)


class StallUnnoticed(RequestMachine):
    """A body that stands still is waited for without an end."""

    def _watch(self) -> None:
        pass


class PauseWithoutTimer(RequestMachine):
    """After a refusal that asks for a pause nothing wakes the client again."""

    def next_call(self) -> float | None:
        return float("inf") if self.phase is Phase.PAUSING else super().next_call()


class OffersNotCancelled(RequestMachine):
    """A second search begins beside the offers of the first."""

    def step(self, now: float, event: Event | None = None) -> list[Effect]:
        return [effect for effect in super().step(now, event) if not isinstance(effect, CancelOffers)]


MUTATIONS: list[type[RequestMachine]] = RequestMachine.__subclasses__()
