"""One node as a process: builds its parts, listens, serves until a signal stops it, then drains."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import secrets
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvloop

from safelight.config import Address, Config
from safelight.election.bully import Election, Epoch
from safelight.errors import SafelightError, reason
from safelight.node.connections.eviction import ConnectionTable, most_of
from safelight.node.connections.listener import Listener
from safelight.node.election.driver import ElectionDriver
from safelight.node.election.handshake import PeerIdentity
from safelight.node.election.health import HealthMonitor, unsaved
from safelight.node.election.key_sync import KeySync
from safelight.node.election.links import Links
from safelight.node.http.admission import Admission
from safelight.node.http.app import Routes
from safelight.node.http.authentication import Authentication
from safelight.node.http.reads import ReadHandlers
from safelight.node.http.writes import WriteHandlers
from safelight.node.state import crash_record, data_directory
from safelight.node.state.key_file import MIN_SECRET, Keys, wrapper_of
from safelight.node.state.key_usage import KeyUsage
from safelight.node.state.log_writer import LogWriter
from safelight.node.state.users import Users
from safelight.node.state.vault_handle import VaultHandle
from safelight.node.work.balance import report_pause
from safelight.node.work.load import LoadTracker
from safelight.node.work.pipeline import Pipeline
from safelight.node.work.scheduler import Scheduler
from safelight.runtime.allocator import keep_segments
from safelight.runtime.descriptors import raise_limit
from safelight.runtime.http import web
from safelight.runtime.tls import check_plain_http, client_tls, server_tls
from safelight.vault.bootstrap import check_unused

UNUSED_GRANTS = 0.5
"""Seconds that a draining node waits for granted bodies that have not begun to arrive."""

LAST_WORDS = 1.0
"""Seconds that the reader of a stopping node's log has to read its last lines."""


class CannotServe(SafelightError):
    """This node cannot start, and what to do about it."""


def run(config: Config, node: int, *, until_eof: bool = False) -> None:
    """Serve as node number `node` until SIGTERM or SIGINT; with `until_eof` also until standard input ends.

    Raises CannotServe, ConfigError, DataError for the data directory, and CannotUseVault; CannotServe also at the end,
    if its lines could not be written.
    """
    keep_segments()
    if node not in config.addresses:
        known = ", ".join(str(number) for number in config.addresses)
        raise CannotServe(f"there is no node {node}: this cluster has nodes {known} (one for each of `servers`)")
    address = config.addresses[node]
    tls = _server_tls(config, address)
    listener = _listen(address)
    with listener:
        data_directory.prepare(config.data_dir)
        keys = _keys(config)
        journal, errors = LogWriter(sys.stdout, f"Node {node}: "), LogWriter(sys.stderr)
        logging.basicConfig(handlers=[errors.handler()], format="%(message)s")
        try:
            uvloop.run(Node(config, node, keys, journal.say).serve(listener, tls, until_eof=until_eof))
        finally:
            lost = journal.close(LAST_WORDS)
            errors.close(LAST_WORDS)
        if lost:
            raise CannotServe(f"lines of this node are lost: cannot write to standard output: {reason(lost)}")


class Node:
    """The parts of a node, put together."""

    def __init__(self, config: Config, node: int, keys: Keys, say: Callable[[str], None]) -> None:
        """`say` gets one line at a time for the node's log."""
        self._config = config
        self._number = node
        self._keys = keys
        self._cluster = keys.ring.cluster_id
        self._say = say
        incarnation = secrets.token_hex(8)
        timing = config.timing
        self._load = LoadTracker(
            node,
            lambda: (self._election.role, self._election.epoch, self._election.leader),
            lambda: self._health.ineligible,
            2 * timing.leader_timeout,
            self._report_soon,
            config.max_in_flight,
            config.min_rate,
            lambda: self._health.degraded,
            lambda: (self._usage.used(keys.ring.current_id), self._usage.advice(keys.ring.current_id)),
        )
        self._usage = KeyUsage(
            data_directory.load_usage(config.data_dir, node), len(config.addresses), self._save_usage
        )
        self._scheduler = Scheduler(config, node, self._load)
        self._reporting: asyncio.TimerHandle | None = None
        tls = client_tls(config)
        self._key_sync = KeySync(
            node,
            keys,
            config.addresses,
            tls=tls,
            observe=lambda reason: self._health.observe("key", not reason, reason),
            log=say,
        )
        self._links = Links(
            PeerIdentity(keys, node, incarnation),
            config.addresses,
            timeout=timing.leader_timeout,
            tls=tls,
            introduced=self._key_sync.introduced,
            connected=lambda peer, incarnation: self._election.connected(peer, incarnation),
            lost=self._lost,
            received=lambda peer, frame: self._election.received(peer, frame),
            log=say,
        )
        self._election = ElectionDriver(
            Election(
                node,
                config.addresses,
                timing,
                saved=data_directory.load_epoch(config.data_dir, node),
                now=time.monotonic(),
            ),
            send=self._links.send,
            save=self._save,
            unsaved=lambda error: self._health.observe("epoch", False, unsaved(error)),
            loads=lambda: self._load.known() if self._election.leads else [self._load.own()],
            begun=self._scheduler.take_started,
            loads_received=self._scheduler.received,
            log=say,
        )
        others = config.addresses.keys() - {node}
        self._health = HealthMonitor(
            examine=lambda: data_directory.examine(config.data_dir, node, self._election.known_peers or others, keys),
            save=lambda: self._save(self._election.epoch),
            set_eligible=self._election.set_eligible,
            wait_for_leader=lambda: self._election.wait_for_leader(timing.leader_timeout),
            leads=lambda: self._election.leads,
            another_is_healthy=lambda: bool(others) and self._load.another_is_healthy(),
            crashes=crash_record.record_start(config.data_dir, node, time.time()).crashes,
            log=say,
        )
        self._keeper = VaultHandle(
            config,
            node,
            lambda: keys.ring,
            leads=lambda: self._election.leads,
            sealed=self._sealed,
            alarm=self._load.another_is_unhealthy,
            observe=self._observe_vault,
            say=say,
        )
        users = Users(lambda: self._keeper.vault)
        authentication = Authentication(config, node, keys.ring, users)
        self._admission = Admission(
            config, node, incarnation, keys.ring, authentication, self._election, self._scheduler
        )
        self._routes = Routes(
            config,
            node,
            self._cluster,
            authentication=authentication,
            admission=self._admission,
            writes=WriteHandlers(
                config,
                node,
                admission=self._admission,
                pipeline=Pipeline(config, keys, self._wrapped),
                vault_handle=self._keeper,
                load=self._load,
                log=say,
            ),
            reads=ReadHandlers(
                config, node, authentication=authentication, vault_handle=self._keeper, load=self._load, log=say
            ),
            users=users,
            links=self._links,
            load=self._load,
            keys=keys,
            key_sync=self._key_sync,
            step_down=self._health.step_down,
            log=say,
        )

    async def serve(self, listener: socket.socket, tls: ssl.SSLContext | None, *, until_eof: bool) -> None:
        await self._keeper.start()
        stop = _stop_event(until_eof)
        runner = web.AppRunner(self._routes.application(), handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        server = runner.server
        assert server is not None
        kept = ConnectionTable(most_of(raise_limit()), self._say)
        door = Listener(listener, tls, server, self._number, kept)
        door.start()
        address = self._config.addresses[self._number]
        self._say(f"listening on {address.url} (cluster {self._cluster[:8]})")
        if not address.loopback and tls is None:
            self._say("WARNING: plain HTTP beyond loopback: tokens and images cross the network readable")
        if self._keys.weak:
            self._say(
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
        await self._leave()
        self._health.stop()
        self._election.stop()
        door.close()  # before the links: peers redial at once
        await self._links.close()
        await self._key_sync.stop()
        await self._routes.offer_channels.close()
        self._routes.active_requests.stop()
        await runner.cleanup()
        await self._keeper.stop()
        if self._usage:
            with suppress(OSError):
                data_directory.save_usage(self._config.data_dir, self._number, self._usage.written(0))
        self._say("stopped")

    def _save(self, epoch: Epoch) -> None:
        """Put the epoch on the disk. Raises OSError, also at once where the disk would keep us waiting."""
        if not self._health.disk_answers:
            raise OSError(errno.ETIMEDOUT, "the disk does not answer")
        data_directory.save_epoch(self._config.data_dir, self._number, epoch)

    def _sealed(self, key_id: str) -> None:
        self._usage.record(key_id)
        self._advise(key_id)

    def _wrapped(self, key_id: str) -> None:
        self._usage.wrap(key_id)
        self._advise(key_id)

    def _advise(self, key_id: str) -> None:
        if advice := self._usage.due(key_id):
            self._say(f"WARNING: {advice}")

    def _save_usage(self, text: bytes) -> None:
        """In a thread: it is written long before it is needed."""
        saving = asyncio.get_running_loop().run_in_executor(
            None, data_directory.save_usage, self._config.data_dir, self._number, text
        )
        saving.add_done_callback(lambda saved: saved.cancelled() or saved.exception())

    def _observe_vault(self, reason: str, suspicion: str) -> None:
        degraded = self._health.degraded
        self._health.observe("vault", not reason, reason)
        self._health.note("vault", suspicion)
        if self._health.degraded != degraded:  # before a degraded leader takes this node for a better one
            self._election.send_load()

    def _lost(self, peer: int) -> None:
        self._scheduler.lost(peer)
        self._key_sync.lost(peer)
        self._election.lost(peer)

    def _report_soon(self) -> None:
        """Tell the leader that our load has changed, where it matters: once for all changes of the next moment."""
        if self._config.balance == "least-loaded" and self._reporting is None:
            pause = report_pause(len(self._config.addresses))
            self._reporting = asyncio.get_running_loop().call_later(pause, self._report)

    def _report(self) -> None:
        self._reporting = None
        self._election.send_load()

    async def _leave(self) -> None:
        """Resign, decline what is new, finish what was granted."""
        self._admission.drain()
        self._health.drain()
        await self._links.flush()
        started = time.monotonic()
        while (waited := time.monotonic() - started) < self._config.drain_timeout:
            unused = self._admission.outstanding() if waited < UNUSED_GRANTS else 0
            if not (self._load.in_flight or unused):
                return
            await asyncio.sleep(0.02)
        self._say(f"{self._load.in_flight} images were still in work when the time to leave was over")


def _keys(config: Config) -> Keys:
    """The keyring; where no other machine could have one, it is made, but never beside a vault in use."""
    alone, path = _on_one_machine(config), config.data_dir / "keyring.json"
    if alone and not path.exists():
        try:
            asyncio.run(check_unused(config.vault_url, config.data_dir))
        except SafelightError:
            if not path.exists():  # else another node has made it meanwhile, and begun the vault
                raise
    return data_directory.load_keys(config.data_dir, create=alone, wrapper=wrapper_of(config))


def _on_one_machine(config: Config) -> bool:
    return all(address.loopback for address in config.addresses.values())


def _stop_event(until_eof: bool) -> asyncio.Event:
    """Set by the first signal; a second one ends the process at once."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def told() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, told)
    if until_eof:
        descriptor = sys.stdin.fileno()

        def readable() -> None:
            if not os.read(descriptor, 4096):
                loop.remove_reader(descriptor)
                stop.set()

        loop.add_reader(descriptor, readable)
    return stop


def _listen(address: Address) -> socket.socket:
    """A socket bound to what the host's name means here, on loopback if and only if the configuration says so: whether
    enrolment is open and plain HTTP will do depends on what it says.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise CannotServe(f"{address.host} is no address of this machine: {error.strerror}") from None
    fitting = [each for each in found if _is_loopback(each[4]) == address.loopback]
    if not fitting:
        means = ", ".join(sorted({str(each[4][0]) for each in found}))
        if address.loopback:
            raise CannotServe(
                f"{address.host} means {means} here, beyond loopback: correct /etc/hosts, or write 127.0.0.1"
            )
        raise CannotServe(
            f"{address.host} means {means} here, so that no other machine could reach this node: correct /etc/hosts, "
            "or write this machine's own address in servers; for nodes on this machine alone, write 127.0.0.1"
        )
    family, kind, protocol, _, where = fitting[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(where)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise CannotServe(
                f"port {address.port} is already in use: stop what listens there, "
                "or choose other ports with --base-port or --servers"
            ) from None
        raise CannotServe(f"cannot listen on {address.netloc}: {error.strerror}") from None
    return listener


def _is_loopback(where: tuple[Any, ...]) -> bool:
    """Whether a socket's address can be reached from this machine alone, also as an IPv4 address within IPv6."""
    host = ipaddress.ip_address(where[0])
    return (getattr(host, "ipv4_mapped", None) or host).is_loopback


def _server_tls(config: Config, address: Address) -> ssl.SSLContext | None:
    """The context for serving at this address; None where `servers` says http://, and may."""
    if config.tls_certificate is None or config.tls_key is None:
        if address.scheme == "https":
            plain = "; or without https:// in servers say --insecure-http, if tokens and images may cross it readable"
            raise CannotServe(
                f"{address.url} needs a certificate: set tls_certificate and tls_key{'' if address.loopback else plain}"
            )
        check_plain_http(config, address)
        return None
    if address.scheme == "http":
        raise CannotServe(
            f"{address.url} would be plain HTTP, and this node has a tls_certificate: write https:// in servers, "
            "or set no tls_certificate"
        )
    return server_tls(config.tls_certificate, config.tls_key)
