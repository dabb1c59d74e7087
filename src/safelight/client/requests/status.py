"""The status of every server: asked one by one, and completed by what the others heard of those that do not answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from safelight.client.transport import tokens
from safelight.client.transport.account import meant
from safelight.client.transport.rounds import rounds
from safelight.client.transport.servers import TRANSPORT_ERRORS, Servers, reason
from safelight.config import Config
from safelight.errors import SafelightError
from safelight.names import shown
from safelight.wire.messages import API, Load, Refusal, Status

ANSWER_TIMEOUT = 1.0
"""Seconds that a server has for its answer."""

PAUSE = 0.05
"""Seconds between two surveys while waiting for a leader."""


@dataclass(frozen=True)
class ServerStatus:
    """One server: its load, or (None) the problem with it. `heard`: the load was reported by another node."""

    server: int
    address: str
    load: Load | None
    problem: str = ""
    heard: bool = False


def leader_of(servers: Iterable[ServerStatus]) -> int | None:
    """The node that reports itself as the leader; another node's report may be about one that has died."""
    loads = [status.load for status in servers if status.load and not status.heard]
    leaders = [load for load in loads if load.leader == load.node]
    return max(leaders, key=lambda load: load.counter).node if leaders else None


async def survey(config: Config, cluster: str | None = None) -> list[ServerStatus]:
    """All servers, in the order of the configuration.

    `cluster`: the id of the one that is meant, if it is known; else it is found out as a user's client does.
    """
    async with Servers(config, cluster) as servers:
        return await _survey(servers, config)


async def wait_for_leader(config: Config, seconds: float) -> int:
    """The leader's number, once every server that answers agrees on it. Raises SafelightError after so many seconds."""
    async with Servers(config) as servers:
        async for _ in rounds(PAUSE, seconds):
            found = [status.load for status in await _survey(servers, config) if status.load and not status.heard]
            leaders = {load.leader for load in found}
            if len(leaders) == 1 and (leader := leaders.pop()) is not None and leader in {load.node for load in found}:
                return leader
    raise SafelightError(f"the servers have elected no leader within {seconds:g} s: see `safelight status`")


async def _survey(servers: Servers, config: Config) -> list[ServerStatus]:
    answers = dict(
        zip(
            servers.addresses,
            await asyncio.gather(*(_ask(servers, server) for server in servers.addresses)),
            strict=True,
        )
    )
    said = Counter(answer.cluster for answer in answers.values() if isinstance(answer, Status))
    ours = meant(said, tokens.clusters(config.client_dir), len(answers))
    for server, answer in answers.items():
        if isinstance(answer, Status) and answer.cluster != ours:
            answers[server] = f"it is of another cluster ({shown(answer.cluster[:8])})"
    heard = {load.node: load for answer in answers.values() if isinstance(answer, Status) for load in answer.nodes}
    result = []
    for server, answer in answers.items():
        address = servers.addresses[server].netloc
        if isinstance(answer, str):
            hearsay = heard.get(server)
            result.append(ServerStatus(server, address, hearsay, answer, heard=hearsay is not None))
        else:
            own = next((load for load in answer.nodes if load.node == answer.node), None)
            result.append(ServerStatus(server, address, own, "" if own else "it says nothing of itself"))
    return result


async def _ask(servers: Servers, server: int) -> Status | str:
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            return await servers.ask(server, "GET", f"{API}/status", Status)
    except (Refusal, *TRANSPORT_ERRORS) as error:
        return reason(error)
