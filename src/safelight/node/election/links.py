"""Links between nodes: each node dials every other and sends on the link that it dialed.

So a pair of nodes has two links, one for each direction, and no node has to decide which of two to keep.
A link is a WebSocket (RFC 6455). When it breaks, one quick reconnect tells a dead peer from a broken
connection: the operating system refuses a dead process's port at once, so a killed node is known as such
within milliseconds. The election detects a peer that hangs; the link's own ping only closes
connections that a cut cable left open.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from safelight.config import Address
from safelight.decoding import Malformed, decode
from safelight.node.connections.http_connection import HttpConnection, proved_peer
from safelight.node.election.handshake import Hello, PeerIdentity, Proof, Refused
from safelight.runtime.http import aiohttp, web
from safelight.runtime.network_errors import why_unreachable
from safelight.runtime.tasks import cancel
from safelight.wire.messages import API

PATH = f"{API}/peer"
FIRST_BACKOFF, LONGEST_BACKOFF = 0.05, 1.0
"""Seconds between attempts to reach a peer that is down; a peer that starts dials this node anyway."""

MAX_QUEUED = 1000
"""Frames that wait to be sent to a peer; those beyond are dropped."""

MAX_FRAME = 1 << 20
"""Bytes; a leader's heartbeat carries the loads of all nodes, some 150 bytes each."""

MAX_HANDSHAKE = 1 << 16
"""Bytes that a peer may send before it has proved itself; a Hello with as many keys as a keyring holds has a third."""

MAX_UNPROVED = 32
"""Peers that have not proved themselves yet, at a time; a handshake takes one round trip."""

MAX_REASON = 200
"""Characters of a refusal that are shown."""

UNKNOWN, MAX_LOGGED = 0, 20
"""The peer number of a dialer that has not proved which node it is; different errors that are logged of one peer until
it is linked."""

Frame = bytes


class KeyExchange(Protocol):
    """Learns which keys peers have (`KeySync`)."""

    def introduced(self, peer: Hello) -> None: ...

    def lost(self, peer: int) -> None: ...


class LinkListener(Protocol):
    """Learns what happens on the links (`ElectionDriver`). Called on the event loop."""

    def connected(self, peer: int, incarnation: str) -> None: ...

    def lost(self, peer: int) -> None: ...

    def received(self, peer: int, frame: Frame) -> None: ...


class Links:
    """All links of one node. Reports to the election on the event loop."""

    def __init__(
        self,
        identity: PeerIdentity,
        addresses: Mapping[int, Address],
        *,
        timeout: float,
        tls: ssl.SSLContext | None,
        key_exchange: KeyExchange,
        log: Callable[[str], None],
    ) -> None:
        """`timeout`: seconds that a handshake may take, and that a link may leave a ping unanswered."""
        self._identity = identity
        self._addresses = {node: address for node, address in addresses.items() if node != identity.node}
        self._timeout = timeout
        self._tls = tls
        self._key_exchange, self._log = key_exchange, log
        self._outgoing: dict[int, asyncio.Queue[Frame]] = {}
        self._incoming: set[web.WebSocketResponse] = set()
        self._unproved: dict[HttpConnection, None] = {}  # the oldest first
        self._redial = {node: asyncio.Event() for node in self._addresses}
        self._closed: set[int] = set()  # peers whose own link to this node ended, and that it has not reached since
        self._logged: dict[int, set[str]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def bind(self, listener: LinkListener) -> None:
        """Report to this listener. To be called once, before anything else."""
        self._listener = listener

    def start(self) -> None:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        self._tasks = [asyncio.create_task(self._keep_link(node)) for node in self._addresses]

    async def close(self) -> None:
        await cancel(*self._tasks)
        await asyncio.gather(*(socket.close() for socket in set(self._incoming)))
        await self._session.close()

    async def flush(self) -> None:
        """Return when what was sent so far has been handed to the operating system."""
        await asyncio.gather(*(queue.join() for queue in self._outgoing.values()))

    def send(self, peer: int, frame: Frame) -> None:
        """Queue a frame. A peer that is not linked, or does not read, does not get it."""
        queue = self._outgoing.get(peer)
        if queue is not None and not queue.full():
            queue.put_nowait(frame)

    # -- the links that this node dials --------------------------------------------------------------

    async def _keep_link(self, peer: int) -> None:
        backoff, was_up = FIRST_BACKOFF, False
        while True:
            self._redial[peer].clear()
            try:
                async with await self._dial(peer) as socket:
                    backoff, was_up = FIRST_BACKOFF, True
                    await self._send_queued(peer, socket)
                continue  # it broke: reconnect at once, and only then believe that the peer is lost
            except Refused as refusal:
                self._log_once(peer, f"no link to node {peer}: {refusal}")
                backoff = LONGEST_BACKOFF
            except (aiohttp.ClientSSLError, aiohttp.WSServerHandshakeError) as error:
                self._log_once(peer, f"no link to node {peer}: {why_unreachable(error)}")
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass  # it is down, and dials this node when it is up
            if was_up or peer in self._closed:
                self._closed.discard(peer)
                self._key_exchange.lost(peer)
                self._listener.lost(peer)
                was_up = False
            spread = random.uniform(0.75, 1.25)  # noqa: S311 — so that nodes do not dial in step
            await self._pause(peer, backoff * spread)
            backoff = min(2 * backoff, LONGEST_BACKOFF)

    async def _pause(self, peer: int, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._redial[peer].wait()
        except TimeoutError:
            pass

    async def _dial(self, peer: int) -> aiohttp.ClientWebSocketResponse:
        async with asyncio.timeout(self._timeout):
            socket = await self._session.ws_connect(
                self._addresses[peer].url + PATH,
                ssl=self._tls or True,
                heartbeat=self._timeout,
                max_msg_size=MAX_FRAME,
                compress=0,
            )
            try:
                hello = self._identity.hello()
                await socket.send_bytes(msgspec.json.encode(hello))
                answer = await socket.receive()
                if answer.type is not aiohttp.WSMsgType.BINARY:
                    if socket.closed:
                        raise ConnectionResetError  # it died; that needs no line in the log
                    raise Refused("what answers there is not a node")
                theirs = _decode(answer.data)
                if isinstance(theirs, Proof):
                    raise Refused(_reason(theirs))
                try:
                    if theirs.node != peer:
                        raise Refused(f"at {self._addresses[peer].netloc} node {theirs.node} answers")
                    self._identity.compare(theirs)
                    self._identity.check(theirs.proof, "acceptor", hello, theirs)
                except Refused as refusal:
                    await socket.send_bytes(msgspec.json.encode(Proof(refused=str(refusal))))
                    raise
                proof = self._identity.proof("dialer", hello, theirs)
                await socket.send_bytes(msgspec.json.encode(Proof(proof=proof)))
            except BaseException:
                await socket.close()
                raise
        self._logged.pop(peer, None)
        self._closed.discard(peer)
        self._outgoing[peer] = asyncio.Queue(MAX_QUEUED)
        self._key_exchange.introduced(theirs)
        self._listener.connected(peer, theirs.incarnation)
        return socket

    async def _send_queued(self, peer: int, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Send what is queued until the link breaks; only its end is ever received on it."""
        queue = self._outgoing[peer]

        async def write() -> None:
            while True:
                frame = await queue.get()
                try:
                    await socket.send_bytes(frame)
                finally:
                    queue.task_done()

        writer = asyncio.create_task(write())
        try:
            ended = asyncio.create_task(socket.receive())
            await asyncio.wait({writer, ended}, return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
        finally:
            writer.cancel()
            del self._outgoing[peer]
            while not queue.empty():  # `flush` must not wait for what can no longer be sent
                queue.get_nowait()
                queue.task_done()

    # -- the links that others dial ------------------------------------------------------------------

    async def accept(self, request: web.Request) -> web.StreamResponse:
        """The handler of `PATH`: let the dialer prove itself, then receive its messages."""
        socket = web.WebSocketResponse(
            timeout=self._timeout, heartbeat=self._timeout, max_msg_size=MAX_FRAME, compress=False
        )
        self._incoming.add(socket)
        connection = request.protocol
        assert isinstance(connection, HttpConnection)
        connection.allow(MAX_HANDSHAKE)
        self._bound(connection)
        try:
            await socket.prepare(request)
            async with asyncio.timeout(self._timeout):
                peer = await self._examine(socket)
            proved_peer(request)
            self._unproved.pop(connection, None)
            connection.allow(None)
            self._logged.pop(UNKNOWN, None)
            self._redial[peer].set()
            try:
                async for message in socket:
                    if message.type is aiohttp.WSMsgType.BINARY:
                        self._listener.received(peer, message.data)
            finally:
                if peer not in self._outgoing:  # else the link that this node dialed shows whether the peer is alive
                    self._closed.add(peer)
                    self._redial[peer].set()
        except (TimeoutError, ConnectionError):
            if not socket.prepared:  # it cannot be the answer
                raise
        except Refused as refusal:
            self._log_once(UNKNOWN, f"refused a link: {refusal}")
        finally:
            self._incoming.discard(socket)
            if socket.prepared:  # else it was no request for a link: the connection continues with HTTP
                await socket.close()
            self._unproved.pop(connection, None)
            connection.allow(None)
        return socket

    def _bound(self, connection: HttpConnection) -> None:
        """Bound what peers cost before they have proved themselves. Beyond the limit, the oldest connection from the
        address with the most is closed: a node needs only a moment.
        """
        if len(self._unproved) >= MAX_UNPROVED:
            (crowd, _), *_ = Counter(each.entry.address for each in self._unproved).most_common(1)
            oldest = next(each for each in self._unproved if each.entry.address == crowd)
            del self._unproved[oldest]
            oldest.abort()
        self._unproved[connection] = None

    async def _examine(self, socket: web.WebSocketResponse) -> int:
        """The node at the other end. Raises Refused."""
        theirs = _decode(await _receive(socket))
        try:
            if not isinstance(theirs, Hello):
                raise Refused("it sent no introduction")
            self._identity.compare(theirs)
            if theirs.node not in self._addresses:
                raise Refused(f"node {theirs.node} is not in the configuration of node {self._identity.node}")
            ours = self._identity.hello()
            ours.proof = self._identity.proof("acceptor", theirs, ours)
            await socket.send_bytes(msgspec.json.encode(ours))
            proof = _decode(await _receive(socket))
            if not isinstance(proof, Proof) or proof.refused:
                raise Refused(_reason(proof) if isinstance(proof, Proof) else "it did not prove itself")
            self._identity.check(proof.proof, "dialer", theirs, ours)
        except Refused as refusal:
            await socket.send_bytes(msgspec.json.encode(Proof(refused=str(refusal))))
            raise
        return theirs.node

    def _log_once(self, peer: int, error: str) -> None:
        """Log an error once, not at every attempt; and not without limit, as unknown dialers choose the text."""
        logged = self._logged.setdefault(peer, set())
        if error not in logged and len(logged) < MAX_LOGGED:
            logged.add(error)
            self._log(error)


async def _receive(socket: web.WebSocketResponse) -> bytes:
    message = await socket.receive()
    if message.type is not aiohttp.WSMsgType.BINARY:
        raise Refused("it closed the connection during the handshake")
    return bytes(message.data)


def _reason(refusal: Proof) -> str:
    """Why the other side refused: its own text, which is not trusted."""
    words = refusal.refused[:MAX_REASON]
    return words if words and words.isprintable() else "it refused without a reason"


def _decode(data: bytes) -> Hello | Proof:
    with contextlib.suppress(Malformed):
        return decode(data, Hello)
    with contextlib.suppress(Malformed):
        proof = decode(data, Proof)
        if proof.proof or proof.refused:  # any object decodes, as unknown fields are ignored
            return proof
    raise Refused("what it sends is not a node's handshake")
