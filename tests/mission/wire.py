"""What goes over the wire to each node, seen from between the client and the nodes.

Each node keeps listening where it does, on 127.0.0.1. In front of each stands a relay on 127.0.0.2 with the same
port, and the client is told of the relays only. Addresses are said within the conversation, too (in `Host`, in
grants, in `Location`), so the relays exchange the one for the other, which is as long. Otherwise bytes pass as
they are, and those for the nodes are kept.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import msgspec

from safelight.config import Config

ENOUGH = 100
"""Uploads of one session within which its lines stand, however slow the machine is."""

NODE, RELAY = b"127.0.0.1:", b"127.0.0.2:"


@dataclass
class Wire:
    """`connections[node]`: for each connection to the node, everything that was sent to it."""

    config: Config
    """For the clients: the relays are the servers."""

    connections: dict[int, list[bytearray]] = field(default_factory=dict)

    def count(self) -> dict[int, int]:
        """How many connections each node has been opened."""
        return {node: len(sent) for node, sent in self.connections.items()}

    def sent_to(self, node: int) -> bytes:
        return b"".join(self.connections[node])

    def posts(self) -> int:
        """How many offers did not go over a line."""
        return sum(self.sent_to(node).count(b"POST /v1/offers") for node in self.connections)


@contextmanager
def watched(config: Config) -> Iterator[Wire]:
    """Relays before all nodes of a configuration. Raises OSError where 127.0.0.2 is no address."""
    addresses = config.addresses.values()
    wire = Wire(msgspec.structs.replace(config, servers=tuple(f"127.0.0.2:{each.port}" for each in addresses)))
    with ExitStack() as stack:
        for node, address in config.addresses.items():
            wire.connections[node] = []
            listener = stack.enter_context(socket.create_server(("127.0.0.2", address.port)))
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            _thread(_accept, listener, address.port, wire.connections[node])
        yield wire


def _accept(listener: socket.socket, port: int, connections: list[bytearray]) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        sent = bytearray()
        connections.append(sent)
        try:
            node = socket.create_connection(("127.0.0.1", port))
        except OSError:
            client.close()
            continue
        _thread(_relay, client, node, RELAY, NODE, sent)
        _thread(_relay, node, client, NODE, RELAY, None)


def _relay(source: socket.socket, sink: socket.socket, old: bytes, new: bytes, record: bytearray | None) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 18):
            if record is not None:
                record += data
            sink.sendall(data.replace(old, new))
    for each in (source, sink):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _thread(target: object, *arguments: object) -> None:
    threading.Thread(target=target, args=arguments, daemon=True).start()  # type: ignore[arg-type]
