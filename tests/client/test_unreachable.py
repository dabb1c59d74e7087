"""A client that cannot reach servers, or the leader alone, says so and ends soon; a failover is not cut short by it."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest

from safelight.client.requests.feedback import NullFeedback
from safelight.client.requests.leader_search import NoLeader
from safelight.client.session import Session
from safelight.client.transport.account import Unreachable
from safelight.client.transport.servers import reasons
from safelight.config import Config
from safelight.local.cluster import ephemeral_config
from tests.cli.commandline import safelight
from tests.mission.support import Witness, seal
from tests.node.test_tls import papers
from tests.running import SETTLED, Running, as_user, eventually, running

pytestmark = pytest.mark.slow

LONG = 300.0
"""For `timeout`: seconds that a test never waits."""

SOON = 30.0
"""Seconds, for what takes two or three: far from both `LONG` and a slow machine's three."""

BEYOND = "node 3 leads and cannot be reached from here"


@contextmanager
def soon() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < SOON


@contextmanager
def deaf(stack: ExitStack, count: int) -> Iterator[list[str]]:
    """Addresses that answer no attempt to connect: their queues are full (listen(2))."""
    addresses = []
    for _ in range(count):
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        addresses.append("{}:{}".format(*listener.getsockname()))
    yield addresses


def closed() -> str:
    """An address where nobody listens."""
    [address] = ephemeral_config(Path(), 1).addresses.values()
    return address.netloc


async def listing(session: Session) -> int:
    return sum([len(page) async for page in session.images.all()])


async def removal(session: Session) -> int:
    return await session.remove("x.png", feedback=NullFeedback())


@pytest.mark.parametrize("kind", ["refused", "deaf"])
@pytest.mark.parametrize("work", [listing, removal, Session.fingerprint])
def test_without_any_server_all_ends_soon(
    tmp_path: Path, kind: str, work: Callable[[Session], Awaitable[object]]
) -> None:
    with ExitStack() as stack:
        servers = stack.enter_context(deaf(stack, 5)) if kind == "deaf" else [closed() for _ in range(20)]
        config = Config(servers=tuple(servers), client_dir=tmp_path / "client", timeout=LONG)
        why = "no answer in time" if kind == "deaf" else "connection refused"
        with soon(), pytest.raises(Unreachable, match=why):
            as_user(config, "alice", work)


def test_servers_with_the_same_reason_are_named_together() -> None:
    refused, late = ConnectionRefusedError(errno.ECONNREFUSED, ""), TimeoutError()
    assert reasons({3: refused}) == "server 3: connection refused"
    assert reasons({3: refused, 1: refused}) == "servers 1 and 3: connection refused"
    said = reasons({1: refused, 2: late, 3: refused, 4: refused})
    assert said == "servers 1, 3 and 4: connection refused; server 2: no answer in time"


def test_words_that_are_not_tried_are_not_passed_over(tmp_path: Path) -> None:
    config = Config(servers=(closed(),), client_dir=tmp_path / "client", timeout=LONG)
    done = safelight("get", "a*", "b*", "c*", "--user", "alice", config=config, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("0 done, 1 failed; the rest was not tried: no server answers at")
    done = safelight("get", "a*", "--user", "alice", config=config, cwd=tmp_path)
    assert done.returncode == 1
    assert "the rest" not in done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["refused", "deaf"])
def test_servers_that_vanish_in_mid_session_are_given_up_soon(tmp_path: Path, photograph: Path, kind: str) -> None:
    with running(tmp_path, heartbeat=SETTLED, timeout=LONG) as cluster, ExitStack() as stack:

        async def go(session: Session) -> None:
            await session.seal(photograph, to=tmp_path / "images", feedback=NullFeedback())
            assert await listing(session) == 1
            for node in (1, 2, 3):
                await asyncio.to_thread(cluster.cluster.kill, node)
            if kind == "deaf":
                for address in cluster.config.addresses.values():
                    listener = stack.enter_context(socket.create_server((address.host, address.port), backlog=0))
                    for _ in range(4):
                        filler = stack.enter_context(socket.socket())
                        filler.setblocking(False)
                        filler.connect_ex(listener.getsockname())
            for work in (listing, removal):
                with soon(), pytest.raises(NoLeader):
                    await work(session)

        as_user(cluster.config, "alice", go)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("cluster"), heartbeat=SETTLED, timeout=LONG) as it:
        yield it


def all_at_once(
    commands: Sequence[Sequence[str | Path]], config: Config, cwd: Path
) -> list[subprocess.CompletedProcess[str]]:
    with soon(), ThreadPoolExecutor() as pool:
        return [*pool.map(lambda command: safelight(*command, config=config, cwd=cwd), commands)]


def with_the_leader_at(config: Config, *address: str) -> Config:
    return msgspec.structs.replace(config, servers=(*config.servers[:2], *address))


def test_a_leader_that_cannot_be_reached_is_named(three: Running, tmp_path: Path, photograph: Path) -> None:
    config = with_the_leader_at(three.config, closed())
    name = seal(three.config, photograph, tmp_path / "images").path.name
    alice = ("--user", "alice")
    commands: list[list[str | Path]] = [
        ["upload", photograph, *alice],
        ["decrypt", f"images/{name}", *alice],
        ["rm", name, "--yes", *alice],
        ["step-down"],
    ]
    for done in all_at_once(commands, config, tmp_path):
        assert done.returncode == 1
        assert BEYOND in done.stderr
        assert "connection refused" in done.stderr
    listed = safelight("ls", "--json", *alice, config=config, cwd=tmp_path)
    assert name in [json.loads(line)["name"] for line in listed.stdout.splitlines()]
    assert safelight("get", name, *alice, config=config, cwd=tmp_path).returncode == 0


def test_a_leader_whose_address_is_missing_is_named(three: Running, tmp_path: Path, photograph: Path) -> None:
    with soon(), pytest.raises(NoLeader, match=r"node 3 leads.*name its address in --servers"):
        seal(with_the_leader_at(three.config), photograph, tmp_path / "images")


@pytest.mark.parametrize("kind", ["mute", "deaf"])
def test_a_leader_that_hangs_from_here_is_named_and_the_next_one_is_waited_for(
    tmp_path: Path, photograph: Path, kind: str
) -> None:
    with running(tmp_path / "cluster", heartbeat=SETTLED, timeout=LONG) as cluster, ExitStack() as stack:
        if kind == "deaf":
            [address] = stack.enter_context(deaf(stack, 1))
        else:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            address = "{}:{}".format(*listener.getsockname())
        seal(cluster.config, photograph, tmp_path / "images")
        config = with_the_leader_at(cluster.config, address)
        witness = Witness()
        witness.at(lambda told: told[0] == "unreachable" and BEYOND in str(told), lambda: cluster.cluster.kill(3))
        saved = seal(config, photograph, tmp_path / "images", feedback=witness)
        assert saved.node == 2
        assert (BEYOND,) in witness.of("waiting")


def test_a_node_that_answers_in_tls_where_plain_http_was_said_is_known_for_it(tmp_path: Path, photograph: Path) -> None:
    files = papers(tmp_path / "papers")
    with running(
        tmp_path / "cluster", 1, tls_certificate=files.certificate, tls_key=files.key, tls_ca=files.authority
    ) as cluster:
        [address] = cluster.config.addresses.values()
        servers, keyring = (f"http://{address.netloc}",), cluster.config.data_dir
        plain = Config(servers=servers, timeout=LONG, client_dir=tmp_path / "client", data_dir=keyring)
        mistaken(plain, tmp_path, photograph, "it expects TLS: write https:// before its address")
        eventually(lambda: not any("Traceback" in line for line in cluster.said(1)), "the node says nothing of it")


def test_a_node_that_answers_in_plain_http_where_tls_was_said_is_known_for_it(
    three: Running, tmp_path: Path, photograph: Path
) -> None:
    addresses = tuple(f"https://{address.netloc}" for address in three.config.addresses.values())
    config = Config(servers=addresses, timeout=LONG, client_dir=tmp_path / "client", data_dir=three.config.data_dir)
    mistaken(config, tmp_path, photograph, "it does not speak TLS")


def mistaken(config: Config, tmp_path: Path, photograph: Path, why: str) -> None:
    alice = ("--user", "alice")
    commands: list[list[str | Path]] = [
        ["upload", photograph, *alice],
        ["ls", *alice],
        ["token", "alice"],
        ["step-down"],
    ]
    for done in all_at_once(commands, config, tmp_path):
        assert done.returncode == 1
        assert why in done.stderr
        assert done.stderr.count("\n") == 1
        assert "safelight up" not in done.stderr
    assert why in safelight("status", config=config, cwd=tmp_path).stdout
