"""Key synchronization: a node sends its peers the cluster keys that they lack, and receives those that it lacks.

Peers exchange their key ids in the handshake. A node that sees that a peer lacks a key sends it the admin command that
`keys rotate` uses (`admin_commands.AddKey`). The peer may receive it more than once, which does no harm. So a node that
was down during a rotation, or was restored with an old keyring, gets the keys that it missed without an operator. Until
then the node is ineligible, and it does not treat what it cannot decrypt as damaged.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from safelight.config import Address
from safelight.decoding import Malformed, decode
from safelight.encryption.keys import ClusterKey
from safelight.errors import SafelightError
from safelight.node.election.handshake import Hello
from safelight.node.state.key_file import Keys
from safelight.runtime.http import aiohttp
from safelight.runtime.tasks import cancel
from safelight.wire import signed
from safelight.wire.admin_commands import KEY, LIFETIME, add_key_command, read_acknowledgement
from safelight.wire.messages import API, MAX_JSON, CommandResult, Problem, Refusal

INTERVAL = 0.5
"""Seconds between two checks: a key may have come with an admin command, or in the keyring's file."""

RETRY_AFTER = 5.0
"""Seconds until a failed attempt is repeated."""


class FaultObserver(Protocol):
    """Learns whether a component has a fault (`HealthMonitor`)."""

    def observe(self, component: str, fault: str) -> None: ...


class KeySync:
    """The key synchronization of one node. On the event loop only."""

    def __init__(
        self,
        node: int,
        keys: Keys,
        addresses: Mapping[int, Address],
        *,
        tls: ssl.SSLContext | None,
        health: FaultObserver,
        log: Callable[[str], None],
    ) -> None:
        self._node, self._keys, self._tls = node, keys, tls
        self._addresses = {each: address for each, address in addresses.items() if each != node}
        self._health, self._log = health, log
        self._reported: set[str] = set()  # keys that a peer uses, or has used
        self._hellos: dict[int, Hello] = {}  # the latest of each peer that has connected
        self._owed: dict[int, list[ClusterKey]] = {}  # what a peer lacked when it connected, and has not received since
        self._after: dict[int, float] = {}  # when the next attempt at a node is due
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIFETIME))
        self._start(self._keep_checking())

    async def stop(self) -> None:
        await cancel(*self._tasks)
        await self._session.close()

    def introduced(self, peer: Hello) -> None:
        """A peer has authenticated, and sent its key ids."""
        ours = {key.id for key in self._keys.ring.keys}
        for who, missing in ((peer.node, ours - {*peer.keys}), (self._node, {*peer.keys} - ours)):
            if missing:
                self._log(f"node {who} does not have the key {_list(missing)}: its peers send it")
        self._hellos[peer.node] = peer
        self._owed[peer.node] = [key for key in self._keys.ring.keys if key.id not in peer.keys]
        self._after.pop(peer.node, None)
        # Keys after the current one belong to an unfinished rotation: nothing is encrypted with them.
        self._reported |= (
            {*peer.keys[: peer.keys.index(peer.current) + 1]} if peer.current in peer.keys else {*peer.keys}
        )
        self._check()

    def lost(self, peer: int) -> None:
        """There is no link to this peer."""
        self._owed.pop(peer, None)

    def lacks(self, key_id: str) -> bool:
        """Whether a peer has reported this key, and this node does not have it."""
        return key_id in self._reported and self._keys.ring.find(key_id) is None

    def may_lack(self, key_id: str) -> bool:
        """Whether a peer may have this key, which this node lacks: the keys of a peer are unknown until it connects."""
        return self.lacks(key_id) or (self._keys.ring.find(key_id) is None and len(self._hellos) < len(self._addresses))

    def refusal(self, key_id: str) -> Refusal:
        """The refusal for a client that requests an image encrypted with a key that this node lacks."""
        return Refusal(
            Problem.LACKS_KEY,
            f"node {self._node} does not have the key {key_id} yet: ask another node, or try again",
            node=self._node,
        )

    # -- checking ------------------------------------------------------------------------------------

    async def _keep_checking(self) -> None:
        while True:
            self._check()
            self._use_what_peers_use()
            for peer, keys in self._owed.items():
                if keys and self._may_try(peer):
                    self._start(self._send_keys(peer, keys))
            await asyncio.sleep(INTERVAL)

    def _check(self) -> None:
        missing = {key for key in self._reported if self._keys.ring.find(key) is None}
        self._health.observe("key", f"it lacks the key {_list(missing)}, which its peers have" if missing else "")

    def _may_try(self, node: int) -> bool:
        now = time.monotonic()
        if now < self._after.get(node, 0.0):
            return False
        self._after[node] = now + RETRY_AFTER
        return True

    def _use_what_peers_use(self) -> None:
        """A peer may have received the command to use a key while this node was down."""
        ids = [key.id for key in self._keys.ring.keys]
        used = max((ids.index(hello.current) for hello in self._hellos.values() if hello.current in ids), default=0)
        if used > ids.index(self._keys.ring.current_id) and self._may_try(self._node):
            self._start(self._use(ids[used]))

    async def _use(self, key: str) -> None:
        try:
            if await asyncio.to_thread(self._keys.use, key):
                self._log(f"new images are sealed with the key {key}, as its peers do")
        except SafelightError as error:
            self._log(str(error))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- sending -------------------------------------------------------------------------------------

    async def _send_keys(self, peer: int, keys: list[ClusterKey]) -> None:
        """Send a peer the keys that it lacks, the oldest first; each that it has stored leaves the list."""
        while keys:
            key = keys[0]
            try:
                await self._send_key(peer, key)
            except (SafelightError, aiohttp.ClientError, OSError, TimeoutError, Malformed) as error:
                self._log(f"node {peer} did not take the key {key.id}: {error or type(error).__name__}")
                return
            self._log(f"node {peer} has the key {key.id} now")
            keys.remove(key)

    async def _send_key(self, peer: int, key: ClusterKey) -> None:
        """Return when the peer has stored the key. Raises SafelightError, and the errors of a failed connection."""
        ring = self._keys.ring
        command = add_key_command(key, ring, peer, time.time())
        headers = {"Authorization": f"Order {signed.write(command, ring.derive(KEY))}"}
        url = f"{self._addresses[peer].url}{API}/orders"
        async with self._session.post(url, headers=headers, ssl=self._tls or True, allow_redirects=False) as response:
            body = await response.content.read(MAX_JSON)
            if response.status != 200:
                raise SafelightError(f"it answers with status {response.status}")
        read_acknowledgement(decode(body, CommandResult).answer, command, ring)


def _list(keys: set[str]) -> str:
    return " and ".join(sorted(keys))
