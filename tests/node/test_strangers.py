"""Whoever opens a link without the cluster's secret is refused, once in the log, and cleaned away."""

from __future__ import annotations

import base64
import os
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from safelight.config import Address
from safelight.node.election.handshake import Hello, PeerIdentity
from safelight.node.election.links import MAX_UNPROVED
from safelight.node.state.data_directory import load_keys
from safelight.wire.messages import Problem
from tests.node.raw_http import Line, ask, enrolled, image, line, refused
from tests.running import Running, eventually, running

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
PATIENT = 3 * 0.3
"""Seconds that a handshake may take at this heartbeat: three beats (bully.Timing)."""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("strangers"), 2, heartbeat=0.3) as it:
        yield it


@pytest.fixture
def leader(nodes: Running) -> Iterator[Address]:
    """Node 2, which afterwards still leads, still seals, and holds no connection of strangers."""
    yield nodes.config.addresses[2]
    assert nodes.leader() == 2
    token = enrolled(nodes.config, "alice-" + os.urandom(4).hex())
    assert ask(nodes.config.addresses[2], "PUT /v1/images/a.png", token, body=image(100)).status == 201
    said = nodes.said(2)
    assert all(each.startswith("Node 2: ") for each in said), said


@contextmanager
def link(address: Address) -> Iterator[Line]:
    """A WebSocket, opened by hand (RFC 6455)."""
    key = base64.b64encode(os.urandom(16)).decode()
    with line(address) as connection:
        connection.request(
            "GET /v1/peer",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
        )
        assert connection.interim().startswith("HTTP/1.1 101 ")
        yield connection


def frame(payload: bytes, kind: int = BINARY) -> bytes:
    """One masked frame, with a mask of zeros, which leaves the payload as it is."""
    size = len(payload)
    if size < 126:
        length = struct.pack(">B", 0x80 | size)
    elif size < 1 << 16:
        length = struct.pack(">BH", 0x80 | 126, size)
    else:
        length = struct.pack(">BQ", 0x80 | 127, size)
    return bytes([0x80 | kind]) + length + bytes(4) + payload


def sent_away(stranger: Line) -> bool:
    """Read until the node closes the link, with a close frame or by hanging up."""
    try:
        while True:
            kind, length = stranger.exactly(2)
            wide = {126: 2, 127: 8}.get(length, 0)
            stranger.exactly(int.from_bytes(stranger.exactly(wide), "big") if wide else length)
            if kind & 0xF == CLOSE:
                return True
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def hello(**fields: object) -> bytes:
    said = {"cluster": "0" * 32, "keyring": "0" * 16, "node": 1, "life": "x", "nonce": "y", **fields}
    return msgspec.json.encode(said)


def complaints(nodes: Running) -> list[str]:
    return [each for each in nodes.said(2) if "refused a link" in each]


def test_a_stranger_that_says_nothing_is_sent_away(nodes: Running, leader: Address) -> None:
    began = time.monotonic()
    with link(leader) as stranger:
        assert sent_away(stranger)
    assert time.monotonic() - began >= PATIENT / 2  # it had its chance


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(frame(b"hello"), id="no JSON"),
        pytest.param(frame(b"\xff\xfe"), id="no UTF-8"),
        pytest.param(frame(b'{"cluster":"\xff"}'), id="no UTF-8 in JSON"),
        pytest.param(frame(b"[" * 100_000), id="deeply nested JSON"),
        pytest.param(frame(b'{"a":' * 12_000), id="deeply nested JSON, in objects"),
        pytest.param(frame(b'{"cluster":' + b"[" * 50_000), id="deeply nested JSON, in a field"),
        pytest.param(frame(b"hello", TEXT), id="text"),
        pytest.param(frame(b"", CLOSE), id="good-bye"),
        pytest.param(b"\xff" * 100, id="no frame"),
        pytest.param(frame(bytes(10 << 20)), id="a frame of 10 MB"),
        pytest.param(frame(hello(node=1 << 70)), id="a huge node"),
        pytest.param(frame(hello(colour="red")), id="an unknown field"),
        pytest.param(frame(hello()), id="another cluster"),
        pytest.param(frame(hello(cluster="\x1b[2J\n" * 1000)), id="a cluster full of control characters"),
        pytest.param(frame(b'{"proof":"0"}'), id="a proof without a hello"),
        pytest.param(frame(b'{"refused":"\\n\\u001b[2J' + b"x" * 10_000 + b'"}'), id="a refusal"),
    ],
)
def test_a_stranger_that_says_what_no_node_says_is_refused(nodes: Running, leader: Address, data: bytes) -> None:
    before = len(complaints(nodes))
    for _ in range(3):
        with link(leader) as stranger:
            stranger.send(data)
            assert sent_away(stranger)
    said = complaints(nodes)[before:]
    assert len(said) <= 1
    assert all(len(each) < 300 and each.isprintable() for each in said)


@pytest.mark.parametrize(
    "proof",
    [b'{"proof":"' + b"0" * 64 + b'"}', '{"proof":"é"}'.encode(), b'{"refused":"no\\n\\u001b[2J"}', b"{}", b"\xff"],
)
def test_whoever_cannot_prove_itself_is_not_believed(nodes: Running, leader: Address, proof: bytes) -> None:
    identity = PeerIdentity(load_keys(nodes.config.data_dir, create=False), 1, "another incarnation").hello()
    before = len(complaints(nodes))
    for _ in range(3):
        with link(leader) as stranger:
            stranger.send(frame(msgspec.json.encode(identity)))
            stranger.send(frame(proof))
            assert sent_away(stranger)
    assert len(complaints(nodes)) <= before + 1
    assert all(each.isprintable() for each in complaints(nodes))


def test_a_stranger_cannot_return_the_nodes_own_proof(nodes: Running, leader: Address) -> None:
    ours = PeerIdentity(load_keys(nodes.config.data_dir, create=False), 1, "another incarnation").hello()
    with link(leader) as stranger:
        stranger.send(frame(msgspec.json.encode(ours)))
        header = stranger.exactly(2)
        size = header[1]
        if size == 126:
            size = int.from_bytes(stranger.exactly(2), "big")
        theirs = msgspec.json.decode(stranger.exactly(size), type=Hello)
        assert theirs.proof
        stranger.send(frame(msgspec.json.encode({"proof": theirs.proof})))
        assert sent_away(stranger)
    nodes.wait_for_line(2, "does not have the cluster's secret")


def test_strangers_who_always_say_something_else_cannot_fill_the_log(nodes: Running, leader: Address) -> None:
    for number in range(60):
        with link(leader) as stranger:
            stranger.send(frame(hello(node=number + 3)))
            assert sent_away(stranger)
    assert len(complaints(nodes)) <= 25


def sockets(nodes: Running) -> int:
    return sum(1 for _ in os.scandir(f"/proc/{nodes.cluster.pid(2)}/fd"))


def peak_memory(nodes: Running) -> int:
    """Bytes: the most that node 2 has had so far (proc(5), VmHWM)."""
    status = Path(f"/proc/{nodes.cluster.pid(2)}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def test_links_of_strangers_are_few_at_a_time_and_cleaned_away(nodes: Running, leader: Address) -> None:
    before = sockets(nodes)
    with ExitStack() as strangers:
        for _ in range(MAX_UNPROVED + 30):
            strangers.enter_context(link(leader))
        assert sockets(nodes) <= before + MAX_UNPROVED + 5  # and one or two that are being closed
        eventually(lambda: sockets(nodes) < before + 10, "the strangers' connections are closed")


def test_a_node_is_linked_however_many_strangers_come(nodes: Running, leader: Address) -> None:
    with ExitStack() as strangers:
        for _ in range(MAX_UNPROVED + 10):
            strangers.enter_context(link(leader))
        with link(leader) as peer:
            introduce(nodes, peer)
            assert pong(peer)
            for _ in range(MAX_UNPROVED + 10):  # nor does it give way, once it has proved itself
                strangers.enter_context(link(leader))
            assert pong(peer)


def test_strangers_cost_little_memory(nodes: Running, leader: Address) -> None:
    """Each begins a frame of a megabyte, as a peer's may be, and does not end it."""
    Path(f"/proc/{nodes.cluster.pid(2)}/clear_refs").write_text("5")  # forget the peak so far (proc(5))
    before = peak_memory(nodes)
    with ExitStack() as strangers:
        left = {strangers.enter_context(link(leader)).socket: frame(bytes(1_000_000))[:-1] for _ in range(60)}
        give_up = time.monotonic() + PATIENT
        while any(left.values()) and time.monotonic() < give_up:
            for stranger, rest in left.items():
                with suppress(BlockingIOError, ConnectionError):
                    stranger.setblocking(False)
                    left[stranger] = rest[stranger.send(rest) :]
        eventually(lambda: sockets(nodes) < 40, "the strangers' connections are closed")
    assert peak_memory(nodes) - before < 30 << 20


def test_unfinished_heads_of_strangers_cost_little_memory(nodes: Running, leader: Address) -> None:
    """Each line, and their number, is within the bounds; all of them together are not."""
    lines = b"".join(b"x%03d: " % number + b"a" * 8150 + b"\r\n" for number in range(120))
    Path(f"/proc/{nodes.cluster.pid(2)}/clear_refs").write_text("5")
    before = peak_memory(nodes)
    with ExitStack() as strangers:
        for _ in range(100):
            stranger = strangers.enter_context(line(leader))
            stranger.send(f"GET /v1/status HTTP/1.1\r\nHost: {leader.netloc}\r\n".encode() + lines)
            assert "32768" in refused(stranger.answer(), Problem.BAD_REQUEST)
    assert peak_memory(nodes) - before < 40 << 20


@pytest.mark.parametrize("body", [b"1\r\nx\r\n" * 4_000_000, b"a00000\r\n" + bytes(0xA00000) + b"\r\n"])
def test_the_body_of_a_refused_stranger_is_not_read(nodes: Running, leader: Address, body: bytes) -> None:
    with line(leader) as stranger:
        stranger.request("PUT /v1/images/a.png", "Transfer-Encoding: chunked")
        answer = stranger.answer()
        refused(answer, Problem.NO_CREDENTIALS)
        assert answer.headers["connection"] == "close"
        stranger.send(body)  # until it is reset
        assert stranger.ended()


def processor_seconds(nodes: Running) -> float:
    """What node 2 has used so far, in user mode (proc(5))."""
    return int(Path(f"/proc/{nodes.cluster.pid(2)}/stat").read_text().rpartition(")")[2].split()[11]) / os.sysconf(
        "SC_CLK_TCK"
    )


def test_chunks_of_a_byte_from_strangers_cost_little_time(nodes: Running, leader: Address) -> None:
    body, before = b"1\r\nx\r\n" * 200_000, processor_seconds(nodes)  # 1.2 MB
    with ExitStack() as strangers:
        for _ in range(16):
            stranger = strangers.enter_context(line(leader))
            stranger.request("PUT /v1/images/a.png", "Transfer-Encoding: chunked", body=body)
            refused(stranger.answer(), Problem.NO_CREDENTIALS)
    assert processor_seconds(nodes) - before < 1


def test_a_node_may_say_much_at_once_after_its_proof(nodes: Running, leader: Address) -> None:
    with link(leader) as peer:
        introduce(nodes, peer, frame(bytes(1 << 19)) + frame(bytes(1 << 19)))
        assert pong(peer)


def introduce(nodes: Running, peer: Line, more: bytes = b"") -> None:
    """Prove to be node 1, and say more in the same breath."""
    party = PeerIdentity(load_keys(nodes.config.data_dir, create=False), 1, "another incarnation")
    ours = party.hello()
    peer.send(frame(msgspec.json.encode(ours)))
    _, size = peer.exactly(2)
    if size == 126:
        size = int.from_bytes(peer.exactly(2), "big")
    theirs = msgspec.json.decode(peer.exactly(size), type=Hello)
    peer.send(frame(msgspec.json.encode({"proof": party.proof("dialer", ours, theirs)})) + more)


def pong(peer: Line) -> bool:
    """Whether the node answers a ping (RFC 6455, 5.5.2) before it closes the link."""
    peer.send(frame(b"there?", PING))
    while True:
        kind, size = peer.exactly(2)
        if peer.exactly(size) == b"there?":
            return kind & 0xF == PONG
        if kind & 0xF == CLOSE:
            return False


def test_requests_that_break_off_without_a_token_leave_nothing_in_the_log(nodes: Running, leader: Address) -> None:
    before = nodes.said(2)
    for _ in range(20):
        with line(leader) as stranger:
            stranger.request("POST /v1/offers", "Content-Length: 100", body=b"{")
        with line(leader) as stranger:
            stranger.request("POST /v1/offers", "Transfer-Encoding: chunked", body=b"no chunk\r\n")
        refused(ask(leader, "PUT /v1/images/a.png?ticket=x", body=b"hello"), Problem.BAD_TICKET)
    assert [each for each in nodes.said(2)[len(before) :] if "Encrypted" not in each] == []


# -- pages of other sites ----------------------------------------------------------------------------

FOREIGN = ["http://evil.example", "https://127.0.0.1", "null", "file://", "http://127.0.0.1", "", "{own}.evil.example"]


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_page_of_another_site_gets_no_line_and_no_answer(nodes: Running, leader: Address, origin: str) -> None:
    header = "Origin: " + origin.format(own=leader.url)
    token = enrolled(nodes.config, "alice-" + os.urandom(4).hex())
    upgrade = (
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {'A' * 22}==",
    )
    for start in ("GET /v1/peer", "GET /v1/offers"):
        refused(ask(leader, start, token, header, *upgrade), Problem.FOREIGN_ORIGIN)
    for start in (
        "PUT /v1/images/a.png",
        "DELETE /v1/images/a.png",
        "POST /v1/offers",
        "GET /v1/images",
        "OPTIONS /v1/images",
    ):
        refused(ask(leader, start, token, header), Problem.FOREIGN_ORIGIN)


def test_a_request_with_the_nodes_own_origin_is_answered(nodes: Running, leader: Address) -> None:
    for origin in (leader.url, leader.url.replace("127.0.0.1", "localhost").upper()):
        assert ask(leader, "GET /v1/status", f"Origin: {origin}").status == 200
