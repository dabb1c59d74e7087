"""Elections with a bug in each, to show that the simulation would notice it."""

from __future__ import annotations

from safelight.election.bully import Cause, Effect, Election, Epoch, Event, Kind, Message, Phase, Save, Send


class AnswerDropped(Election):
    """Nobody answers a candidate."""

    def _answer(self, to: int) -> None:
        pass


class VouchesOnHearsay(Election):
    """Whoever follows by another's word vouches for that leader as if it heard it."""

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
    def _follows_by_word(self) -> bool:
        return False


class EpochNotCompared(Election):
    """Whoever says that it leads is followed, in whatever epoch."""

    def _claimed(self, now: float, sender: int, epoch: Epoch) -> None:
        if self._better(sender) is None:
            self._follow(now, sender, epoch)
        else:
            super()._claimed(now, sender, epoch)


class NeverOutbids(Election):
    """A leader that hears of a later epoch stays in its own."""

    def _lead(self, now: float) -> None:
        if not self.leads:
            super()._lead(now)


class WorkersDoNotReportEpochs(Election):
    """A worker keeps the epochs that it heard of to itself."""

    def _report(self, now: float) -> None:
        self._latest = self.epoch
        super()._report(now)


class NoTakeover(Election):
    """A node that starts accepts a lower leader."""

    def _better(self, claimant: int) -> int | None:
        better = super()._better(claimant)
        return None if better == self.node and self.phase is Phase.STARTING else better


class ResignIgnored(Election):
    def _receive(self, now: float, sender: int, message: Message) -> None:
        if message.kind is not Kind.RESIGN:
            super()._receive(now, sender, message)


class LeadsUnready(Election):
    """A leader that cannot work any more tells nobody, itself included."""

    def _readiness(self, now: float, ready: bool) -> None:
        if ready or not self.leads:
            super()._readiness(now, ready)


class NotSavedOnLead(Election):
    def step(self, now: float, event: Event) -> list[Effect]:
        return [e for e in super().step(now, event) if not (isinstance(e, Save) and e.epoch.leader == self.node)]


class NotSavedOnFollow(Election):
    def step(self, now: float, event: Event) -> list[Effect]:
        return [e for e in super().step(now, event) if not (isinstance(e, Save) and e.epoch.leader != self.node)]


class SameEpochAgain(Election):
    """A leader takes the epoch that follows its own, whatever it has heard of."""

    def _lead(self, now: float) -> None:
        self._latest = self.epoch
        super()._lead(now)


class UnansweredIsDead(Election):
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


class DeadlineNotReset(Election):
    """A heartbeat does not buy a leader more time."""

    def _follow(self, now: float, leader: int, epoch: Epoch) -> None:
        deadline, same = self.deadline, self.phase is Phase.WORKER and self.leader == leader
        super()._follow(now, leader, epoch)
        if same:
            self.deadline = deadline


class TimerLost(Election):
    """A deferring node waits for a COORDINATOR for ever."""

    def _defer(self, now: float, answerer: int, patience: float) -> None:
        super()._defer(now, answerer, patience)
        self.deadline = None


class SilenceUnnoticed(Election):
    """Only broken links tell that a leader is down."""

    def _gone(self, now: float, peer: int, cause: Cause) -> None:
        if cause is Cause.SILENT:
            self.deadline = now + self.timing.silence
        else:
            super()._gone(now, peer, cause)


class LossUnnoticed(Election):
    """A broken link tells nothing: the last words of the dead are believed."""

    def _claimed(self, now: float, sender: int, epoch: Epoch) -> None:
        if self._better(sender) is None and epoch == self.epoch:
            self._follow(now, sender, epoch)
        else:
            super()._claimed(now, sender, epoch)


class BlamesOthersAfterPause(Election):
    """A leader that was stopped goes on as if nothing had happened."""

    def _wake(self, now: float) -> None:
        pass


class UnfitForEver(Election):
    """Whoever resigned once is never asked again, and never followed."""

    def _receive(self, now: float, sender: int, message: Message) -> None:
        if sender in self._unfit and message.kind in (Kind.COORDINATOR, Kind.HEARTBEAT):
            return
        super()._receive(now, sender, message)


class ReadyInSilence(Election):
    """A node that becomes ready waits until it is asked."""

    def _readiness(self, now: float, ready: bool) -> None:
        if ready:
            self.ready = True
        else:
            super()._readiness(now, ready)


class EverybodyAtOnce(Election):
    """All who miss the leader elect at once, and again whenever somebody answers."""

    def _queue(self, now: float) -> None:
        self.leader = self._answerer = None
        self._elect(now)

    def _answered(self, now: float, sender: int, message: Message) -> None:
        if self.phase is Phase.CANDIDATE:
            self._elect(now)


class HeartbeatsStop(Election):
    """A leader falls silent after it was elected."""

    def _deadline_passed(self, now: float) -> None:
        if self.leads:
            self.deadline = now + self.timing.heartbeat
        else:
            super()._deadline_passed(now)


MUTATIONS: list[type[Election]] = Election.__subclasses__()
