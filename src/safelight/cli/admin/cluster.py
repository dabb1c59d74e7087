"""The operator's commands about nodes and the keyring. They run on a machine with the cluster's keyring."""

import asyncio
import os
import time
from datetime import UTC, datetime

from safelight.cli.output.documents import Outcome
from safelight.client.requests.status import leader_of, survey
from safelight.client.transport.rounds import rounds
from safelight.client.transport.servers import TRANSPORT_ERRORS, Servers, reason
from safelight.config import Config
from safelight.encryption.keys import SECRET_SIZE, ClusterKey, Keyring
from safelight.errors import SafelightError
from safelight.node.state.data_directory import create_cluster, find_keyring
from safelight.node.state.key_file import KeyFile, wrapper_of
from safelight.vault.bootstrap import check_unused
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
    new_command,
    read_acknowledgement,
)
from safelight.wire.messages import API, CommandResult, Refusal

SHORTEST = 1.0
"""Seconds for which a node can be made ineligible: less would end before another node leads."""

POLL = 0.05
"""Seconds between two checks of which node leads."""


async def init(config: Config) -> Outcome:
    """Create the keyring of a new cluster. Raises DataError if it exists, and CannotUseVault if the vault is used."""
    if not (config.data_dir / "keyring.json").exists():
        await check_unused(config.vault_url, config.data_dir)
    keyring = create_cluster(config.data_dir, wrapper_of(config))
    text = f"Cluster {keyring.cluster_id} is created. Its keyring is in: {config.data_dir}"
    return Outcome.of(text, cluster=keyring.cluster_id, data_dir=str(config.data_dir))


async def step_down(config: Config, node: int | None, seconds: float) -> Outcome:
    """Make a node (None: the leader) ineligible for this long; with 0, eligible again.

    Raises SafelightError for an unknown node, for a node that refuses, and if no other node can lead: then the node
    stays the leader, whether or not this command waits.
    """
    if seconds and not SHORTEST <= seconds <= LONGEST:
        raise SafelightError(f"a node can be ineligible for {SHORTEST:g} to {LONGEST:g} seconds; 0 ends it")
    if seconds == 0 and node is None:
        raise SafelightError("name the node that becomes eligible again: safelight step-down NODE --for 0")
    if node is not None and node not in config.addresses:
        known = ", ".join(str(number) for number in config.addresses)
        raise SafelightError(f"there is no node {node}: this cluster has nodes {known}")
    keyring = keyring_file(config).read()
    statuses = await survey(config, keyring.cluster_id)
    target = leader_of(statuses) if node is None else node
    if target is None:
        silent = "; ".join(f"server {status.server}: {status.problem}" for status in statuses if status.problem)
        leaders = {status.load.leader for status in statuses if status.load and not status.heard}
        if len(leaders) == 1 and (leader := leaders.pop()) is not None:
            raise SafelightError(f"node {leader} leads and cannot be reached from here ({silent})")
        raise SafelightError(f"no node leads{silent and f' ({silent})'}: see `safelight status`")
    async with Servers(config, keyring.cluster_id) as servers:
        await _send(servers, keyring, new_command(target, StepDown(seconds), time.time()))
        if seconds == 0:
            return Outcome.of(f"Node {target} is eligible again.", node=target, leader=None, seconds=0)
    async for _ in rounds(POLL, LIFETIME):
        own = next(status for status in await survey(config, keyring.cluster_id) if status.server == target)
        if own.load is not None and not own.heard:
            if own.load.leader not in (None, target):
                leader = own.load.leader
                text = f"Node {leader} leads; node {target} is ineligible for {seconds:g} s."
                return Outcome.of(text, node=target, leader=leader, seconds=seconds)
            if not own.load.ineligible:
                break
    raise SafelightError(f"no other node could lead, so node {target} remains eligible: see `safelight status`")


async def rotate(config: Config) -> Outcome:
    """Create a new cluster key, store it on every node, then activate it. Old keys still decrypt.

    An interrupted rotation continues when it runs again: it uses the key that is not active everywhere yet. Raises
    SafelightError, which names each node that cannot be reached.
    """
    file = keyring_file(config)
    ring = file.read()
    async with Servers(config) as servers:
        key = ring.waiting or ring.current
        answers = await _store_on_all(servers, file, ring, key)
        if key.id == ring.current_id and all(
            answer.current == key.id for answer in answers
        ):  # no rotation is unfinished
            new = ClusterKey(os.urandom(SECRET_SIZE), max(int(time.time()), (key.created or 0) + 1))
            ring = file.change(lambda found: found if found.waiting else found.added(new))
            key = ring.waiting or ring.current
            await _store_on_all(servers, file, ring, key)
        ring = file.change(lambda found: found.using(key.id))
        answers = await _send_to_all(
            servers,
            ring,
            [new_command(node, UseKey(key.id), time.time()) for node in servers.addresses],
            f"every node has stored the key {key.id}, but not every node has confirmed that it uses it: the others use "
            "it when they are connected again, or when you run `safelight keys rotate` again",
        )
    text = f"All nodes encrypt with the key {key.id} now. Back up {file.path} again."
    return Outcome.of(text, key=key.id, keyring=str(file.path))


async def _store_on_all(servers: Servers, file: KeyFile, keyring: Keyring, key: ClusterKey) -> list[Acknowledgement]:
    """Return when every node has stored the key on its disk. Raises SafelightError."""
    commands = [add_key_command(key, keyring, node, time.time()) for node in servers.addresses]
    used = "not used until every node has it" if key.id != keyring.current_id else "not changed"
    answers = await _send_to_all(
        servers, keyring, commands, f"the key is {used}: correct this, then run `safelight keys rotate` again"
    )
    found = file.read()  # again: another rotation may have added a key here in the meantime
    for answer in answers:
        if found.find(answer.current) is None:
            raise SafelightError(
                f"node {answer.node} encrypts with the key {answer.current}, which is not in the keyring here: "
                "copy the keyring from that node's machine, or run this command there"
            )
    return answers


async def _send_to_all(
    servers: Servers, keyring: Keyring, commands: list[AdminCommand], otherwise: str
) -> list[Acknowledgement]:
    results = await asyncio.gather(*(_send(servers, keyring, each) for each in commands), return_exceptions=True)
    answers = [each for each in results if isinstance(each, Acknowledgement)]
    failures = [each for each in results if isinstance(each, BaseException)]
    for each in failures:
        if not isinstance(each, SafelightError):
            raise each
    if failures:
        raise SafelightError(f"{'; '.join(map(str, failures))}; {otherwise}")
    return answers


def list_keys(config: Config) -> Outcome:
    """The cluster keys, oldest first, without a secret: id, creation time (UTC), and use."""
    file = keyring_file(config)
    ring, wrapped = file.read(), file.wrapped
    rows = [
        {"id": key.id, "created": key.created, "current": key.id == ring.current_id, "waiting": key == ring.waiting}
        for key in ring.keys
    ]
    lines = [f"{'ID':<16}  {'CREATED':<20}  USE"]
    for key in ring.keys:
        created = datetime.fromtimestamp(key.created, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if key.created else "?"
        use = "decrypts"
        if key.id == ring.current_id:
            use = "encrypts and decrypts (current)"
        elif key == ring.waiting:
            use = "waiting: run `safelight keys rotate` again"
        lines.append(f"{key.id}  {created:<20}  {use}")
    return Outcome.of("\n".join(lines), cluster=ring.cluster_id, wrapped=wrapped, keys=rows)


def wrap(config: Config, *, wrapped: bool) -> Outcome:
    """Wrap the keyring file with the configured secret, or unwrap it, atomically."""
    file = keyring_file(config)
    verb = "wrapped" if wrapped else "unwrapped"
    changed = file.wrapped != wrapped
    if changed:
        file.change(lambda found: found, wrapped=wrapped)
        text = f"{file.path} is {verb} now. Backups of it are unchanged."
    else:
        file.read()  # the secret is correct
        text = f"{file.path} is {verb} already."
    return Outcome.of(text, keyring=str(file.path), wrapped=wrapped, changed=changed)


def keyring_file(config: Config) -> KeyFile:
    """The keyring of this machine. Raises DataError."""
    return find_keyring(config.data_dir, wrapper=wrapper_of(config))


async def _send(servers: Servers, keyring: Keyring, command: AdminCommand) -> Acknowledgement:
    """Return when the node has executed the command. Raises SafelightError."""
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
