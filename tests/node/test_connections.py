"""Every client gets in: a crowd that holds connections and says nothing locks nobody out, and is reported once."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from safelight.config import Address
from safelight.local.cluster import environment, ephemeral_config
from safelight.node.connections.eviction import CALM, FIRST_HEAD, MOST, ConnectionTable, TrackedConnection, most_of
from safelight.runtime.tls import client_tls
from tests.mission.support import seal
from tests.node.raw_http import Line, ask, enrolled, line
from tests.node.test_tls import papers
from tests.running import Running, eventually, running

DESCRIPTORS = 256
CROWD = 300
TOO_MANY = "too many connections"


# -- the policy, without connections -----------------------------------------------------------------


class Table:
    """A node's connections, which only remember that they were closed; and a clock."""

    def __init__(self, most: int = 8) -> None:
        self.now = 0.0
        self.lines: list[str] = []
        self.cut: list[str] = []
        self.it = ConnectionTable(most, self.lines.append, clock=lambda: self.now)

    def opened(self, name: str, address: str = "127.0.0.1") -> TrackedConnection:
        return self.it.opened(address, lambda: self.cut.append(name))


def test_for_one_too_many_from_an_address_its_longest_quiet_stranger_is_closed() -> None:
    table = Table()
    other = table.opened("other", "192.0.2.1")
    first = table.opened("first")
    for number in range(3):
        table.opened(f"{number}")
    first.began()
    first.ended()
    table.opened("one more")
    assert table.cut == ["0"]
    other.began()  # is still there, and counts
    assert len(table.it) == 5


def test_addresses_of_one_network_are_one_address() -> None:
    table = Table()
    for number in range(5):
        table.opened(f"{number}", f"2001:db8::{number}")
    assert table.cut == ["0"]
    table.opened("v4", "::ffff:192.0.2.1")
    table.opened("elsewhere", "2001:db8:0:1::1")
    assert table.cut == ["0"]


def test_for_one_too_many_in_all_the_longest_quiet_stranger_is_closed_and_no_user_and_no_peer() -> None:
    table = Table()
    table.opened("alice").belongs_to("alice")
    table.opened("peer").is_a_peers()
    for number in range(20):
        table.opened(f"{number}", f"192.0.2.{number}")
    assert table.cut == [f"{number}" for number in range(13)]
    assert len(table.it) == 8


def test_users_share_three_quarters_and_the_one_with_the_most_gives_way_where_it_is_idle() -> None:
    table = Table()
    table.opened("bob").belongs_to("bob")
    for number in range(5):
        entry = table.opened(f"{number}")
        entry.belongs_to("alice")
        if number == 0:
            entry.began()
    table.opened("carol").belongs_to("carol")
    assert table.cut == ["1"]
    for number in range(3):
        table.opened(f"stranger {number}")  # there is always room for them
    assert table.cut == ["1", "stranger 0"]


def test_a_connection_without_a_first_request_is_closed_in_time_and_another_is_not() -> None:
    table = Table()
    table.opened("silent")
    spoke = table.opened("spoke")
    spoke.began()
    spoke.ended()
    table.now = FIRST_HEAD - 0.1
    table.it.tick()
    assert table.cut == []
    table.now = FIRST_HEAD
    table.it.tick()
    assert table.cut == ["silent"]


def test_exhaustion_is_reported_once_and_once_when_it_is_over() -> None:
    table = Table()
    for number in range(100):
        table.opened(f"{number}")
    assert len(table.lines) == 1
    table.now = CALM
    table.it.tick()
    table.it.tick()
    assert len(table.lines) == 2
    assert "no longer" in table.lines[1]


@pytest.mark.parametrize(
    ("descriptors", "most"), [(256, 96), (1024, 480), (4096, 3072), (20_000, MOST), (1 << 20, MOST), (10, 8)]
)
def test_descriptors_are_left_for_other_things(descriptors: int, most: int) -> None:
    assert most_of(descriptors) == most


# -- real nodes --------------------------------------------------------------------------------------


@contextmanager
def few_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nodes that are started meanwhile may have few files open; the hard limit says so."""
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nulimit -n {DESCRIPTORS}\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setattr("safelight.local.cluster.sys.executable", str(script))
        yield


@contextmanager
def crowd(address: Address, said: bytes = b"", size: int = CROWD) -> Iterator[list[Line]]:
    """Connections that say this, and no more."""
    with ExitStack() as stack:
        yield [stack.enter_context(_connection(address, said)) for _ in range(size)]


@contextmanager
def _connection(address: Address, said: bytes) -> Iterator[Line]:
    with line(address) as it:
        it.send(said)
        yield it


def complaints(it: Running, node: int) -> int:
    return sum(TOO_MANY in said for said in it.said(node))


@pytest.mark.parametrize("said", [b"", b"GET /v1/status HTTP/1.1\r\nHo"], ids=["silent", "half a head"])
def test_an_idle_crowd_locks_nobody_out_and_the_next_node_leads_when_the_leader_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photograph: Path, said: bytes
) -> None:
    with few_descriptors(tmp_path, monkeypatch), running(tmp_path / "cluster") as it, ExitStack() as stack:
        for address in it.config.addresses.values():
            stack.enter_context(crowd(address, said))
        seal(it.config, photograph, tmp_path / "images")
        assert ask(it.config.addresses[3], "GET /v1/status").status == 200
        it.cluster.kill(3)
        it.wait_until_leader(2)
        seal(it.config, photograph, tmp_path / "images")
        assert [complaints(it, node) for node in (1, 2, 3)] == [1, 1, 1]
        it.cluster.start(3)
        it.wait_until_leader(3)


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    with few_descriptors(tmp_path, monkeypatch), running(tmp_path / "cluster", 1) as it:
        yield it


def test_strangers_do_not_break_a_users_connection_nor_one_user_anothers(one: Running) -> None:
    address, alice, bob = one.config.addresses[1], enrolled(one.config, "alice"), enrolled(one.config, "bob")
    with line(address) as of_bob:

        def works() -> bool:
            of_bob.request("GET /v1/images", bob)
            return of_bob.answer().status == 200

        assert works()
        with crowd(address):
            assert works()
        with ExitStack() as stack:
            for _ in range(CROWD):
                of_alice = stack.enter_context(line(address))
                of_alice.request("GET /v1/images", alice)
                assert of_alice.answer().status == 200
            assert works()
        assert complaints(one, 1) == 1


def test_connections_that_never_shake_hands_for_tls_lock_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = papers(tmp_path / "papers")
    tls: dict[str, Any] = {"tls_certificate": files.certificate, "tls_key": files.key, "tls_ca": files.authority}
    with few_descriptors(tmp_path, monkeypatch), running(tmp_path / "cluster", 1, **tls) as it:
        address = it.config.addresses[1]
        with crowd(address), line(address, client_tls(it.config)) as other:
            other.request("GET /v1/status")
            assert other.answer().status == 200
            assert complaints(it, 1) == 1


def test_a_node_that_can_open_no_file_says_so_and_lets_another_lead_until_it_can(tmp_path: Path) -> None:
    with running(tmp_path, 2) as it:
        soft, hard = resource.prlimit(it.cluster.pid(2), resource.RLIMIT_NOFILE)
        assert soft == hard  # as it raised it itself
        resource.prlimit(it.cluster.pid(2), resource.RLIMIT_NOFILE, (3, hard))
        with crowd(it.config.addresses[2], size=20):  # which cannot be accepted
            it.wait_for_line(2, "ineligible to lead: it has no free file descriptors")
            eventually(lambda: any("Node 1: I am the new leader" in said for said in it.said(1)), "another leads")
        resource.prlimit(it.cluster.pid(2), resource.RLIMIT_NOFILE, (soft, hard))
        it.wait_for_line(2, "eligible to lead again")
        it.wait_until_leader(2)
        assert complaints(it, 2) == 1
        assert not any("disk" in said or "keyring" in said or "Traceback" in said for said in it.said(2))


def test_a_head_that_comes_byte_by_byte_is_cut_off(tmp_path: Path) -> None:
    """With a small limit here, for a test's sake."""
    config = ephemeral_config(tmp_path, 1)
    program = (
        "from safelight.node.connections import eviction; eviction.FIRST_HEAD = 0.5\n"
        "from safelight.config import load; from safelight.node.server import run; import os, pathlib\n"
        "run(load(pathlib.Path(os.devnull), "
        "{'servers': os.environ['SAFELIGHT_SERVERS'], 'data_dir': os.environ['SAFELIGHT_DATA_DIR']}), 1)"
    )
    node = subprocess.Popen([sys.executable, "-u", "-c", program], env=environment(config), stdout=subprocess.PIPE)
    done = threading.Event()
    try:
        assert node.stdout is not None
        assert b"listening" in node.stdout.readline()
        with line(config.addresses[1]) as slow:

            def dribble() -> None:
                for byte in b"GET /v1/status HTTP/1.1\r\nX-Slow: " + b"x" * 1000:
                    if done.wait(0.1):
                        break
                    slow.send(bytes([byte]))

            dribbling = threading.Thread(target=dribble)
            dribbling.start()
            try:
                assert slow.ended()
            finally:
                done.set()
                dribbling.join()
    finally:
        node.terminate()
        node.wait()
        assert node.stdout is not None
        node.stdout.close()
