"""Many at once, and some of them slow: everything ends well, and nobody holds a connection for ever."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from safelight.local.cluster import environment, ephemeral_config
from safelight.node.work.spool import SPOOLS_IN_MEMORY
from safelight.wire.messages import Problem
from tests.node.raw_http import ask, enrolled, image, line, new_image, refused
from tests.running import Running, eventually, running

pytestmark = pytest.mark.slow

CROWD = SPOOLS_IN_MEMORY + 6
LARGER_CROWD = 200


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("crowd"), 1, body_timeout=3.0, max_in_flight=LARGER_CROWD) as it:
        yield it


def in_flight(it: Running) -> int:
    count = ask(it.config.addresses[1], "GET /v1/status").json()["nodes"][0]["in_flight"]
    assert isinstance(count, int)
    return count


def test_two_hundred_at_once_are_all_sealed(one: Running) -> None:
    address, token = one.config.addresses[1], enrolled(one.config, "alice")
    statuses: list[int] = []

    def upload() -> None:
        statuses.append(ask(address, new_image(), token, body=image(20_000)).status)

    crowd = [threading.Thread(target=upload) for _ in range(LARGER_CROWD)]
    for each in crowd:
        each.start()
    for each in crowd:
        each.join()
    assert Counter(statuses) == {201: LARGER_CROWD}
    eventually(lambda: in_flight(one) == 0, "nothing is in flight")


def test_seventy_slow_ones_are_all_sealed(one: Running) -> None:
    address, token = one.config.addresses[1], enrolled(one.config, "bob")
    with ExitStack() as stack:
        crowd = [stack.enter_context(line(address)) for _ in range(CROWD)]
        for each in crowd:
            each.request(new_image(), token, "Content-Length: 3000", body=image(1000))
        eventually(lambda: in_flight(one) == len(crowd), "all have begun")
        for _ in range(2):
            for each in crowd:
                each.send(bytes(1000))
        assert Counter(each.answer().status for each in crowd) == {201: len(crowd)}
    eventually(lambda: in_flight(one) == 0, "nothing is in flight")


def test_an_answer_that_nobody_reads_is_broken_off(one: Running) -> None:
    address, token = one.config.addresses[1], enrolled(one.config, "erin")
    large = image(24 << 20)
    with line(address) as deaf:
        deaf.request(new_image(), token, f"Content-Length: {len(large)}", body=large)
        eventually(lambda: in_flight(one) == 1, "it is in work")
        one.wait_for_line(1, "A response ended early")
        eventually(lambda: in_flight(one) == 0, "it is given up")


def test_a_herd_that_stands_still_holds_nobody_up_and_is_given_up(one: Running) -> None:
    address, token = one.config.addresses[1], enrolled(one.config, "carol")
    with ExitStack() as stack:
        herd = [stack.enter_context(line(address)) for _ in range(CROWD)]
        for each in herd:
            each.request(new_image(), token, "Content-Length: 3000", body=image(1000))
        eventually(lambda: in_flight(one) == CROWD, "the herd is there")
        assert ask(address, new_image(), token, body=image(1000)).status == 201
        eventually(lambda: in_flight(one) == CROWD, "the others stand still: nobody waited until they were given up")
        for each in herd:
            refused(each.answer(), Problem.STALLED)
    eventually(lambda: in_flight(one) == 0, "nothing is in flight")


def test_a_herd_that_crawls_does_not_hold_up_others(one: Running) -> None:
    address, token = one.config.addresses[1], enrolled(one.config, "dave")
    done = threading.Event()
    with ExitStack() as stack:
        herd = [stack.enter_context(line(address)) for _ in range(CROWD)]
        for each in herd:
            each.request(new_image(), token, "Content-Length: 100000", body=image(1000))
        eventually(lambda: in_flight(one) == CROWD, "the herd is there")

        def crawl() -> None:
            while not done.wait(0.2):
                for each in herd:
                    each.send(b"x")

        crawling = threading.Thread(target=crawl)
        crawling.start()
        try:
            other = stack.enter_context(line(address))
            other.socket.settimeout(2 * one.config.body_timeout)
            other.request(new_image(), token, "Content-Length: 1000", body=image(1000))
            assert other.answer().status == 201
        finally:
            done.set()
            crawling.join()


def test_a_head_that_never_ends_is_hung_up_on(tmp_path: Path) -> None:
    """With a small limit here, for a test's sake."""
    config = ephemeral_config(tmp_path, 1)
    program = (
        "from safelight.node.connections import http_connection; http_connection.KEEPALIVE = 0.3\n"
        "from safelight.config import load; from safelight.node.server import run; import os, pathlib\n"
        "run(load(pathlib.Path(os.devnull), "
        "{'servers': os.environ['SAFELIGHT_SERVERS'], 'data_dir': os.environ['SAFELIGHT_DATA_DIR']}), 1)"
    )
    node = subprocess.Popen([sys.executable, "-u", "-c", program], env=environment(config), stdout=subprocess.PIPE)
    try:
        assert node.stdout is not None
        assert b"listening" in node.stdout.readline()
        address = config.addresses[1]
        for data in (b"", b"GET /v1/st", b"GET /v1/status HTTP/1.1\r\nHost: a\r\nX-Slow: "):
            with line(address) as slow:
                slow.send(data)
                assert slow.ended()
        with line(address) as kept:
            kept.request("GET /v1/status")
            assert kept.answer().status == 200
            kept.send(b"GET /v1/sta")
            assert kept.ended()
    finally:
        node.terminate()
        node.wait()
        assert node.stdout is not None
        node.stdout.close()


def test_a_slow_reader_gets_its_whole_answer(one: Running) -> None:
    """However long it takes altogether: what counts is that it moves."""
    address, token = one.config.addresses[1], enrolled(one.config, "frank")
    large = image(10 << 20)
    with line(address) as slow:
        slow.request(new_image(), token, f"Content-Length: {len(large)}", body=large)
        received = 0
        while received < len(large):
            piece = slow.socket.recv(1 << 16)
            assert piece, f"broken off after {received} bytes"
            received += len(piece)
            time.sleep(0.06)
