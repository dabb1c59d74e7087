"""How every server does: asked one by one, and completed by what the others heard of those that are silent."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from safelight.client.transport import tokens
from safelight.client.transport.account import meant
from safelight.client.transport.servers import Broken, Servers, reason
from safelight.config import Config
from safelight.errors import SafelightError
from safelight.names import shown
from safelight.wire.messages import API, Load, Refusal, Status

PATIENCE = 1.0
"""Seconds that a server has for its answer."""


@dataclass(frozen=True)
class ServerStatus:
    """One server: its load, or (None) the problem with it. `heard`: the load is known by hearsay alone."""

    server: int
    address: str
    load: Load | None
    problem: str = ""
    heard: bool = False


def leader_of(servers: Iterable[ServerStatus]) -> int | None:
    """The node that answers and says of itself that it leads; hearsay may be of one that has died."""
    loads = [status.load for status in servers if status.load and not status.heard]
    leaders = [load for load in loads if load.leader == load.node]
    return max(leaders, key=lambda load: load.counter).node if leaders else None


async def survey(config: Config, cluster: str | None = None) -> list[ServerStatus]:
    """All servers, in the order of the configuration.

    `cluster`: the id of the one that is meant, if it is known; else it is found out as a user's client does.
    """
    async with Servers(config, cluster) as servers:
        return await _survey(servers, config)


async def wait_for_leader(config: Config, patience: float) -> int:
    """The leader's number, once every server that answers agrees on it. Raises SafelightError."""
    give_up = time.monotonic() + patience
    async with Servers(config) as servers:
        while True:
            found = [status.load for status in await _survey(servers, config) if status.load and not status.heard]
            leaders = {load.leader for load in found}
            if len(leaders) == 1 and (leader := leaders.pop()) in {load.node for load in found}:
                assert leader is not None
                return leader
            if time.monotonic() >= give_up:
                raise SafelightError(
                    f"the servers have elected no leader within {patience:g} s: see `safelight status`"
                )
            await asyncio.sleep(0.05)


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
        async with asyncio.timeout(PATIENCE):
            return await servers.ask(server, "GET", f"{API}/status", Status)
    except (Refusal, *Broken) as error:
        return reason(error)
