"""What only the leader does, over as many attempts as it takes.

    OFFER to every server at once -> the leader grants -> the request itself, to the leader alone

Everything that fails on the way ends in another offer under the same upload id and name, until the time limit. What
the request is, subclasses say: `transfer` sends an image, `removal` removes one.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from itertools import count
from typing import NamedTuple

import msgspec

from safelight.client.requests.feedback import Feedback
from safelight.client.requests.retry_policy import policy
from safelight.client.transport.account import ALL_DOWN, Account
from safelight.client.transport.servers import Broken, Servers, reason, reasons
from safelight.config import Config
from safelight.errors import SafelightError
from safelight.runtime.network_errors import is_final
from safelight.wire.messages import MAX_AVOIDED, Grant, Offer, Problem, Refusal

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.25
"""Seconds between two offers of one image, with jitter: an election is over in less, most of the time."""

LONGEST_BUSY_PAUSE = 1.0
"""The same, as long as the leader has as much in work as it takes: a crowd that asks is work, too."""

CROWDED = 20
"""So many times longer than for an election a client waits while servers say that they are busy."""

ROUND = 1.5
"""Seconds that a server has for its answer to an offer: it may wait in there for an election's end."""

UNAVAILABLE = "the vault cannot be used: trying again"

BLINK = 0.1
"""Seconds of an election that nobody needs to be told of."""

STRAGGLERS = 0.3
"""Seconds after the offer until a finished upload waits no longer for what the workers have to say."""

ATTEMPTS = 5
"""Requests that may break off before all is given up; each is preceded by a search for the leader."""

AWAY = 1.0
"""Seconds between two requests while the vault cannot be used: not every attempt is to send a large body."""

CUT_OFF = 2.5
"""Seconds for which all servers that answer must name the same leader, and that one not answer, before it counts as out
of reach: an election is noticed sooner.
"""

QUIET = 1.0
"""Seconds without a moving byte after which a client looks whether somebody else leads by now."""

TRIES = 3
"""Requests that must have met an unavailable vault before the time limit ends them: each may have taken longer."""

STRANGE = {Problem.INTERNAL, Problem.LACKS_KEY, Problem.OTHER_CLUSTER}
"""Refusals by what is as good as no server of ours."""

ELSEWHERE = {Problem.INTERNAL, Problem.LACKS_KEY, Problem.DISK_FULL}
"""Refusals by a leader that cannot do the work: another will lead, if there is one."""


class NoLeader(SafelightError):
    """Nobody granted the offer, or did the work, in time."""


class BrokeOff(NoLeader):
    """The leader took this image again and again, and never came to its end."""


class Superseded(Exception):
    """While a body stood still, the same offer was granted to another node: there is a new leader, or the leader has
    assigned another while the one that it had assigned hangs.
    """

    def __init__(self, granted: Granted) -> None:
        self.granted = granted


class Granted(NamedTuple):
    """A grant, which server gave it, and which is to do the work: the same, or the one that it assigned."""

    leader: int
    server: int
    grant: Grant

    @property
    def node(self) -> int:
        """Who is to do it, as the cluster numbers its nodes."""
        return self.grant.node if self.grant.assigned is None else self.grant.assigned


class Errand:
    """One image, one upload id, one name."""

    def __init__(self, config: Config, servers: Servers, account: Account, offer: Offer, feedback: Feedback) -> None:
        self._config = config
        self._servers = servers
        self._account = account
        self._offer = offer
        self._feedback = feedback
        self._nodes: dict[int, int] = {}  # which server a node is, as far as they have said
        self._said: set[int] = set()
        self._told_beyond_reach = False
        self._asked: dict[asyncio.Task[Grant], int] = {}
        self._busy = 0.0  # when a server last said that it was, in the same seconds
        self._offered = 0.0  # when those were first asked, in seconds of time.monotonic()
        self._found = asyncio.Event()  # somebody has granted: ask nobody again
        self._heard_all = asyncio.Event()  # everybody has answered once
        self._moved = 0.0  # when a byte last moved, in seconds of time.monotonic()

    async def run(self) -> int:
        """Offer and send until it is done. Returns the node that did it. Raises SafelightError."""
        self._feedback.broadcasting()
        crowded = time.monotonic() + CROWDED * self._config.timeout
        try:
            granted, full, away, unavailable = await self._find_leader(), set[int](), 0, list[float]()
            for attempt in count(1):
                try:
                    await self._send_watched(granted)
                    break
                except Superseded as superseded:
                    granted = superseded.granted
                    self._feedback.waiting("another node takes it: sending again")
                    continue
                except Refusal as refusal:
                    if refusal.problem is Problem.BUSY and time.monotonic() < crowded:  # it took others in between
                        await asyncio.sleep(LONGEST_PAUSE * random.uniform(0.5, 1.5))
                        granted, away = await self._find_leader(), away + 1
                        continue
                    if refusal.problem is Problem.VAULT_AWAY:
                        unavailable.append(time.monotonic())
                        waited = unavailable[-1] - unavailable[0]
                        if waited >= self._config.timeout and len(unavailable) >= TRIES:
                            raise _no_vault(waited) from None
                        self._feedback.waiting(UNAVAILABLE)
                        await asyncio.sleep(AWAY * random.uniform(0.5, 1.5))
                        granted, away = await self._find_leader(), away + 1
                        continue
                    if not policy(refusal).request or attempt - away >= ATTEMPTS or granted.server in full:
                        raise
                    if refusal.problem is Problem.DISK_FULL:
                        full.add(granted.server)
                    why = str(refusal)
                    if refusal.problem is not Problem.OVERTAKEN:  # that is nobody's fault
                        self._spare(granted)
                    if refusal.problem in ELSEWHERE:
                        await asyncio.sleep(LONGEST_PAUSE)  # it needs a moment to step down
                except Broken as error:
                    why = f"server {granted.server}: {reason(error)}"
                    if attempt - away >= ATTEMPTS:
                        raise BrokeOff(f"the image broke off {attempt} times, last with {why}: try again") from None
                    self._spare(granted)
                self._feedback.waiting(f"{why}: looking for the leader, then sending again")
                granted = await self._find_leader()
            await self._hear_stragglers()
            self._feedback.processed(granted.server, None if granted.grant.assigned is None else granted.leader)
            return granted.node
        finally:
            await self._dismiss()

    # -- offers --------------------------------------------------------------------------------------

    async def _find_leader(self, *, aloud: bool = True) -> Granted:
        """Offer to every server at once, and to each again that declines, until one of them grants.

        A server that hangs keeps nobody waiting. Who has not answered yet when somebody grants goes on
        answering: see `_hear_stragglers`. Raises NoLeader after the time limit, or what no leader would mend.
        """
        await self._dismiss()
        self._offered = self._busy = heard = time.monotonic()
        answers: dict[int, BaseException] = {}
        self._found.clear()
        self._heard_all.clear()
        likely_first = sorted(self._servers.addresses, key=lambda server: server != self._servers.led)
        self._asked = {
            asyncio.create_task(self._court(server, answers, aloud=aloud)): server for server in likely_first
        }
        while True:
            await asyncio.wait(self._asked, timeout=BLINK, return_when=asyncio.FIRST_COMPLETED)
            done = [task for task in self._asked if task.done()]
            grants = [self._granted(self._asked[task], task.result()) for task in done if task.exception() is None]
            if grants:
                self._asked = {task: server for task, server in self._asked.items() if not task.done()}
                self._found.set()
                self._heard_all.set()
                return max(grants, key=lambda granted: granted.grant.epoch)
            now = time.monotonic()
            leader = self._beyond_reach(answers)
            if leader is None:
                heard = now
            elif now - heard >= CUT_OFF:
                self._tell_beyond_reach(leader, answers)
                if all(is_final(error) for error in answers.values() if not isinstance(error, Refusal)):
                    raise self._no_leader(answers, now - self._offered)
            waited = now - self._offered if now - self._offered >= CROWDED * self._config.timeout else now - self._busy
            if done and (waited >= ROUND or len(answers) == len(self._asked)):
                raise done[0].exception() or AssertionError
            if done:
                await asyncio.sleep(BLINK / 10)  # perhaps another one grants it yet
            nobody = len(answers) == len(self._asked) and all(
                _absent(error) and not (isinstance(error, TimeoutError) and self._servers.connects(server))
                for server, error in answers.items()
            )
            if waited >= (min(ALL_DOWN, self._config.timeout) if nobody else self._config.timeout):
                raise self._no_leader(answers, waited)
            if now - self._offered >= BLINK and aloud:
                self._feedback.waiting(
                    "no server can be reached" if nobody
                    else _beyond_reach(leader) if leader is not None and now - heard >= CUT_OFF
                    else UNAVAILABLE if any(map(_no_vault_in, answers.values()))
                    else "the servers have as much in work as they take" if self._busy > self._offered
                    else "the servers are electing a leader"
                )  # fmt: skip

    async def _court(self, server: int, answers: dict[int, BaseException], *, aloud: bool) -> Grant:
        """Offer to one server until it grants. Raises what an election's end would not make good."""
        pause = FIRST_PAUSE
        while True:
            try:
                async with asyncio.timeout(ROUND):
                    return await self._account.offer(server, self._offer)
            except (Refusal, *Broken) as error:
                answers[server] = error
                if isinstance(error, Refusal) and error.problem is Problem.BUSY:
                    self._busy = time.monotonic()
                if isinstance(error, Refusal) and error.node:
                    self._nodes[error.node] = server
                if len(answers) == len(self._servers.addresses):
                    self._heard_all.set()
                if aloud:
                    self._tell(server, error)
                if not (isinstance(error, Broken) or policy(error).offer):
                    raise
                with suppress(TimeoutError):
                    async with asyncio.timeout(BLINK):
                        await self._heard_all.wait()  # most of the time another one is about to grant it
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause * random.uniform(0.5, 1.5)):
                        await self._found.wait()
                if self._found.is_set():
                    raise
                long = self._busy > self._offered or _no_vault_in(error)
                pause = min(2 * pause, LONGEST_BUSY_PAUSE if long else LONGEST_PAUSE)

    def _granted(self, leader: int, grant: Grant) -> Granted:
        """Raises NoLeader if this client cannot reach the node that was assigned."""
        self._nodes[grant.node] = self._servers.led = leader
        if grant.assigned is None:
            return Granted(leader, leader, grant)
        server = self._servers.place(grant.url) or self._nodes.get(grant.assigned, grant.assigned)
        if server not in self._servers.addresses:
            raise NoLeader(f"the leader assigned node {grant.assigned}: name its address in --servers, too")
        return Granted(leader, server, grant)

    def _spare(self, granted: Granted) -> None:
        """Ask for another node next time, if the one that was assigned did not do it."""
        node, avoid = granted.grant.assigned, self._offer.avoid
        if node is not None and node not in avoid and len(avoid) < MAX_AVOIDED:
            self._offer = msgspec.structs.replace(self._offer, avoid=[*avoid, node])

    async def _hear_stragglers(self) -> None:
        """Let the workers finish their sentences, for the record of who declined. Who has said it needs no time."""
        if unheard := [task for task, server in self._asked.items() if server not in self._said]:
            patience = self._offered + STRAGGLERS - time.monotonic()
            _, pending = await asyncio.wait(unheard, timeout=max(0.0, patience))
            for task in sorted(pending, key=self._asked.__getitem__):
                self._tell(self._asked[task], TimeoutError())

    async def _dismiss(self) -> None:
        for task in self._asked:
            task.cancel()
        await asyncio.gather(*self._asked, return_exceptions=True)
        self._asked = {}

    def _tell(self, server: int, error: BaseException) -> None:
        """Pass on what a server answered, once for each server."""
        if server in self._said:
            return
        if _absent(error):
            self._feedback.unreachable(server, reason(error))
        elif isinstance(error, Refusal) and error.problem in (Problem.NOT_THE_LEADER, Problem.LEAVING):
            self._feedback.declined(server, error.detail)
        else:
            return
        self._said.add(server)

    def _beyond_reach(self, answers: dict[int, BaseException]) -> int | None:
        """The node that leads according to all who answer, if it does not answer itself."""
        refusals = [error for error in answers.values() if isinstance(error, Refusal) and not _absent(error)]
        leaders = {error.leader if error.problem is Problem.NOT_THE_LEADER else None for error in refusals}
        if len(answers) < len(self._asked) or len(leaders) != 1 or (leader := leaders.pop()) is None:
            return None
        return None if any(error.node == leader for error in refusals) else leader

    def _tell_beyond_reach(self, leader: int, answers: dict[int, BaseException]) -> None:
        """Once."""
        absent = [server for server, error in answers.items() if _absent(error)]
        if absent and not self._told_beyond_reach:
            self._told_beyond_reach = True
            self._feedback.unreachable(leader if leader in absent else absent[-1], _beyond_reach(leader))

    def _no_leader(self, errors: dict[int, BaseException], waited: float) -> NoLeader:
        if any(map(_no_vault_in, errors.values())):
            return _no_vault(waited)
        answers = reasons(errors)
        leader = self._beyond_reach(errors)
        if leader is None:
            return NoLeader(f"no server took the image within {waited:.0f} s ({answers})")
        if any(map(_absent, errors.values())):
            return NoLeader(f"{_beyond_reach(leader)} ({answers}): check the network and the addresses")
        return NoLeader(
            f"node {leader} leads, and is none of these servers ({answers}): name its address in --servers, too"
        )

    # -- the request -----------------------------------------------------------------------------------

    async def _send_watched(self, granted: Granted) -> None:
        """Send the request, and watch it. Raises Superseded, and as `_send`."""
        self._moved = time.monotonic()
        sending = asyncio.create_task(self._send(granted))
        watching = asyncio.create_task(self._watch(granted))
        try:
            await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                return sending.result()
            return watching.result()
        finally:
            sending.cancel()
            watching.cancel()
            await asyncio.gather(sending, watching, return_exceptions=True)

    async def _watch(self, granted: Granted) -> None:
        """End only if it has stopped moving and another node would take it, or for too long.

        Time in which this process itself stood still (a suspended machine, a stopped job) is nobody else's silence.
        """
        while True:
            looked = time.monotonic()
            await asyncio.sleep(QUIET / 4)
            now = time.monotonic()
            if now - looked >= QUIET:
                self._moved = now
            quiet = now - self._moved
            if quiet >= self._config.body_timeout:
                raise TimeoutError
            if quiet >= QUIET:
                self._feedback.waiting(f"server {granted.server} does not go on")
                with suppress(NoLeader, Refusal, TimeoutError):
                    async with asyncio.timeout(ROUND):
                        elsewhere = await self._find_leader(aloud=False)
                    if elsewhere.grant.epoch > granted.grant.epoch:
                        raise Superseded(elsewhere)
                    if granted.server not in (granted.leader, elsewhere.server) and await self._hangs(granted.server):
                        self._spare(granted)
                        raise Superseded(elsewhere)

    async def _hangs(self, server: int) -> bool:
        """Whether a server does not even say who it is."""
        try:
            async with asyncio.timeout(ROUND):
                await self._servers.cluster_of(server)
        except (Refusal, *Broken):
            return True
        return False

    async def _send(self, granted: Granted) -> None:
        """Make the request where the grant says, once. Raises Refusal, `Broken`, and what a subclass says."""
        raise NotImplementedError

    def _moves(self) -> None:
        """To be called whenever a byte has moved."""
        self._moved = time.monotonic()


def _beyond_reach(leader: int) -> str:
    return f"node {leader} leads and cannot be reached from here"


def _no_vault_in(error: BaseException) -> bool:
    return isinstance(error, Refusal) and error.problem is Problem.VAULT_AWAY


def _no_vault(waited: float) -> NoLeader:
    return NoLeader(f"the vault could not be used for {waited:.0f} s: the nodes' logs say why; try again later")


def _absent(error: BaseException) -> bool:
    """Whether there is no node at that address, or one that has failed."""
    return isinstance(error, Broken) or (isinstance(error, Refusal) and error.problem in STRANGE)
