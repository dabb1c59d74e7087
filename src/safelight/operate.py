"""What an operator has nodes do, from a machine with the cluster's keyring."""

import asyncio
import math
import secrets
import time

import msgspec

from safelight import signed
from safelight.client.commands import leader_of
from safelight.client.servers import Broken, Servers, reason
from safelight.client.status import survey
from safelight.config import Config
from safelight.errors import SafelightError
from safelight.node.datadir import load_keyring
from safelight.orders import KEY, LIFETIME, LONGEST, StepDown
from safelight.protocol import API, Refusal

PATIENCE = 10.0
"""Seconds until another node must lead, or the one that stepped down is told to stand again."""

GLANCE = 0.05
"""Seconds between two looks at who leads."""


async def step_down(config: Config, node: int | None, seconds: float) -> str:
    """Have a node (None: the leader) let others lead for so long; with 0, no longer. What came of it, in words.

    Raises SafelightError: for a node that there is not or that refuses, and where nobody else takes over; then
    the node stands for election again.
    """
    if not 0 <= seconds <= LONGEST or not math.isfinite(seconds):
        raise SafelightError(f"a node can stand back for 0 to {LONGEST:g} seconds")
    if node is not None and node not in config.addresses:
        known = ", ".join(str(number) for number in config.addresses)
        raise SafelightError(f"there is no node {node}: this cluster has nodes {known}")
    key = load_keyring(config.data_dir, create=False).derive(KEY)
    before = leader_of(await survey(config))
    target = before if node is None else node
    if target is None:
        raise SafelightError("no node leads: see `safelight status`, or say which node is to stand back")
    async with Servers(config) as servers:
        await _tell(servers, target, seconds, key)
        if seconds == 0:
            return f"Node {target} stands for election again."
        if target != before:
            return f"Node {target} does not stand for election for {seconds:g} s."
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            leader = leader_of(await survey(config))
            if leader not in (None, target):
                return f"Node {leader} leads now; node {target} does not stand for election for {seconds:g} s."
            await asyncio.sleep(GLANCE)
        await _tell(servers, target, 0, key)
    raise SafelightError(
        f"no other node could lead, so node {target} stands for election again: see `safelight status`"
    )


async def _tell(servers: Servers, node: int, seconds: float, key: bytes) -> None:
    order = StepDown(node, seconds, time.time() + LIFETIME, secrets.token_hex(8))
    try:
        async with asyncio.timeout(PATIENCE):
            await servers.ask(
                node, "POST", f"{API}/step-down", msgspec.Struct, authorization=f"Order {signed.write(order, key)}"
            )
    except (Refusal, *Broken) as error:
        where = servers.addresses[node].netloc
        raise SafelightError(f"node {node} at {where} does not step down: {reason(error)}") from None
