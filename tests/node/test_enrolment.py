"""On loopback the first token for a name claims it; elsewhere the operator adds users."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from safelight.cli.admin import users as admin
from safelight.local.cluster import environment
from safelight.node.state.data_directory import create_cluster
from safelight.wire.messages import Problem, fingerprint
from tests.node.raw_http import ask, image, refused, token
from tests.running import Running, eventually, running

MINE, ANOTHER = (f"Authorization: Bearer {token(each)}" for each in ("mine", "another"))


def test_the_first_token_claims_a_name_on_every_node(shared_cluster: Running) -> None:
    one, two, three = shared_cluster.config.addresses.values()
    assert ask(one, "PUT /v1/users/alice", MINE).status == 201
    assert ask(two, "PUT /v1/users/alice", MINE).status == 200
    refused(ask(three, "PUT /v1/users/alice", ANOTHER), Problem.NAME_TAKEN)
    assert ask(three, "PUT /v1/images/a.png", MINE, body=image(10)).status == 201
    refused(ask(three, "PUT /v1/images/a.png", ANOTHER, body=image(10)), Problem.UNKNOWN_TOKEN)


def test_a_token_is_one_users_only(shared_cluster: Running) -> None:
    one, two, _ = shared_cluster.config.addresses.values()
    header = f"Authorization: Bearer {token('carols')}"
    assert ask(one, "PUT /v1/users/carol", header).status == 201
    refused(ask(two, "PUT /v1/users/dave", header), Problem.WRONG_USER)
    assert ask(one, "PUT /v1/users/carol", header).status == 200


def test_of_many_tokens_at_once_one_claims_the_name(shared_cluster: Running) -> None:
    addresses = list(shared_cluster.config.addresses.values())
    statuses: list[int] = []

    def claim(number: int) -> None:
        header = f"Authorization: Bearer {token(str(number))}"
        statuses.append(ask(addresses[number % 3], "PUT /v1/users/zoe", header).status)

    crowd = [threading.Thread(target=claim, args=(number,)) for number in range(24)]
    for each in crowd:
        each.start()
    for each in crowd:
        each.join()
    assert Counter(statuses) == {201: 1, 409: 23}


def test_of_two_names_at_once_a_token_gets_one(shared_cluster: Running) -> None:
    addresses = list(shared_cluster.config.addresses.values())
    for number in range(10):
        header = f"Authorization: Bearer {token(f'greedy{number}')}"
        statuses: list[int] = []
        together = threading.Barrier(2)

        def claim(node: int, name: str, header: str, statuses: list[int], together: threading.Barrier) -> None:
            together.wait()
            statuses.append(ask(addresses[node], f"PUT /v1/users/{name}", header).status)

        both = [
            threading.Thread(target=claim, args=(node, f"{name}{number}", header, statuses, together))
            for node, name in enumerate(("ann", "ben"))
        ]
        for each in both:
            each.start()
        for each in both:
            each.join()
        assert sorted(statuses) == [201, 403]


def test_a_user_whose_record_is_damaged_is_the_operators_business_and_nobody_elses(tmp_path: Path) -> None:
    with running(tmp_path, 1) as it:
        address = it.config.addresses[1]
        asyncio.run(admin.add(it.config, "alice", fingerprint(token("mine"))))
        [record] = it.config.data_dir.rglob("users/*.1")
        intact = record.read_bytes()
        record.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
        answer = ask(address, "PUT /v1/images/a.png", MINE, body=b"hello")
        detail = refused(answer, Problem.INTERNAL)
        assert str(tmp_path) not in detail
        assert record.name not in detail
        it.wait_for_line(1, record.name)
        refused(ask(address, "PUT /v1/images/a.png", ANOTHER, body=b"hello"), Problem.UNKNOWN_TOKEN)
        assert ask(address, "PUT /v1/users/bob", ANOTHER).status == 201
        record.write_bytes(intact)
        assert ask(address, "PUT /v1/images/a.png", MINE, body=b"hello").status == 201


def test_every_node_hears_of_what_the_operator_does_and_none_is_started_anew(tmp_path: Path) -> None:
    with running(tmp_path) as it:
        addresses = list(it.config.addresses.values())

        def works(header: str) -> list[bool]:
            return [ask(each, "GET /v1/images/none.png", header).status != 401 for each in addresses]

        def user(*arguments: str) -> None:
            command = [sys.executable, "-m", "safelight", "user", *arguments]
            subprocess.run(command, env=environment(it.config), check=True, capture_output=True)

        assert ask(addresses[0], "PUT /v1/users/alice", MINE).status == 201
        sealed = ask(addresses[2], "PUT /v1/images/a.png", MINE, body=image(1000))
        assert sealed.status == 201
        assert works(MINE) == [True] * 3

        user("revoke", "alice", "--yes")
        eventually(lambda: works(MINE) == [False] * 3, "no node knows the token any more")
        for each in addresses:
            assert "revoked" in refused(ask(each, "PUT /v1/users/alice", MINE), Problem.USER_REVOKED)
            assert "revoked" in refused(ask(each, "PUT /v1/users/alice", ANOTHER), Problem.USER_REVOKED)
        refused(ask(addresses[2], "PUT /v1/opened/a.png", MINE, body=sealed.body), Problem.UNKNOWN_TOKEN)

        user("token", "alice", fingerprint(token("another")))
        assert works(ANOTHER) == [True] * 3
        assert works(MINE) == [False] * 3
        assert ask(addresses[2], "PUT /v1/opened/a.png", ANOTHER, body=sealed.body).status == 200
        assert ask(addresses[0], "GET /v1/images/a.png", ANOTHER).status == 200
        said = [line for node in it.config.addresses for line in it.said(node)]
        assert not [line for line in said if "slt_" in line or fingerprint(token("mine"))[:8] in line]


def own_address() -> str:
    """An IPv4 address of this machine that is not loopback. Nothing is sent to find it (UDP)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address beyond loopback")
        return str(probe.getsockname()[0])


def test_beyond_loopback_only_the_operator_adds_users(tmp_path: Path) -> None:
    host = own_address()
    with socket.create_server((host, 0)) as free:
        port = free.getsockname()[1]
    create_cluster(tmp_path / "data")
    with running(tmp_path, 1, servers=(f"{host}:{port}",), insecure_http=True) as it:
        it.wait_for_line(1, "WARNING: plain HTTP beyond loopback")
        address = it.config.addresses[1]
        assert ask(address, "GET /v1/cluster").json()["open_enrolment"] is False
        assert "operator" in refused(ask(address, "PUT /v1/users/alice", MINE), Problem.ENROLMENT_CLOSED)
        refused(ask(address, "PUT /v1/images/a.png", MINE, body=b"hello"), Problem.UNKNOWN_TOKEN)
        refused(ask(address, "GET /v1/status", host=f"localhost:{port}"), Problem.WRONG_HOST)
        command = [sys.executable, "-m", "safelight", "user", "add", "alice", fingerprint(token("mine"))]
        subprocess.run(command, env=environment(it.config), check=True, capture_output=True)
        # Within a second: so long the node remembers that the token was unknown.
        eventually(lambda: ask(address, "PUT /v1/images/a.png", MINE, body=b"hello").status == 201, "alice may upload")
