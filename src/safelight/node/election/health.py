"""Looks after a node's fitness: every second, whether its disk and its keyring are as they should be.

Code that meets a failure elsewhere, such as the keeper of the vault, reports it with `observe`; the election hears of
every change at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from math import inf

from safelight.node.election.eligibility import Fitness
from safelight.node.state.data_directory import NO_DESCRIPTORS, DirectoryState
from safelight.runtime.descriptors import NONE_LEFT

INTERVAL = 1.0
"""Seconds between two looks."""

SLOW = 1.0
"""Seconds of a look after which the disk is slow, and other nodes better not count on this one."""

STUCK = 1.5
"""Seconds of a look after which nothing is written on the event loop: it could stand still with the disk."""

PATIENCE = 3.0
"""Seconds that a look may take before the disk counts as hung."""


class Watch:
    """One node's watch over itself."""

    def __init__(
        self,
        *,
        look: Callable[[], DirectoryState],
        save: Callable[[], None],
        ready: Callable[[bool], None],
        leader: Callable[[], Awaitable[int | None]],
        leads: Callable[[], bool],
        another_is_well: Callable[[], bool],
        crashes: int,
        say: Callable[[str], None],
    ) -> None:
        """`look` runs in a thread. `save` puts the epoch on the disk, or raises OSError. `ready` tells the election.
        `leader` waits for as long as it is reasonable to wait for one. `leads`: whether this node does.
        `another_is_well`: whether another node is known to be without trouble. `crashes`: the node's, lately.
        """
        self._look, self._save, self._ready, self._leader, self._say = look, save, ready, leader, say
        self._leads, self._another_is_well = leads, another_is_well
        self._fitness = Fitness()
        self._crashes = crashes
        self._fit = True  # as the election was last told
        self._unsaved = False
        self._looking_since = inf
        self._tasks: list[asyncio.Task[None]] = []
        self._giving_way: asyncio.Task[None] | None = None
        self._knows = asyncio.Event()

    async def start(self) -> None:
        """Look from now on until `stop`; return when it is known whether the node is fit."""
        self._fitness.crashed(self._crashes, time.monotonic())
        self._tasks.append(asyncio.create_task(self._keep_looking()))
        await self._knows.wait()
        self._give_way()

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    @property
    def why_not(self) -> str:
        """Why the node does not stand for election; empty if it does."""
        return self._fitness.why_not(time.monotonic())

    @property
    def degraded(self) -> str:
        """What is wrong with the node although it stands for election; empty if nothing is."""
        return self._fitness.degraded(time.monotonic())

    @property
    def disk_answers(self) -> bool:
        """Whether the data directory's disk may be written to here and now."""
        return time.monotonic() - self._looking_since < STUCK

    def observe(self, cause: str, ok: bool, why: str = "") -> None:
        """Something ("disk", "keyring", "vault", "epoch", "descriptors") is well, or is not. On the event loop only."""
        if cause == "epoch":
            self._unsaved = not ok
        now = time.monotonic()
        self._fitness.hear(self._another_is_well(), now)
        self._fitness.observe(cause, ok, now, why, leads=self._leads())
        self._judge()

    def note(self, cause: str, why: str) -> None:
        """Something is not as it should be, and is no reason to stand back; with an empty `why` it is again."""
        self._fitness.note(cause, why)

    def leave(self) -> None:
        """The node is stopping: let others lead, for good."""
        self._fitness.leave()
        self._judge()

    def step_down(self, seconds: float) -> None:
        """Let others lead for so long, if they do; with 0, no longer."""
        self._fitness.step_down(time.monotonic() + seconds)
        self._judge()
        self._give_way()

    async def _keep_looking(self) -> None:
        while True:
            try:
                await self._look_once()
            except Exception as error:  # among them, that no thread can be started: the node could not work either
                self._looking_since = inf
                self._knows.set()
                self.observe("disk", False, f"the disk cannot be examined ({error})")
            await asyncio.sleep(INTERVAL)

    def _give_way(self) -> None:
        if self._fitness.gives_way(time.monotonic()) and (self._giving_way is None or self._giving_way.done()):
            self._giving_way = asyncio.create_task(self._keep_giving_way())
            self._tasks.append(self._giving_way)

    async def _keep_giving_way(self) -> None:
        """Stand back for as long as another leads, and no longer."""
        while self._fitness.gives_way(time.monotonic()):
            if await self._leader() is None:
                self._fitness.nobody_leads()
                self._judge()
            await asyncio.sleep(INTERVAL)

    async def _look_once(self) -> None:
        look = asyncio.ensure_future(asyncio.to_thread(self._look))
        self._looking_since = time.monotonic()
        await asyncio.wait({look}, timeout=SLOW)
        if not look.done():
            self.note("disk", "the disk is slow to answer")
            await asyncio.wait({look}, timeout=PATIENCE - SLOW)
        if not look.done():
            self.observe("disk", False, f"the disk has not answered for {PATIENCE:g} s")
            self._knows.set()
        state = await look
        self._looking_since = inf
        self.note("disk", state.full)
        self.observe("descriptors", not state.descriptors, state.descriptors)
        if state.descriptors:  # of the rest nothing can be known
            self._knows.set()
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
        self._judge()  # a hold-down may have ended
        self._knows.set()

    def _judge(self) -> None:
        """Tell the election, and whoever watches the terminal, if the node has become unfit or fit."""
        why_not = self.why_not
        if self._fit == (not why_not):
            return
        self._fit = not why_not
        if self._fit:
            self._say("standing for election again")
        elif not self._fitness.leaving:
            self._say(f"standing back from the election: {why_not}")
        self._ready(self._fit)


def unsaved(error: OSError) -> str:
    """In words, that an epoch could not be put on the disk."""
    return NO_DESCRIPTORS if error.errno in NONE_LEFT else f"cannot save the epoch ({error.strerror})"
