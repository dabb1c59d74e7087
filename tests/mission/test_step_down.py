"""An operator lets another node lead: nobody else can, uploads go on, and it can be taken back."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from safelight.client.requests.leader_request_state import STALLED
from safelight.encryption.keys import Keyring
from safelight.node.state.data_directory import find_keyring
from safelight.wire import signed
from safelight.wire.admin_commands import KEY, LIFETIME, AdminCommand, StepDown
from tests.cli.commandline import safelight
from tests.mission.support import MEBIBYTE, Witness, image_of, opens_to, request, seal, status_of
from tests.running import SETTLED, Running, as_user, running

pytestmark = pytest.mark.slow

PATH = "/v1/orders"


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Three nodes, of which 3 leads: refused orders leave it so."""
    with running(tmp_path_factory.mktemp("cluster"), heartbeat=SETTLED) as it:
        yield it


def order(node: int = 3, *, seconds: float = 60, lasts: float = LIFETIME) -> AdminCommand:
    return AdminCommand(node, StepDown(seconds), time.time() + lasts, secrets.token_hex(8))


def give(cluster: Running, text: str, node: int = 3) -> tuple[int, str]:
    """The status and the body of a node's answer."""
    answer = request(cluster.config, node, "POST", PATH, headers={"Authorization": f"Order {text}"})
    return answer.status, answer.body.decode()


def key_of(cluster: Running) -> bytes:
    return find_keyring(cluster.config.data_dir).read().derive(KEY)


def test_the_leader_steps_down_and_another_takes_uploads(cluster: Running, tmp_path: Path, photograph: Path) -> None:
    done = safelight("step-down", config=cluster.config, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Node 2 leads; node 3 is ineligible for 300 s.\n"
    assert cluster.leader() == 2
    saved = as_user(cluster.config, "alice", lambda session: session.seal(photograph, to=tmp_path, feedback=Witness()))
    assert saved.node == 2

    back = safelight("step-down", "3", "--for", "0", config=cluster.config, cwd=tmp_path)
    assert (back.returncode, back.stdout) == (0, "Node 3 is eligible again.\n")
    cluster.wait_until_leader(3)
    cluster.wait_for_line(3, "ineligible to lead: its operator wants another to lead")


def test_it_leads_again_by_itself_when_the_time_is_over(cluster: Running, tmp_path: Path) -> None:
    done = safelight("step-down", "3", "--for", "2", config=cluster.config, cwd=tmp_path)
    assert done.stdout == "Node 2 leads; node 3 is ineligible for 2 s.\n"
    cluster.wait_until_leader(3)


def test_a_worker_that_steps_down_is_passed_over(cluster: Running, tmp_path: Path) -> None:
    done = safelight("step-down", "2", config=cluster.config, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "Node 3 leads; node 2 is ineligible for 300 s.\n")
    assert cluster.leader() == 3
    cluster.cluster.kill(3)
    cluster.wait_until_leader(1)


def test_where_no_other_can_lead_it_leads_on(tmp_path: Path) -> None:
    with running(tmp_path / "cluster", nodes=1) as cluster:
        done = safelight("step-down", config=cluster.config, cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr == (
            "safelight: no other node could lead, so node 1 remains eligible: see `safelight status`\n"
        )
        cluster.wait_until_leader(1)


def test_nobody_who_gives_the_order_to_all_leaves_the_cluster_without_a_leader(cluster: Running) -> None:
    """And nobody needs to wait for the outcome: the order itself is given, and the operator's terminal dies."""
    key = key_of(cluster)
    for node in (1, 2, 3):
        assert give(cluster, signed.write(order(node), key), node)[0] == 200
    cluster.leader()


def test_what_the_leader_granted_it_finishes(cluster: Running, tmp_path: Path, photograph: Path) -> None:
    image = image_of(8 * MEBIBYTE, tmp_path / "image.png", photograph)
    told = []

    def step_down() -> None:
        told.append(safelight("step-down", config=cluster.config, cwd=tmp_path))
        time.sleep(
            1.5 * STALLED
        )  # the client is stopped all this time, and must not take that for a failure of the leader

    witness = Witness().at_progress(0.2, step_down)
    saved = seal(cluster.config, image, tmp_path / "out", feedback=witness)
    assert [done.returncode for done in told] == [0]
    assert saved.node == 3
    assert cluster.leader() == 2
    assert opens_to(cluster.config, saved.path, image, tmp_path / "opened")


def test_status_says_who_is_ineligible_and_why(cluster: Running, tmp_path: Path) -> None:
    assert safelight("step-down", "1", config=cluster.config, cwd=tmp_path).returncode == 0
    shown = safelight("status", config=cluster.config, cwd=tmp_path).stdout.splitlines()
    (line,) = [line for line in shown if "ineligible" in line]
    assert line.startswith("1 ")
    assert "its operator wants another to lead" in line


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["7"], "there is no node 7: this cluster has nodes 1, 2, 3"),
        (["--for", "-1"], "1 to 604800 seconds"),
        (["--for", "nan"], "1 to 604800 seconds"),
        (["--for", "1e-9"], "1 to 604800 seconds"),
        (["--for", "0"], "name the node"),
        (["--data-dir", "elsewhere"], "there is no keyring in elsewhere"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_one_line(
    steady: Running, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    done = safelight("step-down", *arguments, config=steady.config, cwd=tmp_path)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_node_that_is_down_is_said_to_be(cluster: Running, tmp_path: Path) -> None:
    cluster.cluster.kill(1)
    done = safelight("step-down", "1", config=cluster.config, cwd=tmp_path)
    assert done.returncode == 1
    assert "node 1 at 127.0.0.1:" in done.stderr
    assert done.stderr.count("\n") == 1


def test_only_the_operators_own_order_is_obeyed_and_once(cluster: Running) -> None:
    key = key_of(cluster)
    good = signed.write(order(), key)
    refused = {
        "not signed": signed.write(order(), Keyring.new().derive(KEY)),
        "changed": good.replace(good[5], "A" if good[5] != "A" else "B", 1),
        "empty": "",
        "endless": "A" * 8000,
        "for another node": signed.write(order(node=2), key),
        "expired": signed.write(order(lasts=-1), key),
        "far ahead": signed.write(order(lasts=3600), key),
        "longer than may be": signed.write(order(seconds=1e9), key),
        "a ticket's key": signed.write(order(), find_keyring(cluster.config.data_dir).read().derive("tickets")),
    }
    for what, text in refused.items():
        status, body = give(cluster, text)
        assert status in (400, 403), (what, body)
    assert request(cluster.config, 3, "POST", PATH).status == 401
    assert status_of(cluster.config, 3)[3].role == "leader"

    assert give(cluster, good)[0] == 200
    cluster.wait_until_leader(2)
    assert give(cluster, signed.write(order(seconds=0), key))[0] == 200
    cluster.wait_until_leader(3)
    status, body = give(cluster, good)
    assert (status, msgspec.json.decode(body)["type"]) == (403, "urn:safelight:problem:bad-order")
    assert "executed already" in body
    assert cluster.leader() == 3

    again = signed.write(order(), key)
    assert give(cluster, again)[0] == 200
    assert give(cluster, signed.write(order(seconds=0), key))[0] == 200
    cluster.cluster.stop(3)
    cluster.cluster.start(3)
    cluster.wait_until_leader(3)
    status, body = give(cluster, again)
    assert (status, "before the node started" in body) == (403, True)
