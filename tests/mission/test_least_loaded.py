"""balance = "least-loaded": the leader decides alone, and for each image exactly one node works."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import msgspec
import pytest

from safelight.cli.output.console import ConsoleReporter
from safelight.client.session import Session
from safelight.node.state import data_directory
from safelight.node.work.balance import UNUSED
from safelight.wire import tickets
from safelight.wire.messages import Grant, Offer
from tests.mission.support import Answer, Witness, enrolled, image_of, opens_to, request, status_of
from tests.mission.test_load import half_an_upload
from tests.running import SETTLED, Running, as_user, eventually, running

pytestmark = pytest.mark.slow

LEADER = 3
IMAGE = b"\x89PNG\r\n\x1a\n" + b"a small image"
BAD = "bad-ticket"
_names = count()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("cluster"), heartbeat=SETTLED, balance="least-loaded") as it:
        wait_for_reports(it)
        yield it


@pytest.fixture
def key(cluster: Running) -> bytes:
    """What the cluster signs tickets with."""
    return data_directory.find_keyring(cluster.config.data_dir).read().derive("tickets")


def wait_for_reports(cluster: Running) -> None:
    """Until the leader knows its workers' loads, and so may assign them something."""
    nodes = {*cluster.config.addresses}
    eventually(lambda: {*status_of(cluster.config, max(nodes))} == nodes, "the leader knows of all")


def granted(cluster: Running, size: int = len(IMAGE), **changes: object) -> tuple[str, Grant]:
    """A name, and what the leader grants alice for it."""
    name = f"{next(_names)}.png"
    offer = msgspec.structs.replace(Offer("alice", f"{next(_names):032x}", name, size), **changes)
    headers = {"Authorization": f"Bearer {enrolled(cluster.config, 'alice')}"}
    answer = request(cluster.config, LEADER, "POST", "/v1/offers", msgspec.json.encode(offer), headers)
    assert answer.status == 201, answer
    return name, msgspec.json.decode(answer.body, type=Grant)


def assigned_to(cluster: Running, node: int) -> tuple[str, Grant]:
    """A grant that assigns this worker."""
    others = [each for each in cluster.config.addresses if each != node]
    name, grant = granted(cluster, avoid=others)
    assert (grant.node, grant.assigned) == (LEADER, node)
    return name, grant


def put(cluster: Running, node: int, name: str, ticket: str, body: bytes = IMAGE) -> Answer:
    headers = {"Authorization": f"Ticket {ticket}"}
    return request(cluster.config, node, "PUT", f"/v1/images/{name}", body, headers)


def images(cluster: Running) -> dict[int, int]:
    return {node: status_of(cluster.config, node)[node].images for node in cluster.config.addresses}


def test_all_nodes_work_and_each_image_is_worked_on_once(cluster: Running, photograph: Path, tmp_path: Path) -> None:
    before, witness = images(cluster), Witness()

    async def many(session: Session) -> list[Path]:
        return [(await session.seal(photograph, to=tmp_path / "images", feedback=witness)).path for _ in range(12)]

    made = as_user(cluster.config, "alice", many)
    after = images(cluster)
    done = {node: after[node] - before[node] for node in after}
    assert sum(done.values()) == len({*made}) == 12
    assert min(done.values()) >= 2
    told = Counter(server[0] for server in witness.of("processed"))
    assert told == done
    assert opens_to(cluster.config, made[-1], photograph, tmp_path / "opened")


def test_the_transcript_says_who_assigned_whom(capsys: pytest.CaptureFixture[str]) -> None:
    ConsoleReporter(dialogue=True).processed(1, assigned_by=3)
    assert capsys.readouterr().out == "  ✓ Leader (server 3) assigned server 1, which processed request\n"


def test_a_workers_ticket_is_good_at_that_worker_once(cluster: Running) -> None:
    name, grant = assigned_to(cluster, 1)
    for elsewhere in (2, LEADER):
        assert put(cluster, elsewhere, name, grant.ticket).problem == BAD
    assert put(cluster, 1, "other.png", grant.ticket).problem == BAD
    name, grant = assigned_to(cluster, 1)
    first, second = put(cluster, 1, name, grant.ticket), put(cluster, 1, name, grant.ticket)
    assert (first.status, first.headers["safelight-node"]) == (201, "1")
    assert (second.status, second.problem) == (403, BAD)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"expires": 1.0}, BAD),
        ({"node": 2}, BAD),
        ({"incarnation": "0" * 16}, BAD),
        ({"counter": 0}, BAD),
        ({"counter": None}, "redirect"),
    ],
    ids=["expired", "another node's", "an earlier incarnation's", "from a leader that was replaced", "a redirect's"],
)
def test_a_worker_takes_no_other_ticket(cluster: Running, key: bytes, changes: dict[str, object], problem: str) -> None:
    name, grant = assigned_to(cluster, 1)
    done = images(cluster)
    ticket = msgspec.structs.replace(tickets.read(grant.ticket, key), **changes)
    answer = put(cluster, 1, name, tickets.write(ticket, key))
    if problem == "redirect":  # it leads to the leader, and is no assignment
        assert answer.status == 307
        assert answer.headers["location"].startswith(cluster.config.addresses[LEADER].url)
    else:
        assert (answer.status, answer.problem) == (403, problem)
    assert images(cluster) == done
    assert put(cluster, 1, name, f"{grant.ticket[:-2]}AA").problem == BAD


def test_the_old_leaders_assignment_is_void_when_another_leads(tmp_path: Path) -> None:
    with running(tmp_path, heartbeat=SETTLED, balance="least-loaded") as cluster:
        wait_for_reports(cluster)
        name, grant = assigned_to(cluster, 1)
        cluster.cluster.kill(LEADER)
        cluster.wait_until_leader(2)
        answer = put(cluster, 1, name, grant.ticket)
        assert (answer.status, answer.problem) == (403, BAD)
        assert b"the leader of this ticket was replaced" in answer.body


def test_who_is_busy_gets_less(cluster: Running) -> None:
    with ExitStack() as stack:
        for _ in range(20):  # 20 plain uploads, which the leader does itself, stand still
            stack.enter_context(half_an_upload(cluster, LEADER))
        eventually(lambda: status_of(cluster.config, LEADER)[LEADER].in_flight == 20, "all are in work")
        time.sleep(UNUSED)  # what other tests were granted and did not use weighs nothing any more
        given = Counter(granted(cluster)[1].assigned for _ in range(10))
        assert given == {1: 5, 2: 5}


@pytest.mark.parametrize("blow", ["kill", "suspend"])
def test_an_assigned_node_that_dies_or_hangs_costs_no_image(tmp_path: Path, photograph: Path, blow: str) -> None:
    image = image_of(4 << 20, tmp_path / "photo.png", photograph)
    with running(tmp_path / "cluster", balance="least-loaded") as cluster:
        wait_for_reports(cluster)
        struck: list[int] = []

        async def until_a_worker_was_struck(session: Session) -> list[Path]:
            made = []
            while not struck:
                witness = Witness()
                witness.at_progress(0.2, lambda: strike_whoever_works())
                made.append((await session.seal(image, to=tmp_path / "images", feedback=witness)).path)
            return made

        def strike_whoever_works() -> None:
            for node in (1, 2):
                if status_of(cluster.config, node)[node].in_flight and not struck:
                    struck.append(node)
                    cluster.cluster.kill(node) if blow == "kill" else cluster.suspend(node)

        made = as_user(cluster.config, "alice", until_a_worker_was_struck)
        assert all(opens_to(cluster.config, path, image, tmp_path / "opened") for path in made)
        listed = as_user(cluster.config, "alice", kept)
        assert sorted(listed) == sorted(path.name for path in made)


async def kept(session: Session) -> list[str]:
    return [image.name async for image in (await session.images.meant("*")).images]
