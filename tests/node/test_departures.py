"""Clients that leave at any moment, politely or not: the node serves on, and its log has no traceback."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from safelight.config import Address
from tests.node.raw_http import ask, enrolled, image, line, new_image
from tests.running import SETTLED, Running, eventually, running

ROUNDS = 60
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST (socket(7))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("departures"), 1, heartbeat=SETTLED) as it:
        yield it


def heads(cluster: Running, token: str) -> list[tuple[str, list[str], bytes]]:
    """Requests, with the bytes of their bodies that come before the client leaves."""
    large, path = image(1 << 20), new_image().split()[1]
    assert ask(cluster.config.addresses[1], f"PUT {path}", token, body=large).status == 201
    sized, expect = f"Content-Length: {len(large)}", "Expect: 100-continue"
    upgrade = [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {'A' * 22}==",
    ]
    return [
        (new_image(), [token, sized, expect], b""),
        (new_image(), [token, sized, expect], large[:1000]),
        (new_image(), [token, sized, "Safelight-Keep: no"], large),
        (new_image(), [token, sized], large),
        (new_image(), [token, "Transfer-Encoding: chunked", expect], b"5\r\nhello\r\n"),
        (new_image(), [token, "Transfer-Encoding: chunked"], b"5\r\nhello\r\nno chunk"),
        (new_image(), [sized, expect], b""),
        ("PUT /v1/opened/a.png", [token, sized, expect], b""),
        ("PUT /v1/users/zoe", [token, expect], b""),
        ("POST /v1/offers", [token, "Content-Length: 100", expect], b"{"),
        ("POST /v1/orders", ["Content-Length: 100", expect], b""),
        (f"GET {path}", [token], b""),
        (f"GET {path}", [token, "Accept: application/vnd.safelight.sealed"], b""),
        ("GET /v1/images", [token, expect], b""),
        ("GET /v1/offers", [token, *upgrade], b"\x82\xfe"),
        ("GET /v1/peer", upgrade, b"\x82\xff"),
        ("DELETE /v1/images/none.png", [token, expect], b""),
        ("GET /nowhere", [expect], b""),
    ]


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_clients_that_leave_at_once_leave_no_traceback(cluster: Running, reset: bool) -> None:
    address, token = cluster.config.addresses[1], enrolled(cluster.config, f"alice-{reset}".lower())
    for start, headers, body in heads(cluster, token):
        for each in range(ROUNDS):
            leave(address, start, headers, body, reset, each % 3)
    serves_on(cluster, address, token)


def test_half_a_head_leaves_no_traceback(cluster: Running) -> None:
    address, token = cluster.config.addresses[1], enrolled(cluster.config, "bob")
    for start, headers, _ in heads(cluster, token):
        head = "\r\n".join([f"{start} HTTP/1.1", f"Host: {address.netloc}", *headers, "", ""]).encode()
        for end in range(1, len(head), 23):
            with line(address) as connection:
                connection.send(head[:end])
                if end % 2:
                    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    serves_on(cluster, address, token)


def leave(address: Address, start: str, headers: list[str], body: bytes, reset: bool, how: int) -> None:
    with line(address) as connection:
        if reset:
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        connection.request(start, *headers, body=body)
        if how == 1:
            connection.socket.shutdown(socket.SHUT_WR)
        elif how == 2 and start.startswith("GET"):
            connection.interim()


def serves_on(cluster: Running, address: Address, token: str) -> None:
    eventually(lambda: ask(address, "GET /v1/status").json()["nodes"][0]["in_flight"] == 0, "nothing is in flight")
    assert ask(address, new_image(), token, body=image(1000)).status == 201
    said = cluster.said(1)
    assert not [each for each in said if "Traceback" in each or "failed" in each or "Error" in each]
    assert all(each.startswith("Node 1: ") for each in said)
