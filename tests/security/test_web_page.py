"""An attacker's web page in the browser of a user, or of someone on a node's network. See docs/security.md.

A page of another origin can send "simple" requests without asking first (Fetch standard, CORS), open WebSockets, and
resolve its own name to a node's address. It cannot set `Authorization` without a preflight, which no node answers.
"""

from __future__ import annotations

import pytest

from tests.node.raw_http import Answer, ask, enrolled, image, new_image
from tests.running import Running

ORIGIN = "Origin: https://evil.example"
SIMPLE = "Content-Type: text/plain"


@pytest.fixture(scope="module")
def bearer(shared_cluster: Running) -> str:
    return enrolled(shared_cluster.config, "ann")


@pytest.mark.parametrize(
    "start",
    ["GET /v1/images", "GET /v1/status", "POST /v1/offers", "POST /v1/orders", "GET /v1/cluster"],
)
def test_no_answer_may_be_read_by_a_page_elsewhere(shared_cluster: Running, start: str) -> None:
    address = shared_cluster.config.addresses[3]
    answer = ask(address, start, ORIGIN, SIMPLE, body=b"{}" if start.startswith("POST") else b"")
    assert [name for name in answer.headers if name.startswith("access-control-")] == []


@pytest.mark.parametrize("start", ["PUT /v1/images/a.png", "DELETE /v1/images/a.png", "PUT /v1/users/eve"])
def test_a_browser_that_asks_first_is_not_allowed(shared_cluster: Running, start: str) -> None:
    method, target = start.split()
    asked = ask(
        shared_cluster.config.addresses[3],
        f"OPTIONS {target}",
        ORIGIN,
        f"Access-Control-Request-Method: {method}",
        "Access-Control-Request-Headers: authorization",
    )
    assert asked.status >= 400
    assert [name for name in asked.headers if name.startswith("access-control-")] == []


def test_what_a_page_sends_without_asking_changes_nothing(shared_cluster: Running) -> None:
    def sent(start: str, body: bytes) -> Answer:
        return ask(shared_cluster.config.addresses[3], start, ORIGIN, SIMPLE, body=body)

    assert sent("POST /v1/offers", b'{"user":"ann","upload":"' + b"0" * 32 + b'","name":"a","size":1}').status == 403
    assert sent("POST /v1/orders", b"{}").status == 403
    assert sent("POST /v1/images/a.png", b"x").status in (403, 405)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8001", "127.0.0.1.nip.example"])
def test_a_name_that_resolves_to_a_node_is_not_the_nodes(shared_cluster: Running, bearer: str, host: str) -> None:
    assert ask(shared_cluster.config.addresses[3], "GET /v1/images", bearer, host=host).status == 421


def test_an_image_with_a_script_in_it_runs_nothing(shared_cluster: Running, bearer: str) -> None:
    address = shared_cluster.config.addresses[3]
    start = new_image()
    assert ask(address, start, bearer, body=image(100)).status == 201
    got = ask(address, start.replace("PUT", "GET"), bearer)
    assert got.headers["content-security-policy"] == "sandbox"
    assert got.headers["x-content-type-options"] == "nosniff"
