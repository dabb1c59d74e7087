"""Guessing tokens is slow, and costs nobody else anything; so do patterns that are never the same."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast
from urllib.parse import quote

import pytest

from safelight.cli.admin import users as admin
from safelight.config import Address, Config
from safelight.encryption.keys import Keyring
from safelight.node.http.guess_rate_limit import ADDRESSES, BURST, RATE, GuessRateLimit
from safelight.node.state.token_index import TokenIndex
from safelight.vault.records import TOKENS, Records
from safelight.vault.stores.base import Entry
from safelight.vault.vault import Vault
from safelight.wire.messages import Problem, fingerprint
from tests.node.raw_http import Line, ask, enrolled, image, line, refused
from tests.running import GENEROUS, SETTLED, Running, running


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, 1, heartbeat=SETTLED) as it:
        yield it


@pytest.fixture
def node(cluster: Running) -> Address:
    return cluster.config.addresses[1]


def wrong() -> str:
    return f"Authorization: Bearer slt_{secrets.token_urlsafe(32)}"


def status(connection: Line) -> int:
    answer = connection.answer()
    if answer.status == 429:
        refused(answer, Problem.TOO_MANY_TOKENS)
        assert answer.headers["retry-after"] == "1"
    return answer.status


def guess(connection: Line, token: str = "") -> int:
    connection.request("GET /v1/images", token or wrong())
    return status(connection)


@contextmanager
def guessing(node: Address, start: str = "GET /v1/images", *, connections: int = 40) -> Iterator[Counter[int]]:
    """Somebody guesses on so many connections as fast as the node answers; what it has answered. What this address may
    try is used up by then.
    """
    statuses, done, exhausted = Counter[int](), threading.Event(), threading.Event()

    def go() -> None:
        with ExitStack() as stack:
            lines = [stack.enter_context(line(node)) for _ in range(connections)]
            while not done.is_set():
                for each in lines:
                    each.request(start, wrong())
                for each in lines:
                    statuses[status(each)] += 1
                if statuses[429] > connections:
                    exhausted.set()

    thread = threading.Thread(target=go)
    thread.start()
    try:
        assert exhausted.wait(GENEROUS)
        yield statuses
    finally:
        done.set()
        thread.join()


def enrolled_elsewhere(config: Config, count: int) -> list[str]:
    """So many users whom no node knows yet; the headers that prove them."""
    headers = [wrong() for _ in range(count)]

    async def enrol() -> None:
        async with admin.opened(config) as users:
            for number, header in enumerate(headers):
                await users.enrol(f"user-{number}", fingerprint(header.rpartition(" ")[2]))

    asyncio.run(enrol())
    return headers


def test_guessing_is_slowed_down_for_the_one_who_guesses_alone(cluster: Running, node: Address) -> None:
    alice = enrolled(cluster.config, "alice")
    assert ask(node, "GET /v1/images", alice).status == 200
    began = time.monotonic()
    with guessing(node) as statuses:
        for _ in range(100):
            assert ask(node, "GET /v1/images", alice).status == 200
    assert statuses.keys() == {401, 429}
    assert statuses[401] <= BURST + RATE * (time.monotonic() - began) + 1


def test_users_that_the_node_does_not_know_get_in_while_their_address_is_guessing(
    cluster: Running, node: Address
) -> None:
    """One token each, at the first attempt; also a name that is new."""
    with guessing(node), guessing(node):
        for header in enrolled_elsewhere(cluster.config, 3):
            assert ask(node, "GET /v1/images", header).status == 200
        alice = enrolled(cluster.config, "alice")
        assert ask(node, "GET /v1/images", alice).status == 200


def test_enrolment_is_no_way_round(cluster: Running, node: Address) -> None:
    alice = enrolled(cluster.config, "alice")
    with guessing(node, "PUT /v1/users/alice") as statuses:
        (ben,) = enrolled_elsewhere(cluster.config, 1)
        assert ask(node, "PUT /v1/users/user-0", ben).status == 200
        assert ask(node, "PUT /v1/users/carol", wrong()).status == 201
        assert ask(node, "PUT /v1/users/alice", alice).status == 200
    assert statuses.keys() == {409, 429}


def test_a_look_that_finds_a_user_costs_nothing(cluster: Running, node: Address) -> None:
    with line(node) as connection:
        for header in enrolled_elsewhere(cluster.config, int(BURST)):
            assert guess(connection, header) == 200
        for number in range(int(BURST)):
            connection.request(f"PUT /v1/users/new-{number}", wrong())
            assert connection.answer().status == 201
        assert {guess(connection) for _ in range(int(BURST) - 1)} == {401}


def test_the_same_wrong_token_again_costs_nothing(cluster: Running, node: Address) -> None:
    token = wrong()
    with line(node) as connection:
        assert {guess(connection, token) for _ in range(3 * int(BURST))} == {401}
        assert {guess(connection) for _ in range(int(BURST) // 2)} == {401}


class Listed:
    """A vault of one user, which counts its listings."""

    def __init__(self) -> None:
        self.records = Records(Keyring.new)
        self.store = self
        self.listings = 0

    async def list(self, prefix: str) -> AsyncIterator[Entry]:
        self.listings += prefix == TOKENS
        await asyncio.sleep(0.01)
        yield Entry(self.records.token("alice's") if prefix == TOKENS else f"{self.records.user('alice')}.1", 1, 0.0)


def test_one_listing_serves_all_who_wait() -> None:
    vault = Listed()
    claims = TokenIndex(lambda: cast(Vault, vault))

    async def go() -> None:
        for _ in range(2):
            found = await asyncio.gather(*(claims.token("alice's" if number == 7 else "x") for number in range(1000)))
            assert [number for number, each in enumerate(found) if each] == [7]
        assert vault.listings == 2
        assert [await claims.may_enrol(*each) for each in (("x", "alice"), ("alice's", "alice"), ("x", "ben"))] == [
            False,
            True,
            True,
        ]

    asyncio.run(go())


def test_one_user_may_come_with_many_requests_at_once(cluster: Running, node: Address) -> None:
    alice = enrolled(cluster.config, "alice")
    with ExitStack() as stack:
        lines = [stack.enter_context(line(node)) for _ in range(3 * int(BURST))]
        for each in lines:
            each.request("GET /v1/images/none.png", alice)  # which takes no place, as a listing does
        assert {each.answer().status for each in lines} == {404}


def test_what_is_no_token_is_refused_without_a_look(cluster: Running, node: Address) -> None:
    well_formed = secrets.token_urlsafe(32)
    for wrong in (
        "slt_short",
        f"slt_{well_formed}x",
        f"SLT_{well_formed}",
        well_formed,
        f"slt_{well_formed[:-1]}+",
        "é" * 47,
    ):
        for _ in range(int(BURST)):
            answer = ask(node, "GET /v1/images", f"Authorization: Bearer {wrong}")
            assert "43 characters" in refused(answer, Problem.UNKNOWN_TOKEN)
        refused(ask(node, "PUT /v1/users/zoe", f"Authorization: Bearer {wrong}"), Problem.BAD_REQUEST)


def test_addresses_are_counted_apart_and_forgotten() -> None:
    guesses = GuessRateLimit()
    assert sum(guesses.take("a", 0.0) for _ in range(1000)) == BURST
    assert guesses.take("b", 0.0)
    assert not guesses.take("a", 0.5 / RATE)
    assert guesses.take("a", 1.1 / RATE)
    guesses.give_back("a", 1.1 / RATE)
    assert guesses.take("a", 1.1 / RATE)
    assert sum(guesses.take("a", 3600.0) for _ in range(1000)) == BURST
    for number in range(ADDRESSES + 10):
        guesses.take(str(number), 0.0)
    assert len(guesses._left) == ADDRESSES


def memory(cluster: Running) -> int:
    status = Path(f"/proc/{cluster.cluster.pid(1)}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) << 10


@pytest.mark.slow
def test_patterns_are_not_remembered(cluster: Running, node: Address) -> None:
    alice = enrolled(cluster.config, "alice")
    assert ask(node, "PUT /v1/images/a.png", alice, body=image(10)).status == 201
    with line(node) as connection:

        def listed(number: int) -> bytes:
            connection.request(f"GET /v1/images?match={quote(f'{number:x}-' + '*[x-z]?' * 30)}", alice)
            return connection.answer().body

        for number in range(600):  # what is bounded is full by now
            assert listed(number) == b'{"images":[]}'
        before = memory(cluster)
        for number in range(600, 2100):
            listed(number)
    assert memory(cluster) - before < 2 << 20


@pytest.mark.parametrize("pattern", ["*a" * 127 + "b", "*?" * 127, "[!b]*" * 50, "*[a-z]" * 42, "[" * 255, "[]" * 127])
def test_no_pattern_takes_long(cluster: Running, node: Address, pattern: str) -> None:
    alice = enrolled(cluster.config, "alice")
    for _ in range(3):
        assert ask(node, f"PUT /v1/images/{'a' * 240 + secrets.token_hex(4)}", alice, body=image(10)).status == 201
    answer = ask(node, f"GET /v1/images?match={quote(pattern, safe='')}", alice)  # else it times out
    assert answer.status == 200
