"""Which cluster keys this node lacks and its peers have, and the reverse: a peer gets the keys that it lacks.

Peers tell their key ids in the handshake. Who sees that another lacks a key sends it the order of which `keys rotate`
is made (`orders.AddKey`); it may come twice, which does no harm. A node that was away during a rotation, or was
restored with an old keyring, so gets what it missed without its operator. Until then another node had better lead, and
what this one cannot read, it does not take for damaged.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from safelight.config import Address
from safelight.decoding import Malformed, decode
from safelight.encryption.keys import ClusterKey
from safelight.errors import SafelightError
from safelight.node.election.handshake import Hello
from safelight.node.state.key_file import Keys
from safelight.runtime.http import aiohttp
from safelight.wire import signed
from safelight.wire.admin_commands import KEY, LIFETIME, add_key_command, read_acknowledgement
from safelight.wire.messages import API, MAX_JSON, CommandResult, Problem, Refusal

INTERVAL = 0.5
"""Seconds between two looks at who lacks what: a key may have come by an order, or by the keyring's file."""

AGAIN = 5.0
"""Seconds until what has failed is tried again."""


class KeySharing:
    """One node's part in it. On the event loop only."""

    def __init__(
        self,
        node: int,
        keys: Keys,
        addresses: Mapping[int, Address],
        *,
        tls: ssl.SSLContext | None,
        observe: Callable[[str], None],
        say: Callable[[str], None],
    ) -> None:
        """`observe` gets, at each look, which keys this node lacks, in words; empty if none."""
        self._node, self._keys, self._tls = node, keys, tls
        self._addresses = {each: address for each, address in addresses.items() if each != node}
        self._observe, self._say = observe, say
        self._told: set[str] = set()  # keys that are in use, or were, as any peer reports
        self._hellos: dict[int, Hello] = {}  # of the peers that have been met, the latest
        self._owed: dict[int, list[ClusterKey]] = {}  # what a peer lacked when it was linked, and has not got since
        self._after: dict[int, float] = {}  # when a node may be tried again
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIFETIME))
        self._start(self._keep_looking())

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    def introduced(self, peer: Hello) -> None:
        """A peer has proved itself, and told its keys."""
        ours = {key.id for key in self._keys.ring.keys}
        for who, missing in ((peer.node, ours - {*peer.keys}), (self._node, {*peer.keys} - ours)):
            if missing:
                self._say(f"node {who} does not have the key {_list(missing)}: its peers give it to it")
        self._hellos[peer.node] = peer
        self._owed[peer.node] = [key for key in self._keys.ring.keys if key.id not in peer.keys]
        self._after.pop(peer.node, None)
        # What comes after the current key is of a rotation that is not finished: nothing is sealed with it.
        self._told |= {*peer.keys[: peer.keys.index(peer.current) + 1]} if peer.current in peer.keys else {*peer.keys}
        self._look()

    def lost(self, peer: int) -> None:
        """There is no link to this peer."""
        self._owed.pop(peer, None)

    def lacks(self, key_id: str) -> bool:
        """Whether a peer has told of this key, and this node does not have it."""
        return key_id in self._told and self._keys.ring.find(key_id) is None

    def may_lack(self, key_id: str) -> bool:
        """Whether a peer may have this key, which this node does not have: one that was not met yet is not known."""
        return self.lacks(key_id) or (self._keys.ring.find(key_id) is None and len(self._hellos) < len(self._addresses))

    def refusal(self, key_id: str) -> Refusal:
        """What to say to a client that wants what is sealed with a key that this node lacks."""
        return Refusal(
            Problem.LACKS_KEY,
            f"node {self._node} does not have the key {key_id} yet: ask another node, or try again",
            node=self._node,
        )

    # -- looking -------------------------------------------------------------------------------------

    async def _keep_looking(self) -> None:
        while True:
            self._look()
            self._use_what_peers_use()
            for peer, keys in self._owed.items():
                if keys and self._may_try(peer):
                    self._start(self._give(peer, keys))
            await asyncio.sleep(INTERVAL)

    def _look(self) -> None:
        missing = {key for key in self._told if self._keys.ring.find(key) is None}
        self._observe(f"it lacks the key {_list(missing)}, which its peers have" if missing else "")

    def _may_try(self, node: int) -> bool:
        now = time.monotonic()
        if now < self._after.get(node, 0.0):
            return False
        self._after[node] = now + AGAIN
        return True

    def _use_what_peers_use(self) -> None:
        """A peer may have been told to use a key while this node was away."""
        ids = [key.id for key in self._keys.ring.keys]
        used = max((ids.index(hello.current) for hello in self._hellos.values() if hello.current in ids), default=0)
        if used > ids.index(self._keys.ring.current_id) and self._may_try(self._node):
            self._start(self._use(ids[used]))

    async def _use(self, key: str) -> None:
        try:
            if await asyncio.to_thread(self._keys.use, key):
                self._say(f"new images are sealed with the key {key}, as its peers do")
        except SafelightError as error:
            self._say(str(error))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- giving --------------------------------------------------------------------------------------

    async def _give(self, peer: int, keys: list[ClusterKey]) -> None:
        """Give a peer the keys that it lacks, the oldest first; those that it has are taken off the list."""
        while keys:
            key = keys[0]
            try:
                await self._order(peer, key)
            except (SafelightError, aiohttp.ClientError, OSError, TimeoutError, Malformed) as error:
                self._say(f"node {peer} did not take the key {key.id}: {error or type(error).__name__}")
                return
            self._say(f"node {peer} has the key {key.id} now")
            keys.remove(key)

    async def _order(self, peer: int, key: ClusterKey) -> None:
        """Return when the peer has the key on its disk. Raises SafelightError, and what a broken connection raises."""
        ring = self._keys.ring
        order = add_key_command(key, ring, peer, time.time() + LIFETIME, secrets.token_hex(8))
        headers = {"Authorization": f"Order {signed.write(order, ring.derive(KEY))}"}
        url = f"{self._addresses[peer].url}{API}/orders"
        async with self._session.post(url, headers=headers, ssl=self._tls or True, allow_redirects=False) as response:
            body = await response.content.read(MAX_JSON)
            if response.status != 200:
                raise SafelightError(f"it answers with status {response.status}")
        read_acknowledgement(decode(body, CommandResult).answer, order, ring)


def _list(keys: set[str]) -> str:
    return " and ".join(sorted(keys))
