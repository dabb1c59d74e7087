"""Who a user is to the cluster: the token that proves it, the enrolment that made it known, the offers in its name."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import msgspec

from safelight import names
from safelight.client.transport import tokens
from safelight.client.transport.deadline import Deadline
from safelight.client.transport.offer_channel import OfferChannels
from safelight.client.transport.rounds import rounds
from safelight.client.transport.servers import TRANSPORT_ERRORS, Servers, reason
from safelight.config import Config
from safelight.errors import ClusterUnavailable
from safelight.runtime.http import aiohttp
from safelight.runtime.network_errors import WrongCluster
from safelight.runtime.tasks import retrieve
from safelight.wire.messages import API, Grant, Offer, Problem, Refusal, fingerprint

_T = TypeVar("_T")

ROUND_TIMEOUT = 1.0
"""Seconds that servers have to say which cluster they belong to."""

DISSENT = 0.1
"""Seconds that the other servers still have once it seems clear which cluster is meant."""

PAUSE = 0.1
"""Seconds between two rounds."""


class Unreachable(ClusterUnavailable):
    """No server of the cluster answers."""


class Disagreement(ClusterUnavailable):
    """The servers are of different clusters."""


class Account:
    """One user at one cluster."""

    def __init__(self, config: Config, servers: Servers, user: str) -> None:
        self._config = config
        self._servers = servers
        self._channels = OfferChannels(servers)
        self.user = names.check_user(user)
        self._token: tokens.Token | None = None
        self._cluster: str | None = None
        self._asked: set[asyncio.Task[str]] = set()

    async def fingerprint(self) -> str:
        """What an operator needs to add this user: the SHA-256 of its token, made now if there is none."""
        return fingerprint(await self.token())

    async def offer(self, server: int, offer: Offer) -> Grant:
        """One server's answer to an offer. Raises Refusal, and `TRANSPORT_ERRORS` where no answer comes."""
        return await self.authenticated(server, lambda bearer: self._channels.offer(server, offer, bearer))

    async def close(self) -> None:
        """To be called before the servers are left."""
        await self._channels.close()

    async def authenticated(self, server: int, request: Callable[[str], Awaitable[_T]]) -> _T:
        """A request to one server with the user's `Authorization`; enrols the user where it is not known yet.

        Raises Refusal, and as the request.
        """
        token = await self.token()
        try:
            return await request(tokens.Secret(f"Bearer {token}"))
        except Refusal as refusal:
            if refusal.problem is not Problem.UNKNOWN_TOKEN:
                raise
        await self._enrol(server, token)
        return await request(tokens.Secret(f"Bearer {token}"))

    async def _enrol(self, server: int, token: tokens.Token) -> None:
        try:
            path = f"{API}/users/{self.user}"
            await self._servers.ask(server, "PUT", path, msgspec.Struct, authorization=tokens.Secret(f"Bearer {token}"))
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
        """The id of the cluster that the servers belong to. Raises Unreachable, and Disagreement."""
        if self._cluster is None:
            deadline = Deadline(asyncio.get_running_loop().time(), self._config.timeout)
            async for _ in rounds(PAUSE):
                self._cluster = self._cluster or await self._ask_all(deadline)
                if self._cluster is not None:
                    break
            assert self._cluster is not None
        self._servers.require_cluster(self._cluster)
        return self._cluster

    async def _ask_all(self, deadline: Deadline) -> str | None:
        """The cluster that is meant, by what the servers say; None to ask again."""
        servers, clock = self._servers.addresses, asyncio.get_running_loop().time
        asked = {asyncio.create_task(self._servers.cluster_of(server)): server for server in servers}
        self._asked |= asked.keys()  # the event loop itself keeps no task alive
        for task in asked:
            task.add_done_callback(retrieve)
            task.add_done_callback(self._asked.discard)

        def answers() -> Counter[str]:
            return Counter(task.result() for task in asked if task.done() and not task.exception())

        known = tokens.clusters(self._config.client_dir, self.user)
        end = min(clock() + ROUND_TIMEOUT, max(deadline.at(unreachable=True), clock() + PAUSE))
        with suppress(TimeoutError):
            async with asyncio.timeout_at(end) as limit:
                for answer in asyncio.as_completed(asked):
                    with suppress(Refusal, *TRANSPORT_ERRORS):
                        await answer
                    said = answers()
                    if known & said.keys() or any(2 * times > len(servers) for times in said.values()):
                        end = min(end, clock() + DISSENT)
                        limit.reschedule(end)
        said = answers()
        if said:  # those that have not answered go on: their connections will be needed
            if cluster := meant(said, known, len(servers)):
                return cluster
            addresses = ", ".join(address.netloc for address in servers.values())
            raise Disagreement(f"the servers at {addresses} are of {len(said)} clusters: name those of one")
        pending = [server for task, server in asked.items() if not task.done()]
        errors = [(task.exception() if task.done() else None) or TimeoutError() for task in asked]
        # addresses where it is of no use to start a node, or to wait for one
        mistaken = sum(isinstance(error, WrongCluster | aiohttp.ClientSSLError) for error in errors)
        nobody = not any(map(self._servers.connects, pending))  # else a server is up, and slow
        if clock() >= deadline.at(unreachable=nobody) or mistaken == len(servers):
            addresses = ", ".join(address.netloc for address in servers.values())
            why = "; ".join(sorted({reason(error) for error in errors}))
            hint = "" if mistaken else ": start them with `safelight up`"
            raise Unreachable(f"no server answers at {addresses} ({why}){hint}")
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
