"""One search for the leader: an offer to every server, repeated at each that refuses, until one grants. Pure.

`leader_request_state` owns the search and sends what it asks for; docs/retry.md shows the policy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from safelight.client.requests.retry_policy import policy
from safelight.client.transport.deadline import Backoff, Deadline
from safelight.errors import ClusterUnavailable, SafelightError, by_server
from safelight.wire.messages import Grant, Problem, Refusal

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.25
"""Seconds between two offers to one server, before jitter: most elections take less."""

LONGEST_BUSY_PAUSE = 1.0
"""The same while servers are at capacity or have no vault: offers are work, too."""

OFFER_TIMEOUT = 1.5
"""Seconds that a server has to answer an offer: it may wait for the end of an election before it does."""

QUIET_START = 0.1
"""Seconds that are not worth a message, and that a refused offer waits for the first answers of the other servers."""

CUT_OFF = 2.5
"""Seconds for which all servers that answer must name the same leader, and that one must not answer, before it counts
as unreachable from here. The servers notice the death of a leader sooner.
"""

UNAVAILABLE = "the vault cannot be used: trying again"


class NoLeader(ClusterUnavailable):
    """No server granted the offer, or did the work, in time."""


class OfferGranted(NamedTuple):
    """Event: a server granted the offer. `at`: the server that the grant's URL names, if the client knows it."""

    server: int
    grant: Grant
    at: int | None = None


class OfferRefused(NamedTuple):
    """Event: a server refused the offer."""

    server: int
    refusal: Refusal

    @property
    def reason(self) -> str:
        return self.refusal.detail


class OfferFailed(NamedTuple):
    """Event: no usable answer to an offer."""

    server: int
    reason: str
    final: bool = False
    """Trying again hardly helps: the connection was refused, for example."""
    connected: bool = False
    """Connections to the server are accepted: it is up, but slow or stopped."""


Reply = OfferRefused | OfferFailed


class LeaderSearch:
    """The offers of one search, and what the servers replied to them."""

    def __init__(self, now: float, servers: Iterable[int], timeout: float, jitter: Callable[[], float]) -> None:
        """The first offers are due `now`, in the order of `servers`."""
        self.started = now
        self.grants: list[OfferGranted] = []
        self.replies: dict[int, Reply] = {}
        """The last of each server."""
        self._deadline = Deadline(now, timeout)
        self._servers = tuple(servers)
        self._backoff = {server: Backoff(FIRST_PAUSE, jitter) for server in self._servers}
        self._next: dict[int, tuple[float, float]] = dict.fromkeys(self._servers, (-math.inf, 0.0))
        """When each server that waits for its next offer replied, and the pause that follows."""
        self._all_replied = math.inf
        self._final: Refusal | None = None
        self._slow = False  # servers are at capacity
        self._named: float | None = None  # since when all replies name a leader that does not reply

    def reply(self, now: float, reply: OfferGranted | Reply) -> None:
        """Note a server's reply."""
        if isinstance(reply, OfferGranted):
            self.grants.append(reply)
            return
        self.replies[reply.server] = reply
        if len(self.replies) == len(self._servers):
            self._all_replied = min(self._all_replied, now)
        if _is(reply, Problem.BUSY):
            self._slow = True
            self._deadline.busy(now)
        if self.unreachable_leader is None:
            self._named = None
        elif self._named is None:
            self._named = now
        if isinstance(reply, OfferRefused) and not policy(reply.refusal).offer:
            self._final = self._final or reply.refusal
            return
        longest = LONGEST_BUSY_PAUSE if self._slow or _is(reply, Problem.VAULT_AWAY) else LONGEST_PAUSE
        self._next[reply.server] = (now, self._backoff[reply.server].next(longest))

    def due(self, now: float) -> list[int]:
        """The servers to which an offer is to be sent now; each is returned once."""
        servers = [server for server in self._next if self._due_at(server) <= now]
        for server in servers:
            del self._next[server]
        return servers

    def _due_at(self, server: int) -> float:
        """Most of the time another server is about to grant the offer, so wait a moment for all first replies."""
        replied, pause = self._next[server]
        return min(replied + QUIET_START, max(replied, self._all_replied)) + pause

    def times(self) -> list[float]:
        """When something is due, or may be."""
        times = [self._due_at(server) for server in self._next]
        times += [self.started + QUIET_START, self._deadline.at(unreachable=self.all_down)]
        if self._final is not None:
            times.append(self.started + OFFER_TIMEOUT)
        if self._named is not None:
            times.append(self._named + CUT_OFF)
        return times

    def error(self, now: float) -> SafelightError | None:
        """Why the search has failed by now; None if it goes on."""
        if self._final is not None and (now >= self.started + OFFER_TIMEOUT or self._all_replied <= now):
            return self._final
        waited = now - self.started
        if self.cut_off(now) and all(reply.final for reply in self.replies.values() if isinstance(reply, OfferFailed)):
            return self._no_leader(waited)
        return self._no_leader(waited) if now >= self._deadline.at(unreachable=self.all_down) else None

    # -- what the replies mean -----------------------------------------------------------------------

    @property
    def all_down(self) -> bool:
        """Whether no server can be reached at all."""
        return len(self.replies) == len(self._servers) and all(
            is_unreachable(reply) and not (isinstance(reply, OfferFailed) and reply.connected)
            for reply in self.replies.values()
        )

    @property
    def unreachable_leader(self) -> int | None:
        """The node that leads according to all servers that reply, if it does not reply itself."""
        if len(self.replies) < len(self._servers):
            return None
        refusals = [r.refusal for r in self.replies.values() if isinstance(r, OfferRefused) and not is_unreachable(r)]
        leaders = {refusal.leader if refusal.problem is Problem.NOT_THE_LEADER else None for refusal in refusals}
        leader = leaders.pop() if len(leaders) == 1 else None
        return None if any(refusal.node == leader for refusal in refusals) else leader

    def cut_off(self, now: float) -> bool:
        """Whether the leader counts as unreachable from here."""
        return self._named is not None and now - self._named >= CUT_OFF

    def waiting_for(self, now: float) -> str:
        """What keeps the search from its end, in words for the user."""
        if self.all_down:
            return "no server can be reached"
        if self.cut_off(now) and (leader := self.unreachable_leader) is not None:
            return beyond_reach(leader)
        if any(_is(reply, Problem.VAULT_AWAY) for reply in self.replies.values()):
            return UNAVAILABLE
        return "the servers are at capacity" if self._slow else "the servers are electing a leader"

    def _no_leader(self, waited: float) -> NoLeader:
        if any(_is(reply, Problem.VAULT_AWAY) for reply in self.replies.values()):
            return no_vault(waited)
        leader, why = self.unreachable_leader, by_server({s: reply.reason for s, reply in self.replies.items()})
        if leader is None:
            return NoLeader(f"no server took the image within {waited:.0f} s ({why})")
        if any(map(is_unreachable, self.replies.values())):
            return NoLeader(f"{beyond_reach(leader)} ({why}): check the network and the addresses")
        return NoLeader(
            f"node {leader} leads, and is none of these servers ({why}): name its address in --servers, too"
        )


def is_unreachable(reply: Reply) -> bool:
    """Whether there is no working node of the cluster at that address."""
    return isinstance(reply, OfferFailed) or policy(reply.refusal).unreachable


def beyond_reach(leader: int) -> str:
    """The reason that a client gives if it reaches workers alone."""
    return f"node {leader} leads and cannot be reached from here"


def no_vault(waited: float) -> NoLeader:
    """The error after `waited` seconds in which no node could use the vault."""
    return NoLeader(f"the vault could not be used for {waited:.0f} s: the nodes' logs say why; try again later")


def _is(reply: Reply, problem: Problem) -> bool:
    return isinstance(reply, OfferRefused) and reply.refusal.problem is problem
