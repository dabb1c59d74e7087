"""Who a user is to the cluster: the token that proves it, the enrolment that made it known, the offers in its name."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from safelight import names
from safelight.client.transport import tokens
from safelight.client.transport.offer_channel import OfferChannels
from safelight.client.transport.servers import Broken, Servers, observe, reason
from safelight.config import Config
from safelight.errors import SafelightError
from safelight.runtime.http import aiohttp
from safelight.runtime.network_errors import WrongCluster
from safelight.wire.messages import API, Grant, Offer, Problem, Refusal, fingerprint

_T = TypeVar("_T")

ALL_DOWN = 2.25
"""Seconds after which a cluster is given up of which no server can be reached at all: with the time that a process
takes to start and to end, three.
"""

ROUND = 1.0
"""Seconds that servers have to say which cluster they are of."""

DISSENT = 0.1
"""Seconds that the others still have once it seems clear which cluster is meant."""

AGAIN = 0.1
"""Seconds until the next round."""


class Unreachable(SafelightError):
    """No server of the cluster answers."""


class Disagreement(SafelightError):
    """The servers are of different clusters."""


class Account:
    """One user at one cluster."""

    def __init__(self, config: Config, servers: Servers, user: str) -> None:
        self._config = config
        self._servers = servers
        self._lines = OfferChannels(servers)
        self.user = names.check_user(user)
        self._token: tokens.Token | None = None
        self._cluster: str | None = None
        self._asked: dict[asyncio.Task[str], int] = {}

    async def fingerprint(self) -> str:
        """What an operator needs to add this user: the SHA-256 of its token, made now if there is none."""
        return fingerprint(await self.token())

    async def offer(self, server: int, offer: Offer) -> Grant:
        """One server's answer to an offer. Raises Refusal, and `Broken` where no answer comes."""
        return await self.known_to(server, lambda bearer: self._lines.offer(server, offer, bearer))

    async def close(self) -> None:
        """To be called before the servers are left."""
        await self._lines.close()

    async def known_to(self, server: int, request: Callable[[str], Awaitable[_T]]) -> _T:
        """A request to one server with the user's `Authorization`; enrols the user where it is not known yet.

        Raises Refusal, and as the request.
        """
        token = await self.token()
        try:
            return await request(f"Bearer {token}")
        except Refusal as refusal:
            if refusal.problem is not Problem.UNKNOWN_TOKEN:
                raise
        await self._enrol(server, token)
        return await request(f"Bearer {token}")

    async def _enrol(self, server: int, token: tokens.Token) -> None:
        try:
            path = f"{API}/users/{self.user}"
            await self._servers.ask(server, "PUT", path, msgspec.Struct, authorization=f"Bearer {token}")
        except Refusal as refusal:
            if refusal.problem is Problem.ENROLMENT_CLOSED:
                raise Refusal(
                    refusal.problem,
                    f"server {server} does not know {self.user}: ask its operator to run "
                    f"`safelight user add {self.user} {fingerprint(token)}`",
                ) from None
            if refusal.problem is Problem.NAME_TAKEN:
                raise Refusal(
                    refusal.problem,
                    f"the name {self.user} belongs to somebody else in this cluster: choose another, "
                    f"or bring {self.user}'s token from where it was made",
                ) from None
            raise

    async def token(self) -> tokens.Token:
        """This user's token for this cluster: kept from an earlier session, or made now."""
        if self._token is None:
            self._token, _ = tokens.load_or_create(self._config.client_dir, await self.cluster(), self.user)
        return self._token

    async def cluster(self) -> str:
        """The id of the cluster that the servers are of. Raises Unreachable, and Disagreement."""
        started = time.monotonic()
        while self._cluster is None:
            self._cluster = await self._ask_around(started)
        self._servers.insist_on(self._cluster)
        return self._cluster

    async def _ask_around(self, started: float) -> str | None:
        """The cluster that is meant, by what the servers say; None to ask again."""
        servers = self._servers.addresses
        self._asked = {asyncio.create_task(self._servers.cluster_of(server)): server for server in servers}
        for task in self._asked:
            task.add_done_callback(observe)
        said, reasons, patience = Counter[str](), set[str](), min(ALL_DOWN, self._config.timeout)
        mistaken = 0  # addresses where it is of no use to start a node, or to wait for one
        known = tokens.clusters(self._config.client_dir, self.user)
        pending, give_up = (
            {*self._asked},
            min(time.monotonic() + ROUND, max(started + patience, time.monotonic() + AGAIN)),
        )
        while pending and (left := give_up - time.monotonic()) > 0:
            done, pending = await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                try:
                    said[task.result()] += 1
                except (Refusal, *Broken) as error:
                    reasons.add(reason(error))
                    mistaken += isinstance(error, WrongCluster | aiohttp.ClientSSLError)
            if known & said.keys() or any(2 * times > len(servers) for times in said.values()):
                give_up = min(give_up, time.monotonic() + DISSENT)
        if said:  # those who have not answered go on: their connections will be needed
            if cluster := meant(said, known, len(servers)):
                return cluster
            addresses = ", ".join(address.netloc for address in servers.values())
            raise Disagreement(f"the servers at {addresses} are of {len(said)} clusters: name those of one")
        if pending:
            reasons.add(reason(TimeoutError()))
        if any(self._servers.connects(self._asked[task]) for task in pending):  # there is somebody, who has much to do
            patience = self._config.timeout
        if time.monotonic() - started >= patience or mistaken == len(servers):
            addresses = ", ".join(address.netloc for address in servers.values())
            why = "; ".join(sorted(reasons))
            hint = "" if mistaken else ": start them with `safelight up`"
            raise Unreachable(f"no server answers at {addresses} ({why}){hint}")
        await asyncio.sleep(AGAIN)
        return None


def meant(said: Counter[str], known: set[str], servers: int) -> str | None:
    """Which cluster is meant, if so many servers say that they are of each: the only one; else the only one that is
    known from before; else that of more than half of all servers. One alone might be a stranger on the port of a node
    that is down.
    """
    for found in (said.keys() & known, said.keys()):
        if len(found) == 1:
            return next(iter(found))
    return next((cluster for cluster, times in said.items() if 2 * times > servers), None)
