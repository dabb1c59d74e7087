"""Whoever does not have the cluster's secret is not believed, whether it is dialed or dials."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import cycle
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web

from safelight.node.election.handshake import Hello, Proof
from safelight.node.state import data_directory
from tests.mission.support import seal, status_of, wait_until_all_follow
from tests.running import GENEROUS, SETTLED, Running, eventually, running

PATH = "/v1/peer"
CLAIM = b'{"kind":"coordinator","counter":999,"epoch_leader":3,"leader":3}'
"""What a leader says to its peers, in an epoch beyond all others."""

Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


def wire(message: msgspec.Struct) -> bytes:
    return msgspec.json.encode(message)


class Knowledge:
    """Everything that an impostor can know: what is public, what it was told, what it has recorded."""

    def __init__(self, running: Running) -> None:
        self.running = running
        keyring = data_directory.find_keyring(running.config.data_dir).read()
        self._public = (keyring.cluster_id, keyring.check)  # said in every Hello
        self.recorded: Hello | None = None
        self.session = aiohttp.ClientSession()

    def hello(self, node: int) -> Hello:
        cluster, check = self._public
        return Hello(cluster=cluster, keyring=check, node=node, incarnation="f" * 16, nonce="0" * 32)

    async def dial(self, node: int) -> aiohttp.ClientWebSocketResponse:
        return await self.session.ws_connect(self.running.config.addresses[node].url + PATH)

    async def ask(self, node: int, hello: Hello) -> Hello:
        """What a real node answers to this Hello: its own, with its proof over both."""
        async with await self.dial(node) as socket:
            await socket.send_bytes(wire(hello))
            return msgspec.json.decode(await socket.receive_bytes(timeout=GENEROUS), type=Hello)


# -- what listens on a dead node's port --

Answer = Callable[[Knowledge, Socket, Hello], Awaitable[None]]


async def noise(known: Knowledge, socket: Socket, dialer: Hello) -> None:
    await socket.send_bytes(bytes(range(256)))


async def json_that_is_no_unicode(known: Knowledge, socket: Socket, dialer: Hello) -> None:
    await socket.send_bytes(b'{"cluster":"\xff\xfe"}')


async def goodbye(known: Knowledge, socket: Socket, dialer: Hello) -> None:
    await socket.close()


async def no_proof(known: Knowledge, socket: Socket, dialer: Hello) -> None:
    await socket.send_bytes(wire(known.hello(3)))


async def a_wrong_proof(known: Knowledge, socket: Socket, dialer: Hello) -> None:
    await socket.send_bytes(wire(msgspec.structs.replace(known.hello(3), proof="é" * 64)))


async def a_replayed_proof(known: Knowledge, socket: Socket, dialer: Hello) -> None:
    assert known.recorded is not None
    await socket.send_bytes(wire(known.recorded))


async def a_reflection(known: Knowledge, socket: Socket, dialer: Hello) -> None:
    """The dialer's own words, and a proof that another node makes over them."""
    other = 1 if dialer.node == 2 else 2
    proof = (await known.ask(other, msgspec.structs.replace(dialer, proof=""))).proof
    await socket.send_bytes(wire(msgspec.structs.replace(dialer, node=3, proof=proof)))


async def a_relay(known: Knowledge, socket: Socket, dialer: Hello) -> None:
    """Another node's whole answer, proof and all."""
    await socket.send_bytes(wire(await known.ask(1 if dialer.node == 2 else 2, dialer)))


async def an_order(known: Knowledge, socket: Socket, dialer: Hello) -> None:
    await socket.send_bytes(CLAIM)


async def a_refusal_with_a_line_in_it(known: Knowledge, socket: Socket, dialer: Hello) -> None:
    await socket.send_bytes(wire(Proof(refused="\x1b[2J\nNode 2: Node 3 is the leader (epoch 999)")))


ANSWERS: tuple[Answer, ...] = (
    noise,
    json_that_is_no_unicode,
    goodbye,
    no_proof,
    a_wrong_proof,
    a_replayed_proof,
    a_reflection,
    a_relay,
    an_order,
    a_refusal_with_a_line_in_it,
)


async def listen_as_node_3(known: Knowledge, all_given: asyncio.Event) -> web.AppRunner:
    """Give whoever dials one answer after the other, each followed by orders that nobody must obey."""
    turns, given = cycle(ANSWERS), set()

    async def accept(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        dialer = msgspec.json.decode(await socket.receive_bytes(), type=Hello)
        answer = next(turns)
        with suppress(ConnectionError):
            await answer(known, socket, dialer)
            for _ in range(3):
                await socket.send_bytes(CLAIM)
        async for _ in socket:  # until the dialer has had enough
            pass
        given.add(answer)
        if len(given) == len(ANSWERS):
            all_given.set()
        return socket

    app = web.Application()
    app.router.add_get(PATH, accept)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", known.running.config.addresses[3].port, reuse_address=True).start()
    return runner


def undisturbed(cluster: Running) -> None:
    """Nodes 1 and 2 follow node 2 in an epoch of their own, and have had no mishap."""
    for node in (1, 2):
        load = status_of(cluster.config, node)[node]
        assert load.leader == 2
        assert load.counter < 100
        lines = cluster.said(node)
        assert not any("Traceback" in line or "epoch 999" in line or "\x1b" in line for line in lines), lines


def test_what_listens_on_a_dead_nodes_port_is_not_believed(tmp_path: Path, photograph: Path) -> None:
    async def deceive(cluster: Running) -> None:
        known = Knowledge(cluster)
        async with known.session:
            known.recorded = await known.ask(3, known.hello(2))
            assert known.recorded.proof
            await asyncio.to_thread(cluster.cluster.kill, 3)
            await asyncio.to_thread(cluster.wait_until_leader, 2)
            all_given = asyncio.Event()
            runner = await listen_as_node_3(known, all_given)
            try:
                await asyncio.wait_for(all_given.wait(), GENEROUS)
                saved = await asyncio.to_thread(seal, cluster.config, photograph, tmp_path / "images")
                assert saved.node == 2
            finally:
                await runner.cleanup()

    with running(tmp_path, heartbeat=SETTLED) as cluster:
        asyncio.run(deceive(cluster))
        undisturbed(cluster)
        reason = "the peer that claims to be node 3 does not have the cluster's secret"
        eventually(lambda: any(reason in line for line in cluster.said(1) + cluster.said(2)), "it is refused")
        cluster.cluster.start(3)
        wait_until_all_follow(cluster.config, 3)


# -- what dials --

Approach = Callable[[Knowledge, aiohttp.ClientWebSocketResponse], Awaitable[None]]


async def saying_noise(known: Knowledge, socket: aiohttp.ClientWebSocketResponse) -> None:
    await socket.send_bytes(b"\xff" * 1000)


async def giving_orders(known: Knowledge, socket: aiohttp.ClientWebSocketResponse) -> None:
    await socket.send_bytes(CLAIM)


async def without_a_proof(known: Knowledge, socket: aiohttp.ClientWebSocketResponse) -> None:
    await socket.send_bytes(wire(known.hello(3)))
    await socket.receive_bytes(timeout=GENEROUS)
    await socket.send_bytes(wire(Proof(proof="")))


async def with_the_acceptors_own_proof(known: Knowledge, socket: aiohttp.ClientWebSocketResponse) -> None:
    await socket.send_bytes(wire(known.hello(3)))
    theirs = msgspec.json.decode(await socket.receive_bytes(timeout=GENEROUS), type=Hello)
    await socket.send_bytes(wire(Proof(proof=theirs.proof)))


async def with_another_nodes_proof(known: Knowledge, socket: aiohttp.ClientWebSocketResponse) -> None:
    hello = known.hello(3)
    await socket.send_bytes(wire(hello))
    await socket.receive_bytes(timeout=GENEROUS)
    await socket.send_bytes(wire(Proof(proof=(await known.ask(1, hello)).proof)))


async def as_the_node_itself(known: Knowledge, socket: aiohttp.ClientWebSocketResponse) -> None:
    await socket.send_bytes(wire(known.hello(2)))


async def as_an_unknown_node(known: Knowledge, socket: aiohttp.ClientWebSocketResponse) -> None:
    await socket.send_bytes(wire(known.hello(77)))


async def with_a_megabyte(known: Knowledge, socket: aiohttp.ClientWebSocketResponse) -> None:
    await socket.send_bytes(wire(msgspec.structs.replace(known.hello(3), incarnation="f" * (2 << 20))))


@pytest.mark.parametrize(
    "approach",
    [
        saying_noise,
        giving_orders,
        without_a_proof,
        with_the_acceptors_own_proof,
        with_another_nodes_proof,
        as_the_node_itself,
        as_an_unknown_node,
        with_a_megabyte,
    ],
)
def test_whoever_dials_without_the_secret_is_not_believed(two_nodes: Running, approach: Approach) -> None:
    async def deceive() -> None:
        known = Knowledge(two_nodes)
        async with known.session, await known.dial(2) as socket:
            with suppress(ConnectionError):
                await approach(known, socket)
                await socket.send_bytes(CLAIM)
            async with asyncio.timeout(GENEROUS):
                async for _ in socket:  # until the node hangs up
                    pass

    asyncio.run(deceive())
    undisturbed(two_nodes)
