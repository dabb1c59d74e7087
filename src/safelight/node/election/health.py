"""Monitors a node's health: examines its disk and its keyring every second, and says whether the node is eligible.

Code that meets a failure elsewhere, such as the vault handle, reports it with `observe`; the election hears of
every change at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from math import inf

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


class HealthMonitor:
    """What one node observes of itself."""

    def __init__(
        self,
        *,
        examine: Callable[[], DirectoryState],
        save: Callable[[], None],
        set_eligible: Callable[[bool], None],
        wait_for_leader: Callable[[], Awaitable[int | None]],
        leads: Callable[[], bool],
        another_is_healthy: Callable[[], bool],
        crashes: int,
        log: Callable[[str], None],
    ) -> None:
        """`examine` runs in a thread. `save` puts the epoch on the disk, or raises OSError. `set_eligible` tells the
        election. `wait_for_leader` waits for one for about a leader timeout. `leads`: whether this node does.
        `another_is_healthy`: whether another node is known to have no fault. `crashes`: the node's, lately.
        """
        self._examine, self._save, self._log = examine, save, log
        self._set_eligible, self._wait_for_leader = set_eligible, wait_for_leader
        self._leads, self._another_is_healthy = leads, another_is_healthy
        self._eligibility = Eligibility()
        self._crashes = crashes
        self._eligible = True  # as the election was last told
        self._unsaved = False
        self._examining_since = inf
        self._tasks: list[asyncio.Task[None]] = []
        self._yielding: asyncio.Task[None] | None = None
        self._examined = asyncio.Event()

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

    @property
    def disk_answers(self) -> bool:
        """Whether the data directory's disk may be written to here and now."""
        return time.monotonic() - self._examining_since < STUCK

    def observe(self, component: str, ok: bool, reason: str = "") -> None:
        """A component ("disk", "keyring", "vault", "epoch", "descriptors") works, or has a fault, for this reason.
        On the event loop only.
        """
        if component == "epoch":
            self._unsaved = not ok
        now = time.monotonic()
        self._eligibility.hear(self._another_is_healthy(), now)
        self._eligibility.observe(component, ok, now, reason, leads=self._leads())
        self._update()

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
                self.observe("disk", False, f"the disk cannot be examined ({error})")
            await asyncio.sleep(INTERVAL)

    def _yield(self) -> None:
        if self._eligibility.yields(time.monotonic()) and (self._yielding is None or self._yielding.done()):
            self._yielding = asyncio.create_task(self._keep_yielding())
            self._tasks.append(self._yielding)

    async def _keep_yielding(self) -> None:
        """Leave leadership to others for as long as another leads, and no longer."""
        while self._eligibility.yields(time.monotonic()):
            if await self._wait_for_leader() is None:
                self._eligibility.no_leader()
                self._update()
            await asyncio.sleep(INTERVAL)

    async def _examine_once(self) -> None:
        examination = asyncio.ensure_future(asyncio.to_thread(self._examine))
        self._examining_since = time.monotonic()
        await asyncio.wait({examination}, timeout=SLOW)
        if not examination.done():
            self.note("disk", "the disk is slow to answer")
            await asyncio.wait({examination}, timeout=TIMEOUT - SLOW)
        if not examination.done():
            self.observe("disk", False, f"the disk has not answered for {TIMEOUT:g} s")
            self._examined.set()
        state = await examination
        self._examining_since = inf
        self.note("disk", state.full)
        self.observe("descriptors", not state.descriptors, state.descriptors)
        if state.descriptors:  # of the rest nothing can be known
            self._examined.set()
            return
        self.observe("disk", not state.disk, state.disk)
        self.observe("keyring", not state.keyring, state.keyring)
        if self._unsaved:  # here and not in the thread: an epoch must not be overwritten by an older one
            try:
                self._save()
            except OSError as error:
                self.observe("epoch", False, unsaved(error))
            else:
                self.observe("epoch", True)
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
        self._set_eligible(self._eligible)


def unsaved(error: OSError) -> str:
    """Why an epoch could not be put on the disk."""
    return NO_DESCRIPTORS if error.errno in NONE_LEFT else f"cannot save the epoch ({error.strerror})"
