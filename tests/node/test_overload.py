"""A node takes a bounded amount of work: who comes beyond it is told so at once, and clients wait and go on."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from safelight.client.feedback import Silence
from safelight.client.session import Session
from safelight.protocol import Offer, Problem
from tests.node.rude import Answer, Line, ask, enrolled, image, line, new_image, refused
from tests.running import Running, as_user, eventually, running

MOST = 2
TIMEOUT = 2.0


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("overload")
    with running(directory, 1, max_in_flight=MOST, body_timeout=TIMEOUT) as it:
        yield it


@pytest.fixture(scope="module")
def token(one: Running) -> str:
    return enrolled(one.config, "alice")


def in_flight(it: Running) -> int:
    count = ask(it.config.addresses[1], "GET /v1/status").json()["nodes"][0]["in_flight"]
    assert isinstance(count, int)
    return count


def half(stack: ExitStack, it: Running, token: str) -> Line:
    """An upload of which the half has been sent."""
    upload = stack.enter_context(line(it.config.addresses[1]))
    upload.request(new_image(), token, "Content-Length: 2000", body=image(1000))
    return upload


@pytest.mark.parametrize("way", ["plain", "expecting", "an offer"])
def test_beyond_the_bound_a_node_says_at_once_that_it_is_busy(one: Running, token: str, way: str) -> None:
    address = one.config.addresses[1]
    answers: list[Answer] = []

    def third() -> Answer:
        match way:
            case "plain":
                return ask(address, new_image(), token, body=image(1000))
            case "expecting":
                return ask(address, new_image(), token, "Content-Length: 1000", "Expect: 100-continue")
            case _:
                offer = Offer("alice", "b" * 32, "x.png", 1)
                return ask(address, "POST /v1/offers", token, body=msgspec.json.encode(offer))

    def was_refused() -> bool:
        with ExitStack() as stack:
            for _ in range(MOST):
                half(stack, one, token)
            eventually(lambda: in_flight(one) >= MOST, "both are in work")
            answers.append(third())  # before the two count as crawling, unless the machine is slow: then once more
        eventually(lambda: in_flight(one) == 0, "they are given up")
        return answers[-1].status == 503

    eventually(was_refused, "the third is refused")
    refused(answers[-1], Problem.BUSY)
    assert int(answers[-1].headers["retry-after"]) >= 1


def test_who_crawls_takes_nobodys_place_and_is_cut_off(one: Running, token: str) -> None:
    address = one.config.addresses[1]
    done = threading.Event()
    with ExitStack() as stack:
        crawlers = [half(stack, one, token) for _ in range(MOST)]

        def crawl() -> None:
            while not done.wait(0.1):
                for each in crawlers:
                    each.send(b"x")

        crawling = threading.Thread(target=crawl)
        crawling.start()
        try:
            eventually(lambda: ask(address, new_image(), token, body=image(1000)).status == 201, "another is taken")
            for each in crawlers:
                assert "bytes came within" in refused(each.answer(), Problem.STALLED)
        finally:
            done.set()
            crawling.join()
    eventually(lambda: in_flight(one) == 0, "nothing is in flight")


def test_a_crowd_of_clients_waits_and_none_fails(tmp_path: Path, photograph: Path) -> None:
    with running(tmp_path / "cluster", max_in_flight=MOST) as cluster:

        async def crowd() -> list[Path]:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one_client(number)) for number in range(30)]
            return [task.result() for task in tasks]

        async def one_client(number: int) -> Path:
            async with Session(cluster.config, f"user-{number % 3}") as session:
                to = tmp_path / f"images-{number}"
                return (await session.seal(photograph, to=to, feedback=Silence())).path

        made = asyncio.run(crowd())
        assert len({*made}) == 30
        kept = Counter[str]()
        for user in ("user-0", "user-1", "user-2"):
            for name in as_user(cluster.config, user, names):
                kept[name] += 1
        assert sum(kept.values()) == 30

        async def readers(session: Session) -> None:
            images = [image async for image in (await session.images.meant("*")).images]
            async with asyncio.TaskGroup() as group:
                for number, each in enumerate(images):
                    to = tmp_path / f"back-{number}"
                    group.create_task(session.fetch(each, to=to, progress=lambda done, total: None))

        as_user(cluster.config, "user-0", readers)
        back = [path.read_bytes() for path in tmp_path.glob("back-*/*")]
        assert back == [photograph.read_bytes()] * 10


async def names(session: Session) -> list[str]:
    return [image.name async for image in (await session.images.meant("*")).images]
