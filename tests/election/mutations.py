"""Elections with a bug in each, to show that the simulation would notice it."""

from __future__ import annotations

from collections.abc import Callable

from safelight.bully import (
    Cause,
    Effect,
    Election,
    Epoch,
    Event,
    Kind,
    Message,
    PeerConnected,
    Phase,
    Readiness,
    Received,
    Save,
    Send,
    Tick,
)


class AnswerDropped(Election):
    """Nobody answers a candidate."""

    def _answer(self, to: int) -> None:
        pass


class TakesAnyWord(Election):
    """An ANSWER from the past is believed."""

    def _take_word(self, now: float, sender: int, message: Message) -> bool:
        return super()._take_word(now, sender, message._replace(epoch=max(message.epoch, self.epoch)))


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

    def _receive(self, now: float, sender: int, message: Message) -> None:
        epoch = min(message.epoch, self.epoch) if self.leads and message.leader != sender else message.epoch
        super()._receive(now, sender, message._replace(epoch=epoch))


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


class MuteForEver(Election):
    """Whoever was silent once is never asked again, nor its word taken for its own."""

    def _receive(self, now: float, sender: int, message: Message) -> None:
        mute = sender in self._mute
        super()._receive(now, sender, message)
        if mute:
            self._mute.add(sender)

    def _rivals(self) -> set[int]:
        return super()._rivals() - self._mute


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


class NewcomerNotTold(Election):
    """The leader does not introduce itself to a peer that connects, nor answer one that asks."""

    def _peer_connected(self, now: float, peer: int) -> None:
        self._connected.add(peer)

    def _election(self, now: float, sender: int, epoch: Epoch) -> None:
        if not self.leads:
            super()._election(now, sender, epoch)


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


MUTATIONS: list[type[Election]] = [
    mutation for mutation in list(vars().values()) if isinstance(mutation, type) and issubclass(mutation, Election) and mutation is not Election
]
