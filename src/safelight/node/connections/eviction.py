"""How many connections a node has, and which one it closes (evicts) to accept a new one.

A new connection is always accepted, as nobody can tell yet whose it is: a peer's, the operator's, a health check's, or
the thousandth of a client that never says a word. Where there are too many, another is closed for it (eviction):

- Strangers are connections without an authenticated request so far. The one that has been idle longest is closed. One
  address (for IPv6: one /64 network) has at most half of all connections, so that it evicts its own first.
- Users' connections have had a valid token or ticket. Strangers never evict one. Together they are at most three
  quarters of all; beyond that the user with the most loses the one that has been idle longest.
- Authenticated peers are not counted, and never closed here.

So every new connection is accepted, at any time, and stays at least until as many others have arrived as the node has:
a request moves its connection to the end of the queue.

Without I/O: `Listener` accepts.
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

FIRST_HEAD = 10.0
"""Seconds from accept(2) until the head of the first request is complete; the TLS handshake has as long."""

MOST = 4096
"""Connections of one node at most; each costs some 15 KiB, and as much in the kernel."""

WORKING = 1024
"""File descriptors that a node needs at most beside connections: bodies, spools, files that are sent, peers, itself.
At most half of the process's limit.
"""

ITSELF = 64
"""File descriptors of an idle node."""

CALM = 30.0
"""Seconds without an eviction after which the crowd counts as gone."""


def most_of(descriptors: int) -> int:
    """How many connections a node with so many file descriptors has."""
    return max(8, min(MOST, max((descriptors - ITSELF) // 2, descriptors - WORKING)))


class TrackedConnection:
    """One connection in a `ConnectionTable`. `close` closes it at once."""

    def __init__(self, connections: ConnectionTable, address: str, close: Callable[[], None], opened: float) -> None:
        self._connections = connections
        self.address = address
        self.close = close
        self.opened = opened
        self.spoke = False  # the head of a request has arrived
        self.busy = 0  # active requests; several if they are the offers of a WebSocket
        self.user: str | None = None

    def began(self) -> None:
        """A request has started: its head is complete."""
        self.spoke = True
        self.busy += 1
        self._connections.touch(self)

    def ended(self) -> None:
        """A request has ended, or waits for input, as a WebSocket does."""
        self.busy -= 1

    def belongs_to(self, user: str) -> None:
        """A request of this user was authenticated."""
        self._connections.authenticated(self, user)

    def is_a_peers(self) -> None:
        """The connection is to a node of the cluster."""
        self._connections.closed(self)

    def closed(self) -> None:
        self._connections.closed(self)


class ConnectionTable:
    """All connections of one node."""

    def __init__(self, most: int, log: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        """At most `most`, peers not counted. `log` gets a line when there are too many, and when that is over. `clock`
        returns seconds.
        """
        self._most, self._log, self._clock = most, log, clock
        self._strangers: OrderedDict[TrackedConnection, None] = OrderedDict()  # both: the longest idle first
        self._users: OrderedDict[TrackedConnection, None] = OrderedDict()
        self._by_address: Counter[str] = Counter()
        self._by_user: Counter[str] = Counter()
        self._exhausted_at: float | None = None

    def __len__(self) -> int:
        return len(self._strangers) + len(self._users)

    def opened(self, peer: str, close: Callable[[], None]) -> TrackedConnection:
        """A connection from this IP address was accepted. It counts until `closed`; another may be evicted for it."""
        entry = TrackedConnection(self, _network(peer), close, self._clock())
        if self._by_address[entry.address] >= self._most // 2:
            self._evict_stranger(entry.address)
        elif len(self) >= self._most:
            self._evict_stranger()
        self._strangers[entry] = None
        self._by_address[entry.address] += 1
        return entry

    def closed(self, entry: TrackedConnection) -> None:
        """A connection has ended, or is a peer's. May be called again."""
        if entry in self._strangers:
            del self._strangers[entry]
            _decrement(self._by_address, entry.address)
        if entry in self._users:
            del self._users[entry]
            assert entry.user is not None
            _decrement(self._by_user, entry.user)

    def touch(self, entry: TrackedConnection) -> None:
        """The connection is used now."""
        for kind in (self._strangers, self._users):
            if entry in kind:
                kind.move_to_end(entry)

    def authenticated(self, entry: TrackedConnection, user: str) -> None:
        """A request of this user on the connection was authenticated."""
        if entry.user == user or (entry not in self._strangers and entry not in self._users):
            return
        self.closed(entry)
        if len(self._users) >= self._most * 3 // 4:
            self._evict_user()
        entry.user = user
        self._users[entry] = None
        self._by_user[user] += 1

    def out_of_descriptors(self) -> None:
        """The next connection cannot be accepted: close a quarter of the strangers, as the node itself needs files."""
        self._exhausted("this process has no free file descriptors")
        for entry in [*self._strangers][: len(self._strangers) // 4 + 1]:
            self._close(entry)

    def tick(self) -> None:
        """To be called about every second: close connections without a first request in time."""
        now = self._clock()
        for entry in [each for each in self._strangers if not each.spoke and now - each.opened >= FIRST_HEAD]:
            self._close(entry)
        if self._exhausted_at is not None and now - self._exhausted_at >= CALM:
            self._exhausted_at = None
            self._log("there are no longer too many connections")

    def _evict_stranger(self, address: str | None = None) -> None:
        """Close the stranger that has been idle longest: of all, or of this address."""
        for entry in self._strangers:
            if address is None or entry.address == address:
                self._exhausted(f"this node has at most {self._most}, half of them for one address")
                self._close(entry)
                return

    def _evict_user(self) -> None:
        """Close the connection that has been idle longest, of the user with the most; not a busy one, if possible."""
        self._exhausted(f"this node has at most {self._most}, three quarters of them for users")
        most = max(self._by_user, key=self._by_user.__getitem__)
        of_user = [entry for entry in self._users if entry.user == most]
        self._close(next((entry for entry in of_user if not entry.busy), of_user[0]))

    def _exhausted(self, reason: str) -> None:
        """Log this once until there is no eviction for `CALM`: clients decide how often it happens."""
        if self._exhausted_at is None:
            self._log(f"too many connections ({reason}): those that have been idle longest are closed")
        self._exhausted_at = self._clock()

    def _close(self, entry: TrackedConnection) -> None:
        self.closed(entry)
        entry.close()


def _network(peer: str) -> str:
    """What counts as one address: an IPv4 address, or the network of one IPv6 customer (RFC 6177)."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if address.version == 4:
        return peer
    return address.ipv4_mapped.compressed if address.ipv4_mapped else address.exploded[:19]


def _decrement(count: Counter[str], key: str) -> None:
    count[key] -= 1
    if not count[key]:
        del count[key]
