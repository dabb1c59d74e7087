"""On loopback the first token for a name claims it; elsewhere the operator adds users."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from safelight.cluster import environment
from safelight.node.datadir import create_cluster
from safelight.node.users import add
from safelight.protocol import Problem, fingerprint
from tests.node.rude import ask, image, refused
from tests.running import Running, running

MINE, ANOTHER = "Authorization: Bearer slt_mine", "Authorization: Bearer slt_another"


def test_the_first_token_claims_a_name_on_every_node(shared_cluster: Running) -> None:
    one, two, three = shared_cluster.config.addresses.values()
    assert ask(one, "PUT /v1/users/alice", MINE).status == 201
    assert ask(two, "PUT /v1/users/alice", MINE).status == 200
    refused(ask(three, "PUT /v1/users/alice", ANOTHER), Problem.NAME_TAKEN)
    assert ask(three, "PUT /v1/images/a.png", MINE, body=image(10)).status == 201
    refused(ask(three, "PUT /v1/images/a.png", ANOTHER, body=image(10)), Problem.UNKNOWN_TOKEN)


def test_a_token_is_one_users_only(shared_cluster: Running) -> None:
    one, two, _ = shared_cluster.config.addresses.values()
    header = "Authorization: Bearer slt_carols"
    assert ask(one, "PUT /v1/users/carol", header).status == 201
    refused(ask(two, "PUT /v1/users/dave", header), Problem.WRONG_USER)
    assert ask(one, "PUT /v1/users/carol", header).status == 200


def test_of_many_tokens_at_once_one_claims_the_name(shared_cluster: Running) -> None:
    addresses = list(shared_cluster.config.addresses.values())
    statuses: list[int] = []

    def claim(number: int) -> None:
        header = f"Authorization: Bearer slt_{number}"
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
        header = f"Authorization: Bearer slt_greedy{number}"
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
        add(it.config.data_dir, "alice", fingerprint("slt_mine"))
        record = it.config.data_dir / "users" / "alice.json"
        record.write_text("damaged")
        answer = ask(address, "PUT /v1/images/a.png", MINE, body=b"hello")
        assert str(tmp_path) not in refused(answer, Problem.INTERNAL)
        it.wait_for_line(1, str(record))
        refused(ask(address, "PUT /v1/images/a.png", ANOTHER, body=b"hello"), Problem.UNKNOWN_TOKEN)
        assert ask(address, "PUT /v1/users/bob", ANOTHER).status == 201
        record.unlink()
        assert ask(address, "PUT /v1/users/alice", MINE).status == 201


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
        command = [sys.executable, "-m", "safelight", "user", "add", "alice", fingerprint("slt_mine")]
        subprocess.run(command, env=environment(it.config), check=True, capture_output=True)
        assert ask(address, "PUT /v1/images/a.png", MINE, body=b"hello").status == 201
