"""A small network of its own for a test: hosts with one address each, on cables, at a switch.

Each host is a network namespace (ip-netns(8)) and so is the switch, with a bridge in it. So nothing of it is to be
seen on the machine's own network, and whatever is on that does not disturb it.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

CLONE_NEWNET = 0x40000000  # setns(2); Python has os.setns since 3.12


class NoNetwork(Exception):
    """This machine, or this account, makes no network namespaces; the message says what is missing."""


class Network:
    """`cut` and `mend` the cables; what is started `inside` a host stays there."""

    def __init__(self, namespaces: dict[str, str], addresses: dict[str, str]) -> None:
        self._namespaces = namespaces
        self.addresses = addresses

    def cut(self, host: str) -> None:
        """Out of the switch with the host's cable: no connection ends, nothing is refused, there is only silence."""
        self._switch("link", "set", f"to-{host}", "down")

    def mend(self, host: str) -> None:
        self._switch("link", "set", f"to-{host}", "up")

    @contextmanager
    def inside(self, host: str) -> Iterator[None]:
        """This thread, and what it starts, is on that host."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            there = os.open(f"/run/netns/{self._namespaces[host]}", os.O_RDONLY)
            try:
                _enter(there)
            finally:
                os.close(there)
            try:
                yield
            finally:
                _enter(here)
        finally:
            os.close(here)

    def _switch(self, *command: str) -> None:
        _ip("-n", self._namespaces["switch"], *command)


@contextmanager
def network(*hosts: str) -> Iterator[Network]:
    """Hosts with these names, of some letters each. Raises NoNetwork."""
    if shutil.which("ip") is None:
        raise NoNetwork("there is no `ip` here: install iproute2")
    if os.geteuid() != 0:
        raise NoNetwork("only root may make network namespaces")
    run = f"safelight-{os.getpid()}-{secrets.token_hex(3)}"
    namespaces = {host: f"{run}-{host}" for host in ("switch", *hosts)}
    addresses = {host: f"10.0.0.{number}" for number, host in enumerate(hosts, start=1)}
    with ExitStack() as made:
        for namespace in namespaces.values():
            try:
                _ip("netns", "add", namespace)
            except subprocess.CalledProcessError as error:
                raise NoNetwork(f"this machine makes no network namespaces: {error.stderr.strip()}") from None
            made.callback(_ip, "netns", "delete", namespace)
            _ip("-n", namespace, "link", "set", "lo", "up")
        switch = namespaces["switch"]
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for host, address in addresses.items():
            there, port = namespaces[host], f"to-{host}"
            _ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", there)
            _ip("-n", switch, "link", "set", port, "master", "bridge", "up")
            _ip("-n", there, "address", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", there, "link", "set", "eth0", "up")
        yield Network(namespaces, addresses)


def _ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True, capture_output=True, text=True)


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
