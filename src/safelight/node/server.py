"""One node as a process: assembles its parts, listens, serves until a signal, and drains."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable

import uvloop

from safelight.config import Config
from safelight.election.bully import Election
from safelight.errors import SafelightError, reason
from safelight.node.connections.address import CannotServe, bind, server_tls_of
from safelight.node.connections.eviction import ConnectionTable, most_of
from safelight.node.connections.listener import Listener
from safelight.node.election.driver import ElectionDriver
from safelight.node.election.handshake import PeerIdentity
from safelight.node.election.health import HealthMonitor
from safelight.node.election.key_sync import KeySync
from safelight.node.election.links import Links
from safelight.node.http.admission import Admission
from safelight.node.http.app import Routes
from safelight.node.http.authentication import Authentication
from safelight.node.http.reads import ReadHandlers
from safelight.node.http.writes import WriteHandlers
from safelight.node.state import crash_record, data_directory
from safelight.node.state.data_directory import NodeFiles
from safelight.node.state.key_file import MIN_SECRET, Keys, wrapper_of
from safelight.node.state.log_writer import LogWriter
from safelight.node.state.usage_file import UsageFile
from safelight.node.state.users import Users
from safelight.node.state.vault_handle import VaultHandle
from safelight.node.work.balance import report_pause
from safelight.node.work.load import LoadReporter, LoadTracker
from safelight.node.work.pipeline import Pipeline
from safelight.node.work.scheduler import Scheduler
from safelight.runtime.allocator import keep_segments
from safelight.runtime.descriptors import raise_limit
from safelight.runtime.http import web
from safelight.runtime.tls import client_tls
from safelight.vault.bootstrap import check_unused

UNUSED_GRANTS = 0.5
"""Seconds for which a draining node waits for requests that it granted and that have not started."""

LAST_LINES = 1.0
"""Seconds for which a stopping node waits for the reader of its log."""


def run(config: Config, node: int, *, until_eof: bool = False) -> None:
    """Serve as node number `node` until SIGTERM or SIGINT; with `until_eof` also until standard input ends.

    Log lines begin with their time, except on a terminal, and with `until_eof`: then a parent process prints them.

    Raises CannotServe, ConfigError, DataError for the data directory, and CannotUseVault; CannotServe also at the end,
    if its log could not be written.
    """
    keep_segments()
    if node not in config.addresses:
        known = ", ".join(str(number) for number in config.addresses)
        raise CannotServe(f"there is no node {node}: this cluster has nodes {known} (one for each of `servers`)")
    address = config.addresses[node]
    tls = server_tls_of(config, address)
    listener = bind(address)
    with listener:
        data_directory.prepare(config.data_dir)
        keys = _keys(config)
        lines, errors = (
            LogWriter(stream, prefix, times=not (until_eof or (stream and stream.isatty())))
            for stream, prefix in ((sys.stdout, f"Node {node}: "), (sys.stderr, ""))
        )
        logging.basicConfig(handlers=[errors.handler()], format="%(message)s")
        try:
            uvloop.run(Node(config, node, keys, lines.write).serve(listener, tls, until_eof=until_eof))
        finally:
            lost = lines.close(LAST_LINES)
            errors.close(LAST_LINES)
        if lost:
            raise CannotServe(f"log lines of this node are lost: cannot write to standard output: {reason(lost)}")


class Node:
    """The parts of a node, assembled bottom-up: each part gets the parts that it uses.

    Where two parts use each other, the later one is bound to the earlier one, in `bind`.
    """

    def __init__(self, config: Config, node: int, keys: Keys, log: Callable[[str], None]) -> None:
        """`log` writes a line."""
        self._config, self._number, self._keys, self._log = config, node, keys, log
        addresses, timeout, tls = config.addresses, config.timing.leader_timeout, client_tls(config)
        incarnation, files = secrets.token_hex(8), NodeFiles(config.data_dir, node, addresses, keys)
        crashes = crash_record.record_start(config.data_dir, node, time.time()).crashes
        self._usage = UsageFile(config.data_dir, node, len(addresses), keys, log)
        self._load = LoadTracker(
            node, len(addresses), 2 * timeout, config.max_in_flight, config.min_rate, key_use=self._usage
        )
        scheduler = Scheduler(config, node, self._load)

        self._health = HealthMonitor(files, self._load, leader_timeout=timeout, crashes=crashes, log=log)
        self._key_sync = KeySync(node, keys, addresses, tls=tls, health=self._health, log=log)
        identity = PeerIdentity(keys, node, incarnation)
        self._links = Links(identity, addresses, timeout=timeout, tls=tls, key_exchange=self._key_sync, log=log)
        saved = data_directory.load_epoch(config.data_dir, node)
        election = Election(node, addresses, config.timing, saved=saved, now=time.monotonic())
        self._election = ElectionDriver(election, links=self._links, health=self._health, workload=scheduler, log=log)
        self._health.bind(self._election)
        self._links.bind(self._election)
        if config.balance == "least-loaded":
            self._load.bind(LoadReporter(self._election, report_pause(len(addresses))))

        self._vault_handle = vault_handle = VaultHandle(
            config,
            node,
            keys.current,
            election=self._election,
            peers=self._load,
            health=self._health,
            sealed=self._usage.record,
            log=log,
        )
        users = Users(vault_handle.get)
        pipeline = Pipeline(config, keys, self._usage.wrap)
        authentication = Authentication(config, node, keys.ring, users)
        self._admission = admission = Admission(
            config, node, incarnation, keys.ring, authentication, self._election, scheduler
        )
        writes = WriteHandlers(
            config, node, admission=admission, pipeline=pipeline, vault_handle=vault_handle, load=self._load, log=log
        )
        reads = ReadHandlers(
            config, node, authentication=authentication, vault_handle=vault_handle, load=self._load, log=log
        )
        self._routes = Routes(
            config,
            node,
            keys.ring.cluster_id,
            authentication=authentication,
            admission=admission,
            writes=writes,
            reads=reads,
            users=users,
            links=self._links,
            election=self._election,
            keys=keys,
            key_sync=self._key_sync,
            step_down=self._health.step_down,
            log=log,
        )

    async def serve(self, listener: socket.socket, tls: ssl.SSLContext | None, *, until_eof: bool) -> None:
        await self._vault_handle.start()
        stop = _stop_event(until_eof)
        runner = web.AppRunner(self._routes.application(), handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        server = runner.server
        assert server is not None
        connections = ConnectionTable(most_of(raise_limit()), self._log)
        accepting = Listener(listener, tls, server, self._number, connections)
        accepting.start()
        address = self._config.addresses[self._number]
        self._log(f"listening on {address.url} (cluster {self._keys.ring.cluster_id[:8]})")
        if not address.loopback and tls is None:
            self._log("WARNING: plain HTTP beyond loopback: tokens and images cross the network readable")
        if self._keys.weak:
            self._log(
                f"WARNING: the keyring's secret has fewer than {MIN_SECRET} bytes: run `safelight keys unwrap`, "
                "set a longer one, and run `safelight keys wrap`"
            )
        await self._health.start()
        self._routes.active_requests.start()
        self._load.start()
        self._key_sync.start()
        self._links.start()
        self._election.start()
        await stop.wait()
        crash_record.record_stop(self._config.data_dir, self._number)
        await self._drain()
        self._health.stop()
        self._election.stop()
        accepting.close()  # before the links: peers redial at once
        await self._links.close()
        await self._key_sync.stop()
        await self._routes.offer_channels.close()
        self._routes.active_requests.stop()
        await runner.cleanup()
        await self._vault_handle.stop()
        self._usage.close()
        self._log("stopped")

    async def _drain(self) -> None:
        """Stop leading, grant no more offers, and finish what was granted."""
        self._admission.drain()
        self._health.drain()
        await self._links.flush()
        started = time.monotonic()
        while (waited := time.monotonic() - started) < self._config.drain_timeout:
            unused = self._admission.outstanding() if waited < UNUSED_GRANTS else 0
            if not (self._load.in_flight or unused):
                return
            await asyncio.sleep(0.02)
        self._log(f"{self._load.in_flight} requests were still in progress after drain_timeout")


def _keys(config: Config) -> Keys:
    """The keyring. A new one is created only if all nodes are on this machine, and no vault is in use."""
    alone, path = _on_one_machine(config), config.data_dir / "keyring.json"
    if alone and not path.exists():
        try:
            asyncio.run(check_unused(config.vault_url, config.data_dir))
        except SafelightError:
            if not path.exists():  # else another node has created it meanwhile, and the vault
                raise
    return data_directory.load_keys(config.data_dir, create=alone, wrapper=wrapper_of(config))


def _on_one_machine(config: Config) -> bool:
    return all(address.loopback for address in config.addresses.values())


def _stop_event(until_eof: bool) -> asyncio.Event:
    """Set when the process is to stop; a second signal then ends it at once."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def signalled() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, signalled)
    if until_eof:
        descriptor = sys.stdin.fileno()

        def readable() -> None:
            if not os.read(descriptor, 4096):
                loop.remove_reader(descriptor)
                stop.set()

        loop.add_reader(descriptor, readable)
    return stop
