"""Links between nodes: each node dials every other and speaks on the link that it dialed.

So a pair of nodes has two links, one for each direction, and nobody needs to decide which of two to keep.
A link is a WebSocket (RFC 6455). When it breaks, one quick reconnect tells a dead peer from a broken
connection: the operating system refuses a dead process's port at once, so a killed node is known as such
within milliseconds. A peer that hangs is the election's business; the link's own ping only clears away
connections that a cut cable left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections import Counter
from collections.abc import Callable, Mapping

import msgspec

from safelight.config import Address
from safelight.decoding import Malformed, decode
from safelight.node.connections.http_connection import HttpConnection, proved_peer
from safelight.node.election.handshake import Hello, Party, Proof, Refused
from safelight.runtime.http import aiohttp, web
from safelight.runtime.network_errors import why_unreachable
from safelight.wire.messages import API

PATH = f"{API}/peer"
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between attempts to reach a peer that is down; a peer that starts calls us anyway."""

QUEUE = 1000
"""Frames; a peer that leaves more unread has stopped reading, and its link is given up."""

MAX_FRAME = 1 << 20
"""Bytes; a leader's heartbeat tells the loads of all nodes, some 150 bytes each."""

HANDSHAKE = 1 << 16
"""Bytes that a peer may send before it has proved itself; a Hello with as many keys as a keyring holds has a third."""

UNPROVED = 32
"""Peers that have not proved themselves yet, at a time; a handshake takes one round trip."""

REASON = 200
"""Characters of a refusal that are shown."""

STRANGERS, COMPLAINTS = 0, 20
"""Whoever dials without proving which node it is; different complaints about one peer, until it is linked."""

Frame = bytes


class Links:
    """All links of one node. Calls back, on the event loop, with what the election wants to know."""

    def __init__(
        self,
        party: Party,
        addresses: Mapping[int, Address],
        *,
        patience: float,
        tls: ssl.SSLContext | None,
        introduced: Callable[[Hello], None],
        connected: Callable[[int, str], None],
        lost: Callable[[int], None],
        received: Callable[[int, Frame], None],
        say: Callable[[str], None],
    ) -> None:
        """`patience`: seconds that a handshake may take, and that a link may leave a ping unanswered.

        `introduced` gets what each peer that we have dialed, and that has proved itself, says of itself.
        """
        self._party = party
        self._addresses = {node: address for node, address in addresses.items() if node != party.node}
        self._patience = patience
        self._tls = tls
        self._introduced = introduced
        self._connected, self._lost, self._received, self._say = connected, lost, received, say
        self._outgoing: dict[int, asyncio.Queue[Frame]] = {}
        self._incoming: set[web.WebSocketResponse] = set()
        self._unproved: dict[HttpConnection, None] = {}  # the oldest first
        self._knock = {node: asyncio.Event() for node in self._addresses}
        self._hung_up: set[int] = set()  # whose own link to us ended, and whom we have not reached since
        self._complaints: dict[int, set[str]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        self._tasks = [asyncio.create_task(self._keep_link(node)) for node in self._addresses]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
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

    # -- the links that we dial ----------------------------------------------------------------------

    async def _keep_link(self, peer: int) -> None:
        pause, was_up = FIRST_PAUSE, False
        while True:
            self._knock[peer].clear()
            try:
                async with await self._dial(peer) as socket:
                    pause, was_up = FIRST_PAUSE, True
                    await self._speak(peer, socket)
                continue  # it broke: reconnect at once, and only then believe that the peer is lost
            except Refused as refusal:
                self._complain(peer, f"no link to node {peer}: {refusal}")
                pause = LONGEST_PAUSE
            except (aiohttp.ClientSSLError, aiohttp.WSServerHandshakeError) as error:
                self._complain(peer, f"no link to node {peer}: {why_unreachable(error)}")
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass  # it is down, and will call us when it is up
            if was_up or peer in self._hung_up:
                self._hung_up.discard(peer)
                self._lost(peer)
                was_up = False
            await self._pause(peer, pause * random.uniform(0.75, 1.25))
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _pause(self, peer: int, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._knock[peer].wait()
        except TimeoutError:
            pass

    async def _dial(self, peer: int) -> aiohttp.ClientWebSocketResponse:
        async with asyncio.timeout(self._patience):
            socket = await self._session.ws_connect(
                self._addresses[peer].url + PATH,
                ssl=self._tls or True,
                heartbeat=self._patience,
                max_msg_size=MAX_FRAME,
                compress=0,
            )
            try:
                hello = self._party.hello()
                await socket.send_bytes(msgspec.json.encode(hello))
                answer = await socket.receive()
                if answer.type is not aiohttp.WSMsgType.BINARY:
                    if socket.closed:
                        raise ConnectionResetError  # it died; who goes away without a word needs no complaint
                    raise Refused("what answers there is not a node")
                theirs = _decode(answer.data)
                if isinstance(theirs, Proof):
                    raise Refused(_reason(theirs))
                try:
                    if theirs.node != peer:
                        raise Refused(f"at {self._addresses[peer].netloc} node {theirs.node} answers")
                    self._party.compare(theirs)
                    self._party.check(theirs.proof, "acceptor", hello, theirs)
                except Refused as refusal:
                    await socket.send_bytes(msgspec.json.encode(Proof(refused=str(refusal))))
                    raise
                proof = self._party.proof("dialer", hello, theirs)
                await socket.send_bytes(msgspec.json.encode(Proof(proof=proof)))
            except BaseException:
                await socket.close()
                raise
        self._complaints.pop(peer, None)
        self._hung_up.discard(peer)
        self._outgoing[peer] = asyncio.Queue(QUEUE)
        self._introduced(theirs)
        self._connected(peer, theirs.life)
        return socket

    async def _speak(self, peer: int, socket: aiohttp.ClientWebSocketResponse) -> None:
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
            while not queue.empty():  # let nobody wait in `flush` for what can no longer be sent
                queue.get_nowait()
                queue.task_done()

    # -- the links that others dial ------------------------------------------------------------------

    async def accept(self, request: web.Request) -> web.StreamResponse:
        """The handler of `PATH`: believe the dialer if it proves itself, then listen to it."""
        socket = web.WebSocketResponse(
            timeout=self._patience, heartbeat=self._patience, max_msg_size=MAX_FRAME, compress=False
        )
        self._incoming.add(socket)
        connection = request.protocol
        assert isinstance(connection, HttpConnection)
        connection.allow(HANDSHAKE)
        self._bound(connection)
        try:
            await socket.prepare(request)
            async with asyncio.timeout(self._patience):
                peer = await self._examine(socket)
            proved_peer(request)
            self._unproved.pop(connection, None)
            connection.allow(None)
            self._complaints.pop(STRANGERS, None)
            self._knock[peer].set()
            try:
                async for message in socket:
                    if message.type is aiohttp.WSMsgType.BINARY:
                        self._received(peer, message.data)
            finally:
                if peer not in self._outgoing:  # else the link that we dialed tells whether the peer is there
                    self._hung_up.add(peer)
                    self._knock[peer].set()
        except (TimeoutError, ConnectionError):
            if not socket.prepared:  # it cannot be the answer
                raise
        except Refused as refusal:
            self._complain(STRANGERS, f"refused a link: {refusal}")
        finally:
            self._incoming.discard(socket)
            if socket.prepared:  # else it was no request for a link: the connection goes on with HTTP
                await socket.close()
            self._unproved.pop(connection, None)
            connection.allow(None)
        return socket

    def _bound(self, connection: HttpConnection) -> None:
        """Bound what a peer may cost before it has proved itself. Where there are too many, the oldest of those from
        where most come gives way: a node needs no more than a moment.
        """
        if len(self._unproved) >= UNPROVED:
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
                raise Refused("it did not introduce itself")
            self._party.compare(theirs)
            if theirs.node not in self._addresses:
                raise Refused(f"node {theirs.node} is not in the configuration of node {self._party.node}")
            ours = self._party.hello()
            ours.proof = self._party.proof("acceptor", theirs, ours)
            await socket.send_bytes(msgspec.json.encode(ours))
            proof = _decode(await _receive(socket))
            if not isinstance(proof, Proof) or proof.refused:
                raise Refused(_reason(proof) if isinstance(proof, Proof) else "it did not prove itself")
            self._party.check(proof.proof, "dialer", theirs, ours)
        except Refused as refusal:
            await socket.send_bytes(msgspec.json.encode(Proof(refused=str(refusal))))
            raise
        return theirs.node

    def _complain(self, peer: int, complaint: str) -> None:
        """Say it once, not at every attempt; and not without end, as strangers choose what there is to say."""
        said = self._complaints.setdefault(peer, set())
        if complaint not in said and len(said) < COMPLAINTS:
            said.add(complaint)
            self._say(complaint)


async def _receive(socket: web.WebSocketResponse) -> bytes:
    message = await socket.receive()
    if message.type is not aiohttp.WSMsgType.BINARY:
        raise Refused("it went away in mid-handshake")
    return bytes(message.data)


def _reason(refusal: Proof) -> str:
    """Why the other side refused: in its own words, which nobody vouches for."""
    words = refusal.refused[:REASON]
    return words if words and words.isprintable() else "it refused without a reason"


def _decode(data: bytes) -> Hello | Proof:
    with contextlib.suppress(Malformed):
        return decode(data, Hello)
    with contextlib.suppress(Malformed):
        proof = decode(data, Proof)
        if proof.proof or proof.refused:  # any object decodes, as unknown fields are ignored
            return proof
    raise Refused("what it says is not a node's handshake")
