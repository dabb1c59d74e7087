"""Elections with a bug in each, to show that the simulation would notice it."""

from __future__ import annotations

from safelight.election.bully import Cause, Effect, Election, Epoch, Event, Kind, Message, Phase, Save, Send


class _Lenient(Election):
    """Takes any transition: what notices a bug is a guarantee that breaks, not the table."""

    def _become(self, phase: Phase, leader: int | None, deadline: float | None) -> None:
        self.phase, self.leader, self.deadline = phase, leader, deadline


class AnswerDropped(_Lenient):
    """No node answers a candidate."""

    def _answer(self, to: int) -> None:
        pass


class PassesVouchOn(_Lenient):
    """A node that follows a vouched leader vouches for it in turn."""

    def step(self, now: float, event: Event) -> list[Effect]:
        effects = super().step(now, event)
        if self.leader is None:
            return effects
        return [
            Send(effect.to, effect.message._replace(leader=self.leader))
            if isinstance(effect, Send) and effect.message.kind in (Kind.ANSWER, Kind.RESIGN)
            else effect
            for effect in effects
        ]

    @property
    def _vouched(self) -> bool:
        return False


class EpochNotCompared(_Lenient):
    """A node that claims to lead is followed, in any epoch."""

    def _leadership_claimed(self, now: float, sender: int, epoch: Epoch) -> None:
        if self._better(sender) is None:
            self._follow(now, sender, epoch)
        else:
            super()._leadership_claimed(now, sender, epoch)


class NeverOutbids(_Lenient):
    """A leader that hears of a later epoch stays in its own."""

    def _lead(self, now: float) -> None:
        if not self.leads:
            super()._lead(now)


class WorkersDoNotReportEpochs(_Lenient):
    """A worker does not report the epochs that it heard of."""

    def _send_heartbeat(self, now: float) -> None:
        self._latest = self.epoch
        super()._send_heartbeat(now)


class NoTakeover(_Lenient):
    """A node that starts accepts a lower leader."""

    def _better(self, claimant: int) -> int | None:
        better = super()._better(claimant)
        return None if better == self.node and self.phase is Phase.STARTING else better


class ResignIgnored(_Lenient):
    def _receive(self, now: float, sender: int, message: Message) -> None:
        if message.kind is not Kind.RESIGN:
            super()._receive(now, sender, message)


class LeadsIneligible(_Lenient):
    """A leader that becomes ineligible ignores it."""

    def _eligibility_changed(self, now: float, eligible: bool) -> None:
        if eligible or not self.leads:
            super()._eligibility_changed(now, eligible)


class NotSavedOnLead(_Lenient):
    def step(self, now: float, event: Event) -> list[Effect]:
        return [e for e in super().step(now, event) if not (isinstance(e, Save) and e.epoch.leader == self.node)]


class NotSavedOnFollow(_Lenient):
    def step(self, now: float, event: Event) -> list[Effect]:
        return [e for e in super().step(now, event) if not (isinstance(e, Save) and e.epoch.leader != self.node)]


class SameEpochAgain(_Lenient):
    """A leader takes the epoch that follows its own, whatever it has heard of."""

    def _lead(self, now: float) -> None:
        self._latest = self.epoch
        super()._lead(now)


class UnansweredIsDead(_Lenient):
    """A peer that left one question unanswered is not asked in the next election."""

    _dead: frozenset[int] = frozenset()

    def _unanswered(self, now: float) -> None:
        self._dead |= self._asked
        super()._unanswered(now)

    def _answered(self, now: float, sender: int, message: Message) -> None:
        self._dead -= {sender}
        super()._answered(now, sender, message)

    def _rivals(self) -> set[int]:
        return super()._rivals() - self._dead


class DeadlineNotReset(_Lenient):
    """A heartbeat does not extend the leader's timeout."""

    def _follow(self, now: float, leader: int, epoch: Epoch) -> None:
        deadline, same = self.deadline, self.phase is Phase.WORKER and self.leader == leader
        super()._follow(now, leader, epoch)
        if same:
            self.deadline = deadline


class TimerLost(_Lenient):
    """A deferring node waits for a COORDINATOR without end."""

    def _become(self, phase: Phase, leader: int | None, deadline: float | None) -> None:
        super()._become(phase, leader, None if phase in (Phase.DEFERRING, Phase.VOUCHED) else deadline)


class TimeoutUnnoticed(_Lenient):
    """Only a broken link shows that a leader is down."""

    def _peer_down(self, now: float, peer: int, cause: Cause) -> None:
        if cause is Cause.TIMEOUT:
            self.deadline = now + self.timing.leader_timeout
        else:
            super()._peer_down(now, peer, cause)


class LossUnnoticed(_Lenient):
    """A broken link is ignored: the last messages of a dead leader are believed."""

    def _leadership_claimed(self, now: float, sender: int, epoch: Epoch) -> None:
        if self._better(sender) is None and epoch == self.epoch:
            self._follow(now, sender, epoch)
        else:
            super()._leadership_claimed(now, sender, epoch)


class BlamesOthersAfterPause(_Lenient):
    """A leader that was paused continues as before."""

    def _detect_pause(self, now: float) -> None:
        pass


class IneligibleWithoutEnd(_Lenient):
    """A node that resigned once is never asked again, and never followed."""

    def _receive(self, now: float, sender: int, message: Message) -> None:
        if sender in self._ineligible and message.kind in (Kind.COORDINATOR, Kind.HEARTBEAT):
            return
        super()._receive(now, sender, message)


class EligibleUnannounced(_Lenient):
    """A node that becomes eligible waits until it is asked."""

    def _eligibility_changed(self, now: float, eligible: bool) -> None:
        if eligible:
            self.eligible = True
        else:
            super()._eligibility_changed(now, eligible)


class AllAtOnce(_Lenient):
    """All that miss the leader elect at once, and again at each answer."""

    def _queue(self, now: float) -> None:
        self.leader = self._answerer = None
        self._elect(now)

    def _answered(self, now: float, sender: int, message: Message) -> None:
        if self.phase is Phase.CANDIDATE:
            self._elect(now)


class HeartbeatsStop(_Lenient):
    """A leader sends no heartbeats after it was elected."""

    def _deadline_passed(self, now: float) -> None:
        if self.leads:
            self.deadline = now + self.timing.heartbeat
        else:
            super()._deadline_passed(now)


MUTATIONS: list[type[Election]] = list(_Lenient.__subclasses__())
