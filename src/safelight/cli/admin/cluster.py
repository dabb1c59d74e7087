"""What an operator has nodes do, from a machine with the cluster's keyring, and what the keyring has in it."""

import asyncio
import os
import secrets
import time
from datetime import UTC, datetime

import msgspec

from safelight.client.requests.status import leader_of, survey
from safelight.client.transport.rounds import rounds
from safelight.client.transport.servers import TRANSPORT_ERRORS, Servers, reason
from safelight.config import Config
from safelight.encryption.keys import SECRET_SIZE, ClusterKey, Keyring
from safelight.errors import SafelightError
from safelight.node.state.data_directory import find_keyring
from safelight.node.state.key_file import KeyFile, wrapper_of
from safelight.wire import signed
from safelight.wire.admin_commands import (
    KEY,
    LIFETIME,
    LONGEST,
    Acknowledgement,
    AdminCommand,
    BadCommand,
    StepDown,
    UseKey,
    add_key_command,
    read_acknowledgement,
)
from safelight.wire.messages import API, CommandResult, Refusal

SHORTEST = 1.0
"""Seconds for which a node may be ineligible on request: less is over before another leads."""

PAUSE = 0.05
"""Seconds between two surveys of who leads."""


async def step_down(config: Config, node: int | None, seconds: float) -> str:
    """Have a node (None: the leader) let others lead for so long; with 0, no longer. What came of it, in words.

    Raises SafelightError: for a node that there is not or that refuses, and where nobody else takes over: then
    the node leads on, whether anybody waits here or not.
    """
    if seconds and not SHORTEST <= seconds <= LONGEST:
        raise SafelightError(f"a node can step down for {SHORTEST:g} to {LONGEST:g} seconds; 0 ends it")
    if seconds == 0 and node is None:
        raise SafelightError("name the node that is to be eligible again: safelight step-down NODE --for 0")
    if node is not None and node not in config.addresses:
        known = ", ".join(str(number) for number in config.addresses)
        raise SafelightError(f"there is no node {node}: this cluster has nodes {known}")
    keyring = keyring_file(config).read()
    statuses = await survey(config, keyring.cluster_id)
    target = leader_of(statuses) if node is None else node
    if target is None:
        silent = "; ".join(f"server {status.server}: {status.problem}" for status in statuses if status.problem)
        heard = {status.load.leader for status in statuses if status.load and not status.heard}
        if len(heard) == 1 and (leader := heard.pop()) is not None:
            raise SafelightError(f"node {leader} leads and cannot be reached from here ({silent})")
        raise SafelightError(f"no node leads{silent and f' ({silent})'}: see `safelight status`")
    async with Servers(config, keyring.cluster_id) as servers:
        await _tell(servers, keyring, _command(target, StepDown(seconds)))
        if seconds == 0:
            return f"Node {target} is eligible again."
    async for _ in rounds(PAUSE, LIFETIME):
        own = next(status for status in await survey(config, keyring.cluster_id) if status.server == target)
        if own.load is not None and not own.heard:
            if own.load.leader not in (None, target):
                return f"Node {own.load.leader} leads; node {target} is ineligible for {seconds:g} s."
            if not own.load.ineligible:
                break
    raise SafelightError(f"no other node could lead, so node {target} remains eligible: see `safelight status`")


async def rotate(config: Config) -> str:
    """Make a new cluster key and have all nodes seal with it; the old ones still open. What came of it, in words.

    First every node must have the key on its disk and say so; only then is any told to use it. Whatever breaks off,
    running it again goes on from there: a key that is not used by all yet is the one to go on with. Raises
    SafelightError: for each node that is not reached.
    """
    file = keyring_file(config)
    ring = file.read()
    async with Servers(config) as servers:
        key = ring.waiting or ring.current
        answers = await _give_to_all(servers, file, ring, key)
        if key.id == ring.current_id and all(answer.current == key.id for answer in answers):  # nothing is unfinished
            new = ClusterKey(os.urandom(SECRET_SIZE), max(int(time.time()), (key.created or 0) + 1))
            ring = file.change(lambda found: found if found.waiting else found.added(new))
            key = ring.waiting or ring.current
            await _give_to_all(servers, file, ring, key)
        ring = file.change(lambda found: found.using(key.id))
        answers = await _tell_all(
            servers,
            ring,
            [_command(node, UseKey(key.id)) for node in servers.addresses],
            f"the key {key.id} is on the disk of every node, but not each is known to use it: those that do not will "
            "when they are linked with the others again, or when you run `safelight keys rotate` again",
        )
    return f"All nodes seal with the key {key.id} now. Keep a new backup of {file.path}."


async def _give_to_all(servers: Servers, file: KeyFile, keyring: Keyring, key: ClusterKey) -> list[Acknowledgement]:
    """Return when every node has the key on its disk. Raises SafelightError."""
    commands = [
        add_key_command(key, keyring, node, time.time() + LIFETIME, secrets.token_hex(8)) for node in servers.addresses
    ]
    used = "not used before every node has it" if key.id != keyring.current_id else "not changed"
    answers = await _tell_all(
        servers, keyring, commands, f"the key is {used}: see to it, then run `safelight keys rotate` again"
    )
    found = file.read()  # again: another rotation may have added a key meanwhile, here first
    for answer in answers:
        if found.find(answer.current) is None:
            raise SafelightError(
                f"node {answer.node} seals with the key {answer.current}, which is not in the keyring here: "
                "copy the keyring from that node's machine, or run this there"
            )
    return answers


async def _tell_all(
    servers: Servers, keyring: Keyring, commands: list[AdminCommand], otherwise: str
) -> list[Acknowledgement]:
    told = await asyncio.gather(*(_tell(servers, keyring, command) for command in commands), return_exceptions=True)
    answers = [each for each in told if isinstance(each, Acknowledgement)]
    failures = [each for each in told if isinstance(each, BaseException)]
    for each in failures:
        if not isinstance(each, SafelightError):
            raise each
    if failures:
        raise SafelightError(f"{'; '.join(map(str, failures))}; {otherwise}")
    return answers


def list_keys(config: Config, *, as_json: bool) -> str:
    """The cluster's keys, oldest first, without a secret: id, when made (UTC), and what each does."""
    file = keyring_file(config)
    ring, wrapped = file.read(), file.wrapped
    rows = [
        {"id": key.id, "created": key.created, "current": key.id == ring.current_id, "waiting": key == ring.waiting}
        for key in ring.keys
    ]
    if as_json:
        document = msgspec.json.encode({"cluster": ring.cluster_id, "wrapped": wrapped, "keys": rows})
        return msgspec.json.format(document, indent=2).decode()
    lines = [f"{'KEY':<16}  {'MADE':<20}  USE"]
    for key in ring.keys:
        made = "?" if key.created is None else datetime.fromtimestamp(key.created, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        use = "opens"
        if key.id == ring.current_id:
            use = "seals and opens (current)"
        elif key == ring.waiting:
            use = "waits: run `safelight keys rotate` again"
        lines.append(f"{key.id}  {made:<20}  {use}")
    return "\n".join(lines)


def wrap(config: Config, *, wrapped: bool) -> str:
    """Wrap the keyring with the configured secret, or unwrap it; in place, at once or not at all. What came of it."""
    file = keyring_file(config)
    verb = "wrapped" if wrapped else "unwrapped"
    if file.wrapped == wrapped:
        file.read()  # it opens with this secret
        return f"{file.path} is {verb} already."
    file.change(lambda found: found, wrapped=wrapped)
    return f"{file.path} is {verb} now. Backups of it are as they were."


def keyring_file(config: Config) -> KeyFile:
    """The keyring of this machine. Raises DataError."""
    return find_keyring(config.data_dir, wrapper=wrapper_of(config))


def _command(node: int, task: StepDown | UseKey) -> AdminCommand:
    return AdminCommand(node, task, time.time() + LIFETIME, secrets.token_hex(8))


async def _tell(servers: Servers, keyring: Keyring, command: AdminCommand) -> Acknowledgement:
    """Return when a node has done it. Raises SafelightError."""
    node, text = command.node, signed.write(command, keyring.derive(KEY))
    try:
        async with asyncio.timeout(LIFETIME):
            result = await servers.ask(node, "POST", f"{API}/orders", CommandResult, authorization=f"Order {text}")
        return read_acknowledgement(result.answer, command, keyring)
    except (Refusal, BadCommand, *TRANSPORT_ERRORS) as error:
        why = str(error) if isinstance(error, BadCommand) else reason(error)
        raise SafelightError(
            f"node {node} at {servers.addresses[node].netloc} did not execute the command: {why}"
        ) from None
