"""Monitors a node's health: examines its disk and its keyring every second, and says whether the node is eligible.

Code that meets a failure elsewhere, such as the vault handle, reports it with `observe`; the election hears of
every change at once.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable, Collection
from math import inf
from typing import Protocol

from safelight.election.bully import Epoch
from safelight.node.election.eligibility import Eligibility
from safelight.node.state.data_directory import NO_DESCRIPTORS, DirectoryState
from safelight.runtime.descriptors import NONE_LEFT

INTERVAL = 1.0
"""Seconds between two examinations."""

SLOW = 1.0
"""Seconds of an examination after which the disk is slow, and another node would lead better."""

STUCK = 1.5
"""Seconds of an examination after which the event loop writes nothing: it could hang with the disk."""

TIMEOUT = 3.0
"""Seconds of an examination after which the disk counts as hung."""


class Files(Protocol):
    """This node's files (`NodeFiles`)."""

    def examine(self, known_peers: Collection[int]) -> DirectoryState:
        """Called in a thread."""

    def save_epoch(self, epoch: Epoch) -> None:
        """Raises OSError."""


class Peers(Protocol):
    """What other nodes report of themselves (`LoadTracker`)."""

    def another_is_healthy(self) -> bool: ...


class Participant(Protocol):
    """This node's part in the election (`ElectionDriver`)."""

    @property
    def leads(self) -> bool: ...

    @property
    def epoch(self) -> Epoch: ...

    @property
    def known_peers(self) -> Collection[int]: ...

    def set_eligible(self, eligible: bool) -> None: ...

    async def wait_for_leader(self, seconds: float) -> int | None: ...

    def send_load(self) -> None: ...


class HealthMonitor:
    """What one node observes of itself."""

    _election: Participant

    def __init__(
        self, files: Files, peers: Peers, *, leader_timeout: float, crashes: int, log: Callable[[str], None]
    ) -> None:
        """`leader_timeout`: seconds to wait for a leader before there is none. `crashes`: the node's, lately."""
        self._files, self._peers, self._log = files, peers, log
        self._leader_timeout = leader_timeout
        self._eligibility = Eligibility()
        self._crashes = crashes
        self._eligible = True  # as the election was last told
        self._unsaved = False
        self._examining_since = inf
        self._tasks: list[asyncio.Task[None]] = []
        self._yielding: asyncio.Task[None] | None = None
        self._examined = asyncio.Event()

    def bind(self, election: Participant) -> None:
        """Report eligibility to this participant. To be called once, before anything else."""
        self._election = election

    async def start(self) -> None:
        """Examine from now on until `stop`; return when it is known whether the node is eligible."""
        self._eligibility.crashed(self._crashes, time.monotonic())
        self._tasks.append(asyncio.create_task(self._keep_examining()))
        await self._examined.wait()
        self._yield()

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    @property
    def ineligible(self) -> str:
        """Why the node is ineligible; empty if it is eligible."""
        return self._eligibility.reason(time.monotonic())

    @property
    def degraded(self) -> str:
        """The fault of a node that is eligible in spite of it; empty if there is none."""
        return self._eligibility.degraded(time.monotonic())

    def save(self, epoch: Epoch) -> bool:
        """Put the epoch on the disk. If that fails, or would block, this node is ineligible: then return False."""
        try:
            if time.monotonic() - self._examining_since >= STUCK:
                raise OSError(errno.ETIMEDOUT, "the disk does not answer")
            self._files.save_epoch(epoch)
        except OSError as error:
            no_descriptors = error.errno in NONE_LEFT
            self.observe("epoch", NO_DESCRIPTORS if no_descriptors else f"cannot save the epoch ({error.strerror})")
            return False
        return True

    def observe(self, component: str, fault: str) -> None:
        """A component ("disk", "keyring", "vault", "epoch", "key", "descriptors") has this fault, or works if it is
        empty. On the event loop only.
        """
        if component == "epoch":
            self._unsaved = bool(fault)
        now = time.monotonic()
        self._eligibility.hear(self._peers.another_is_healthy(), now)
        self._eligibility.observe(component, not fault, now, fault, leads=self._election.leads)
        self._update()

    def observe_vault(self, fault: str, suspicion: str) -> None:
        """As `observe`. `suspicion`: what may become a fault."""
        degraded = self.degraded
        self.observe("vault", fault)
        self.note("vault", suspicion)
        if self.degraded != degraded:  # before a leader with the same fault takes this node for a healthy one
            self._election.send_load()

    def note(self, component: str, reason: str) -> None:
        """A component has a fault that makes no node ineligible; with an empty `reason` it no longer has it."""
        self._eligibility.note(component, reason)

    def drain(self) -> None:
        """The node stops: let others lead, permanently."""
        self._eligibility.drain()
        self._update()

    def step_down(self, seconds: float) -> None:
        """Let others lead for so long, if they do; 0 ends it."""
        self._eligibility.step_down(time.monotonic() + seconds)
        self._update()
        self._yield()

    async def _keep_examining(self) -> None:
        while True:
            try:
                await self._examine_once()
            except Exception as error:  # among them, that no thread can be started: the node could not work either
                self._examining_since = inf
                self._examined.set()
                self.observe("disk", f"the disk cannot be examined ({error})")
            await asyncio.sleep(INTERVAL)

    def _yield(self) -> None:
        if self._eligibility.yields(time.monotonic()) and (self._yielding is None or self._yielding.done()):
            self._yielding = asyncio.create_task(self._keep_yielding())
            self._tasks.append(self._yielding)

    async def _keep_yielding(self) -> None:
        """Leave leadership to others for as long as another leads, and no longer."""
        while self._eligibility.yields(time.monotonic()):
            if await self._election.wait_for_leader(self._leader_timeout) is None:
                self._eligibility.no_leader()
                self._update()
            await asyncio.sleep(INTERVAL)

    async def _examine_once(self) -> None:
        examination = asyncio.ensure_future(asyncio.to_thread(self._files.examine, self._election.known_peers))
        self._examining_since = time.monotonic()
        await asyncio.wait({examination}, timeout=SLOW)
        if not examination.done():
            self.note("disk", "the disk is slow to answer")
            await asyncio.wait({examination}, timeout=TIMEOUT - SLOW)
        if not examination.done():
            self.observe("disk", f"the disk has not answered for {TIMEOUT:g} s")
            self._examined.set()
        state = await examination
        self._examining_since = inf
        self.note("disk", state.full)
        self.observe("descriptors", state.descriptors)
        if state.descriptors:  # of the rest nothing can be known
            self._examined.set()
            return
        self.observe("disk", state.disk)
        self.observe("keyring", state.keyring)
        # here and not in the thread: an epoch must not be overwritten by an older one
        if self._unsaved and self.save(self._election.epoch):
            self.observe("epoch", "")
        self._update()  # a hold-down may have ended
        self._examined.set()

    def _update(self) -> None:
        """Log and tell the election if the node has become ineligible or eligible."""
        reason = self.ineligible
        if self._eligible == (not reason):
            return
        self._eligible = not reason
        if self._eligible:
            self._log("eligible to lead again")
        elif not self._eligibility.draining:
            self._log(f"ineligible to lead: {reason}")
        self._election.set_eligible(self._eligible)
