"""What a user has running ends with the user: soon, visibly, and with nothing kept of it."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request

from safelight.cli.admin import users as admin
from safelight.config import Address
from safelight.node.connections.http_connection import USER
from safelight.node.http import revocation
from safelight.node.state.users import Users
from safelight.wire.messages import Action, Grant, Listing, Offer, Problem, fingerprint
from tests.node.raw_http import Line, ask, enrolled, image, line, refused
from tests.running import GENEROUS, SETTLED, Running, eventually, running

LARGE = image(48 << 20)
"""More than the operating system takes at once for a client that does not read."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, 1, heartbeat=SETTLED, body_timeout=600.0) as it:
        yield it


@pytest.fixture
def node(cluster: Running) -> Address:
    return cluster.config.addresses[1]


def revoke(cluster: Running, user: str = "alice") -> None:
    asyncio.run(admin.revoke(cluster.config, user))


def give(cluster: Running, user: str = "alice") -> str:
    """Another token of the user's, as a header."""
    new = f"slt_{secrets.token_urlsafe(32)}"
    asyncio.run(admin.give(cluster.config, user, fingerprint(new)))
    return f"Authorization: Bearer {new}"


def granted(node: Address, token: str, name: str, size: int, action: Action = Action.SEAL) -> str:
    offer = msgspec.json.encode(Offer("alice", secrets.token_hex(16), name, size, action))
    grant = msgspec.json.decode(ask(node, "POST /v1/offers", token, body=offer).body, type=Grant)
    return f"Authorization: Ticket {grant.ticket}"


def in_flight(node: Address) -> int:
    count = ask(node, "GET /v1/status").json()["nodes"][0]["in_flight"]
    assert isinstance(count, int)
    return count


def names(node: Address, token: str) -> set[str]:
    return {each.name for each in msgspec.json.decode(ask(node, "GET /v1/images", token).body, type=Listing).images}


class Feeder(threading.Thread):
    """Sends an upload a little at a time, for as long as the node takes it; then it has `ended`."""

    def __init__(self, connection: Line) -> None:
        super().__init__(daemon=True)
        self._connection = connection
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            while True:
                self._connection.socket.sendall(bytes(4000))
                time.sleep(0.05)
        except OSError:
            self.ended.set()


def broken(connection: Line) -> bool:
    """Whether the node has broken the connection off, with less than all of its answer in what is left to read."""
    read = 0
    try:
        while chunk := connection.socket.recv(1 << 20):
            read += len(chunk)
    except ConnectionError:
        pass
    return read < len(LARGE) // 2


def start_all(stack: ExitStack, node: Address, token: str) -> tuple[list[Feeder], list[Line]]:
    """An upload and a download of each kind, and a WebSocket: what is fed, and what is read."""
    assert ask(node, "PUT /v1/images/large.png", token, "Prefer: return=minimal", body=LARGE).status == 201
    fed, read = [], []
    for number, authorization in enumerate([token, granted(node, token, "slow-1.png", 10_000_000)]):
        upload = stack.enter_context(line(node))
        upload.request(f"PUT /v1/images/slow-{number}.png", authorization, "Content-Length: 10000000")
        fed.append(Feeder(upload))
    for accept in ("*/*", "application/vnd.safelight.sealed"):
        download = stack.enter_context(line(node))
        download.request("GET /v1/images/large.png", token, f"Accept: {accept}")
        assert download.interim().startswith("HTTP/1.1 200 ")
        read.append(download)
    offers = stack.enter_context(line(node))
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    offers.request("GET /v1/offers", token, *upgrade, f"Sec-WebSocket-Key: {'A' * 22}==")
    assert offers.interim().startswith("HTTP/1.1 101 ")
    read.append(offers)
    eventually(lambda: in_flight(node) == 4, "all of them run")
    return fed, read


def test_a_revocation_ends_what_its_user_has_running_and_nothing_of_others(cluster: Running, node: Address) -> None:
    alice, ben = enrolled(cluster.config, "alice"), enrolled(cluster.config, "ben")
    with ExitStack() as stack:
        fed, read = start_all(stack, node, alice)
        others = stack.enter_context(line(node))
        others.request("PUT /v1/images/bens.png", ben, "Content-Length: 1000", body=image(500))
        tickets = {
            Action.SEAL: granted(node, alice, "later.png", 1000),
            Action.REMOVE: granted(node, alice, "large.png", 0, Action.REMOVE),
        }
        revoke(cluster)
        assert all(each.ended.wait(20) for each in fed)
        assert all(broken(each) for each in read)
        cluster.wait_for_line(1, "requests of alice, who was revoked")
        refused(ask(node, "PUT /v1/images/later.png", tickets[Action.SEAL], body=image(1000)), Problem.USER_REVOKED)
        refused(ask(node, "DELETE /v1/images/large.png", tickets[Action.REMOVE]), Problem.USER_REVOKED)
        eventually(lambda: ask(node, "GET /v1/images", alice).status == 401, "the token is refused")  # within a second
        refused(ask(node, "GET /v1/images", alice), Problem.UNKNOWN_TOKEN)
        others.send(bytes(500))
        assert others.answer().status == 201
    eventually(lambda: in_flight(node) == 0, "nothing is in flight")
    assert names(node, give(cluster)) == {"large.png"}
    assert all(each.startswith("Node 1: ") for each in cluster.said(1))


def test_another_token_ends_what_the_first_has_begun(cluster: Running, node: Address) -> None:
    alice = enrolled(cluster.config, "alice")
    with ExitStack() as stack:
        (by_token, by_ticket), read = start_all(stack, node, alice)
        new = give(cluster)
        assert by_token.ended.wait(20)
        assert all(broken(each) for each in read)
        assert not by_ticket.ended.wait(2)  # the cluster has granted it to the user, whatever the token
        assert names(node, new) == {"large.png"}


class Requests:
    """The requests of so many users, as `revocation.Running` knows them, and what it asks about the users."""

    def __init__(self, users: int, *, takes: float, fails: Callable[[str], bool] = lambda _: False) -> None:
        self._takes, self._fails = takes, fails
        self.looks: dict[str, list[float]] = {f"user-{number}": [] for number in range(users)}

    async def active(self, user: str, token: str | None, *, within: float) -> bool:
        self.looks[user].append(time.monotonic())
        if self._fails(user):
            raise OSError("unexpected")
        await asyncio.sleep(self._takes)
        return True

    async def run(self, enough: Callable[[], bool]) -> None:
        """Check until it is enough."""
        checked = revocation.ActiveRequests(cast(Users, self), print)
        requests = [make_mocked_request("GET", "/") for _ in self.looks]
        with ExitStack() as stack:
            for request, user in zip(requests, self.looks, strict=True):
                request[USER] = user
                stack.enter_context(checked.watched(request))
            checked.start()
            async with asyncio.timeout(GENEROUS):
                while not enough():  # noqa: ASYNC110 - what is awaited has no event
                    await asyncio.sleep(0.02)
            checked.stop()


def test_many_users_are_checked_at_the_same_time() -> None:
    """One after the other they would take eight seconds."""
    it = Requests(20, takes=0.4)
    asyncio.run(it.run(lambda: all(it.looks.values())))
    first = [looks[0] for looks in it.looks.values()]
    assert max(first) - min(first) < 4


def test_an_error_with_one_user_ends_no_checks_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    it = Requests(2, takes=0.0, fails=lambda user: user == "user-0")
    asyncio.run(it.run(lambda: all(len(looks) >= 3 for looks in it.looks.values())))
    assert len([each for each in caplog.records if "revoked" in each.message]) == 1


def test_a_look_that_hangs_delays_no_others() -> None:
    it = Requests(2, takes=0.0)

    async def active(user: str, token: str | None, *, within: float) -> bool:
        it.looks[user].append(time.monotonic())
        if user == "user-0":
            await asyncio.Event().wait()
        return True

    it.active = active  # type: ignore[method-assign]
    asyncio.run(it.run(lambda: len(it.looks["user-1"]) >= 3))
    assert len(it.looks["user-0"]) == 1
