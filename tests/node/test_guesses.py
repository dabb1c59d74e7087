"""Guessing tokens is slow, and costs nobody else anything; so do patterns that are never the same."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest

from safelight.config import Address
from safelight.node.guesses import ADDRESSES, BURST, RATE, Guesses
from safelight.protocol import Problem
from tests.node.rude import Line, ask, enrolled, image, line, refused
from tests.running import SETTLED, Running, running


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, 1, heartbeat=SETTLED) as it:
        yield it


@pytest.fixture
def node(cluster: Running) -> Address:
    return cluster.config.addresses[1]


def guess(connection: Line) -> int:
    connection.request("GET /v1/images", f"Authorization: Bearer slt_{secrets.token_urlsafe(32)}")
    answer = connection.answer()
    if answer.status == 429:
        refused(answer, Problem.TOO_MANY_TOKENS)
        assert answer.headers["retry-after"] == "1"
    return answer.status


def test_guessing_is_slowed_down_for_the_one_who_guesses_alone(cluster: Running, node: Address) -> None:
    alice = enrolled(cluster.config, "alice")
    assert ask(node, "GET /v1/images", alice).status == 200
    with line(node) as connection:
        statuses = Counter(guess(connection) for _ in range(2000))
        assert statuses.keys() == {401, 429}
        assert statuses[429] > 1000
        for _ in range(100):
            assert ask(node, "GET /v1/images", alice).status == 200
            guess(connection)
    ben = enrolled(cluster.config, "ben")  # enrolling is no guess
    while (answer := ask(node, "GET /v1/images", ben)).status == 429:  # it has to wait its turn, as others do
        pass
    assert answer.status == 200


def test_one_user_may_come_with_many_requests_at_once(cluster: Running, node: Address) -> None:
    alice = enrolled(cluster.config, "alice")
    with ExitStack() as stack:
        lines = [stack.enter_context(line(node)) for _ in range(3 * int(BURST))]
        for each in lines:
            each.request("GET /v1/images", alice)
        assert {each.answer().status for each in lines} == {200}


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
    guesses = Guesses()
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
