"""A listing is a read: it takes one of its user's places, and one that its client does not take is broken off."""

from __future__ import annotations

from pathlib import Path

from tests.node.raw_http import ask, enrolled, image, line
from tests.running import eventually, running

IMAGES = 200
"""Some 120 KB of a listing, with names as long as they may be; the node's socket takes less where it is made to."""


def test_a_listing_that_nobody_reads_takes_a_place_and_is_broken_off(tmp_path: Path) -> None:
    with running(tmp_path, 1, body_timeout=2.0, max_in_flight=1) as cluster:
        node, token = cluster.config.addresses[1], enrolled(cluster.config, "alice")

        for number in range(IMAGES):
            start = f"PUT /v1/images/{number:04}{'x' * 250}"
            headers = (token, "Prefer: return=minimal", "Safelight-Original: " + "y" * 255)
            assert ask(node, start, *headers, body=image(100)).status == 201
        with line(node) as connection:
            connection.request("HEAD /v1/images", token, "Connection: close")
            assert connection.interim().startswith("HTTP/1.1 200 ")
            assert connection.socket.recv(1) == b""
        whole = ask(node, "GET /v1/images", token)
        assert len(whole.json()["images"]) == IMAGES
        with line(node, buffer=2048) as first:
            for _ in range(60):  # one after the other, more than any socket takes
                first.request("GET /v1/images", token)
            eventually(lambda: ask(node, "GET /v1/images", token).status == 503, "an unread listing takes the place")
            cluster.wait_for_line(1, "A response ended early")
        eventually(lambda: ask(node, "GET /v1/images", token).status == 200, "the place is free again")
