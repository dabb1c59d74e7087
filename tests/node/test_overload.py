"""A node takes a bounded amount of work: who comes beyond it is told so at once, and clients wait and go on."""

from __future__ import annotations

import asyncio
import select
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest

from safelight.client.requests.feedback import NullFeedback
from safelight.client.session import Session
from safelight.node.work.load import SLOW_BODIES
from safelight.wire.messages import Offer, Problem
from tests.mission.support import seal
from tests.node.raw_http import Answer, Line, ask, enrolled, image, line, new_image, refused
from tests.running import GENEROUS, Running, as_user, eventually, running

pytestmark = pytest.mark.slow

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
                assert "bytes arrived within" in refused(each.answer(), Problem.STALLED)
        finally:
            done.set()
            crawling.join()
    eventually(lambda: in_flight(one) == 0, "nothing is in flight")


@contextmanager
def slowly(work: Callable[[], None]) -> Iterator[None]:
    """Do it ten times a second."""
    done = threading.Event()

    def keep_on() -> None:
        while not done.wait(0.1):
            work()

    working = threading.Thread(target=keep_on)
    working.start()
    try:
        yield
    finally:
        done.set()
        working.join()


@contextmanager
def slow_uploads(it: Running, token: str, count: int) -> Iterator[list[Line]]:
    """Uploads that come at 4 kB/s: too fast to be given up, too slow to end soon."""
    before = in_flight(it)
    with ExitStack() as stack:
        uploads = [stack.enter_context(line(it.config.addresses[1])) for _ in range(count)]
        for each in uploads:
            each.request(new_image(), token, "Content-Length: 10000000", body=image(1000))

        def dribble() -> None:
            for each in uploads:
                each.send(bytes(400))

        stack.enter_context(slowly(dribble))
        eventually(lambda: in_flight(it) >= before + count, "they are in work")
        yield uploads


@contextmanager
def slow_readers(it: Running, token: str, count: int, path: str) -> Iterator[list[Line]]:
    """Readers of an image that take 4 kB/s."""
    with ExitStack() as stack:
        readers = [stack.enter_context(line(it.config.addresses[1], buffer=4096)) for _ in range(count)]
        for each in readers:
            each.request(f"GET {path}", token)
            assert each.interim().startswith("HTTP/1.1 200")

        def sip() -> None:
            for each in readers:
                each.sip(400)

        stack.enter_context(slowly(sip))
        yield readers


def kept(it: Running, token: str, size: int) -> str:
    """The address of an image of so many bytes that the vault keeps."""
    start, body = new_image(), image(size)
    answer = ask(it.config.addresses[1], start, token, "Prefer: return=minimal", body=body)
    assert answer.status == 201
    return start.removeprefix("PUT ")


def test_one_users_slow_uploads_lock_nobody_out_and_are_closed_while_others_wait(
    one: Running, token: str, photograph: Path, tmp_path: Path
) -> None:
    address, bob = one.config.addresses[1], enrolled(one.config, "bob")
    with slow_uploads(one, token, MOST) as slow:
        refused(ask(address, new_image(), token, body=image(1000)), Problem.BUSY)
        for _ in range(5):
            assert ask(address, new_image(), bob, body=image(1000)).status == 201
        seal(one.config, photograph, tmp_path / "images", user="carol")  # with an offer first
        with slow_uploads(one, bob, 1):  # its share

            def another() -> bool:
                return ask(address, new_image(), bob, body=image(1000)).status == 201

            eventually(another, "a slow upload is closed for one that waits")
        heard, _, _ = select.select([each.socket for each in slow], [], [], GENEROUS)
        closed = next(each for each in slow if each.socket in heard)
        assert "slower than" in refused(closed.answer(), Problem.STALLED)
    eventually(lambda: in_flight(one) == 0, "nothing is in flight")


def test_one_users_slow_readers_lock_nobody_out_and_are_broken_off_while_others_wait(one: Running, token: str) -> None:
    address, bob = one.config.addresses[1], enrolled(one.config, "robert")
    path, own = kept(one, token, 16 << 20), kept(one, bob, 16 << 20)
    with slow_readers(one, token, MOST, path) as slow:
        refused(ask(address, f"GET {path}", token), Problem.BUSY)
        for _ in range(5):
            assert len(ask(address, f"GET {own}", bob).body) == 16 << 20
        with slow_readers(one, bob, 1, own):  # its share

            def another() -> bool:
                return ask(address, f"GET {own}", bob).status == 200

            eventually(another, "a slow reader is broken off for one that waits")
        one.wait_for_line(1, "it moved slower than")
        eventually(lambda: any(each.broken for each in slow), "it sees its answer's end")
    eventually(lambda: in_flight(one) == 0, "nothing is in flight")


def test_one_users_unread_answers_lock_nobody_out(tmp_path: Path) -> None:
    large = image(12 << 20)
    with running(tmp_path, 1, max_in_flight=MOST) as it, ExitStack() as stack:
        address, alice, bob = it.config.addresses[1], enrolled(it.config, "alice"), enrolled(it.config, "bob")

        def answered() -> int:
            return sum("Encrypted an image for alice" in said for said in it.said(1))

        for number in range(SLOW_BODIES * MOST):
            deaf = stack.enter_context(line(address, buffer=4096))
            deaf.request(new_image(), alice, f"Content-Length: {len(large)}", body=large)
            eventually(lambda: answered() > number, "it is answered")  # noqa: B023
        refused(ask(address, new_image(), alice, body=image(1000)), Problem.BUSY)
        assert ask(address, new_image(), bob, body=image(1000)).status == 201


def test_a_crowd_of_clients_waits_and_none_fails(tmp_path: Path, photograph: Path) -> None:
    with running(tmp_path / "cluster", max_in_flight=MOST) as cluster:

        async def crowd() -> list[Path]:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one_client(number)) for number in range(30)]
            return [task.result() for task in tasks]

        async def one_client(number: int) -> Path:
            async with Session(cluster.config, f"user-{number % 3}") as session:
                to = tmp_path / f"images-{number}"
                return (await session.seal(photograph, to=to, feedback=NullFeedback())).path

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
