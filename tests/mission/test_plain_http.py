"""curl and its like: any node will do, a ticket leads to the leader, and a ticket is good for one thing once."""

from __future__ import annotations

import base64
import shutil
import string
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from safelight.node.state import data_directory
from safelight.wire import tickets
from safelight.wire.messages import Action, Grant, Offer, Scheme
from tests.mission.support import MEBIBYTE, Answer, enrolled, image_of, opens_to, request, seal, status_of
from tests.mission.wire import watched
from tests.running import SETTLED, Running, running

IMAGE = b"\x89PNG\r\n\x1a\n" + b"a small image"
NAME = "photo.png"
LEADER = 3
UPLOAD = "5" * 32


# -- curl --


@pytest.fixture(scope="module")
def curl() -> str:
    found = shutil.which("curl")
    if found is None:
        pytest.skip("there is no curl on this machine")
    return found


def transfer(curl: str, url: str, image: Path, to: Path, token: str) -> None:
    """The image to the cluster, and what it answers to a file; nothing is kept, so a name may be used again."""
    said = ("-H", f"Authorization: Bearer {token}", "-H", "Safelight-Keep: no")
    subprocess.run([curl, "-sS", "--fail", "-L", "-T", image, *said, "-o", to, url], check=True, timeout=60)


@pytest.mark.parametrize("node", [1, 2, 3])
@pytest.mark.parametrize("size", [1000, 3 * MEBIBYTE], ids=["small", "large"])
def test_curl_reaches_the_leader_from_any_node(
    shared_cluster: Running, curl: str, tmp_path: Path, photograph: Path, node: int, size: int
) -> None:
    config = shared_cluster.config
    image = image_of(size, tmp_path / NAME, photograph)
    done = status_of(config, LEADER)[LEADER].images
    sealed, opened = tmp_path / "sealed.png", tmp_path / "opened.png"

    token = enrolled(config, "alice")
    transfer(curl, f"{config.addresses[node].url}/v1/images/{NAME}", image, sealed, token)
    assert status_of(config, LEADER)[LEADER].images == done + 1
    assert opens_to(config, sealed, image, tmp_path / "by-the-session")

    transfer(curl, f"{config.addresses[node].url}/v1/opened/{NAME}", sealed, opened, token)
    assert opened.read_bytes() == image.read_bytes()


def test_curl_sends_a_large_image_to_the_leader_alone(
    shared_cluster: Running, curl: str, tmp_path: Path, photograph: Path
) -> None:
    """With `Expect: 100-continue`, as curl says it from 1 MB on, a worker redirects before the body comes."""
    token = enrolled(shared_cluster.config, "alice")
    image = image_of(3 * MEBIBYTE, tmp_path / NAME, photograph)
    try:
        with watched(shared_cluster.config) as wire:
            transfer(curl, f"{wire.config.addresses[1].url}/v1/images/{NAME}", image, tmp_path / "sealed", token)
    except OSError as error:
        pytest.skip(f"127.0.0.2 is no address of this machine: {error}")
    assert 0 < len(wire.sent_to(1)) < 4096
    assert wire.count() == {1: 1, 2: 0, 3: 1}
    assert image.stat().st_size <= len(wire.sent_to(3)) < image.stat().st_size + 4096
    assert token.encode() not in wire.sent_to(3)


def test_the_redirect_leads_to_the_configured_address_with_a_ticket_and_no_token(shared_cluster: Running) -> None:
    config = shared_cluster.config
    token = enrolled(config, "alice")
    headers = {
        "Authorization": f"Bearer {token}",
        "Host": f"localhost:{config.addresses[1].port}",
        "Safelight-Keep": "no",
    }
    answer = request(config, 1, "PUT", f"/v1/images/{NAME}", IMAGE, headers)
    assert answer.status == 307
    location = answer.headers["location"]
    assert location.startswith(f"{config.addresses[LEADER].url}/v1/images/{NAME}?ticket=")
    assert token not in location
    assert put(shared_cluster, path=location.removeprefix(config.addresses[LEADER].url)).status == 201
    assert put(shared_cluster, path=location.removeprefix(config.addresses[LEADER].url)).problem == BAD


@pytest.mark.parametrize("node", [1, LEADER])
@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ({}, "no-credentials"),
        ({"Authorization": "Bearer slt_" + "A" * 43}, "unknown-token"),
        ({"Authorization": "Bearer "}, "unknown-token"),
        ({"Authorization": "Basic YWxpY2U6YWxpY2U="}, "no-credentials"),
    ],
    ids=["nothing", "a token of nobody", "an empty token", "a password"],
)
def test_without_the_right_token_no_node_takes_an_image(
    shared_cluster: Running, node: int, headers: dict[str, str], problem: str
) -> None:
    answer = request(shared_cluster.config, node, "PUT", f"/v1/images/{NAME}", IMAGE, headers)
    assert (answer.status, answer.problem) == (401, problem)
    assert answer.headers["www-authenticate"] == "Bearer"


# -- tickets --

BAD = "bad-ticket"
ALPHABET = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"  # base64url, RFC 4648 §5


def granted(cluster: Running, node: int = LEADER, **changes: object) -> Grant:
    """What a node grants alice for IMAGE."""
    token = enrolled(cluster.config, "alice")
    offer = msgspec.structs.replace(Offer("alice", UPLOAD, NAME, len(IMAGE), keep=False), **changes)
    headers = {"Authorization": f"Bearer {token}"}
    answer = request(cluster.config, node, "POST", "/v1/offers", msgspec.json.encode(offer), headers)
    assert answer.status == 201, answer
    return msgspec.json.decode(answer.body, type=Grant)


def put(
    cluster: Running, ticket: str = "", *, path: str = f"/v1/images/{NAME}", body: bytes = IMAGE, **headers: str
) -> Answer:
    """Send the body to the leader with a ticket."""
    said = {"Authorization": f"Ticket {ticket}"} if ticket else {}
    return request(
        cluster.config, LEADER, "PUT", path, body, said | {k.replace("_", "-"): v for k, v in headers.items()}
    )


@pytest.fixture
def key(shared_cluster: Running) -> bytes:
    """What the cluster signs tickets with."""
    return data_directory.find_keyring(shared_cluster.config.data_dir).read().derive("tickets")


@pytest.fixture
def images_stay(shared_cluster: Running) -> Iterator[None]:
    """Nothing that the test does is taken for an image."""
    before = status_of(shared_cluster.config, LEADER)[LEADER].images
    yield
    assert status_of(shared_cluster.config, LEADER)[LEADER].images == before


def test_a_ticket_admits_what_it_was_granted_for_once(shared_cluster: Running) -> None:
    grant = granted(shared_cluster)
    assert grant.node == LEADER
    assert urlsplit(grant.url).path == f"/v1/images/{NAME}"
    first, second = put(shared_cluster, grant.ticket), put(shared_cluster, grant.ticket)
    assert (first.status, first.headers["safelight-upload"]) == (201, UPLOAD)
    assert (second.status, second.problem) == (403, BAD)
    assert b"used already" in second.body


@pytest.mark.usefixtures("images_stay")
def test_a_forged_ticket_is_refused(shared_cluster: Running) -> None:
    ticket = granted(shared_cluster).ticket
    text, _, signature = ticket.partition(".")
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    assert b'"alice"' in raw
    for_bob = base64.urlsafe_b64encode(raw.replace(b'"alice"', b'"bobby"')).rstrip(b"=").decode()
    unsigned = [text, f"{text}.", f".{signature}", ".", f"{for_bob}.{signature}", "A" * 5000, f"{ticket}.{ticket}"]
    places = [*range(0, len(text), 23), *range(len(text) + 1, len(ticket))]
    flipped = [f"{ticket[:at]}{chr(ord(ticket[at]) ^ 1)}{ticket[at + 1 :]}" for at in places]
    last = ALPHABET.index(signature[-1])  # of its six bits the last two say nothing
    respelt = [f"{ticket[:-1]}{ALPHABET[last + 1]}", f"{ticket}=", f"{ticket}\u00e9", f"{text}!.{signature}"]
    for forged in unsigned + flipped + respelt:
        answer = put(shared_cluster, forged)
        assert (answer.status, answer.problem) == (403, BAD), forged


@pytest.mark.usefixtures("images_stay")
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/images/other.png", IMAGE),
        (f"/v1/images/{NAME}", IMAGE + b"."),
        (f"/v1/images/{NAME}", IMAGE[:-1]),
        (f"/v1/opened/{NAME}", IMAGE),
        (f"/v1/images/{NAME}?scheme=classic", IMAGE),
    ],
    ids=["another name", "a longer body", "a shorter body", "opening", "another scheme"],
)
def test_a_ticket_for_something_else_is_refused(shared_cluster: Running, path: str, body: bytes) -> None:
    answer = put(shared_cluster, granted(shared_cluster).ticket, path=path, body=body)
    assert (answer.status, answer.problem) == (403, BAD)


@pytest.mark.usefixtures("images_stay")
def test_a_ticket_does_not_serve_another_upload_or_user(shared_cluster: Running) -> None:
    other_upload = put(shared_cluster, granted(shared_cluster).ticket, Safelight_Upload="6" * 32)
    assert other_upload.problem == BAD
    bob = {"Authorization": f"Bearer {enrolled(shared_cluster.config, 'bob')}"}
    path = f"/v1/images/{NAME}?ticket={granted(shared_cluster).ticket}"
    other_user = request(shared_cluster.config, LEADER, "PUT", path, IMAGE, bob)
    assert other_user.problem == BAD


@pytest.mark.usefixtures("images_stay")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"expires": time.time() - 1}, b"expired"),
        ({"node": 2}, b"for node 2"),
        ({"incarnation": "0" * 16}, b"from before node 3 restarted"),
        ({"user": "bob"}, b""),
    ],
    ids=["expired", "another node's", "an earlier life's", "signed for another user"],
)
def test_a_ticket_of_another_time_or_node_is_refused(
    shared_cluster: Running, key: bytes, changes: dict[str, object], reason: bytes
) -> None:
    ticket = tickets.read(granted(shared_cluster).ticket, key)
    if "user" in changes:
        changes = {"scope": msgspec.structs.replace(ticket.scope, **changes)}
    altered = tickets.write(msgspec.structs.replace(ticket, **changes), key)
    if "scope" in changes:  # the cluster's own signature, but the token beside it is alice's
        alice = {"Authorization": f"Bearer {enrolled(shared_cluster.config, 'alice')}"}
        path = f"/v1/images/{NAME}?ticket={altered}"
        answer = request(shared_cluster.config, LEADER, "PUT", path, IMAGE, alice)
    else:
        answer = put(shared_cluster, altered)
    assert (answer.status, answer.problem) == (403, BAD)
    assert reason in answer.body


def test_a_ticket_of_another_cluster_is_refused(shared_cluster: Running, tmp_path: Path, key: bytes) -> None:
    other = data_directory.create_cluster(tmp_path / "other").derive("tickets")
    ticket = tickets.read(granted(shared_cluster).ticket, key)
    assert put(shared_cluster, tickets.write(ticket, other)).problem == BAD


def test_a_ticket_does_not_outlive_the_nodes_process(tmp_path: Path) -> None:
    with running(tmp_path, heartbeat=SETTLED) as cluster:
        used, unused = granted(cluster).ticket, granted(cluster).ticket
        assert put(cluster, used).status == 201
        cluster.cluster.kill(LEADER)
        cluster.cluster.start(LEADER)
        cluster.wait_until_leader(LEADER)
        assert put(cluster, used).problem == BAD
        assert put(cluster, unused).problem == BAD


def test_an_offer_for_another_user_is_refused(shared_cluster: Running) -> None:
    config = shared_cluster.config
    headers = {"Authorization": f"Bearer {enrolled(shared_cluster.config, 'bob')}"}
    for action, scheme in ((Action.SEAL, Scheme.SEALED), (Action.OPEN, Scheme.CLASSIC)):
        offer = msgspec.json.encode(Offer("alice", UPLOAD, NAME, 1, action, scheme))
        answer = request(config, LEADER, "POST", "/v1/offers", offer, headers)
        assert (answer.status, answer.problem) == (403, "wrong-user")


def test_malformed_offers_are_refused_in_one_line(shared_cluster: Running) -> None:
    config = shared_cluster.config
    headers = {"Authorization": f"Bearer {enrolled(config, 'alice')}"}
    good = msgspec.json.encode(Offer("alice", UPLOAD, NAME, 1))
    for body in (
        b"",
        b"{",
        b"[]",
        b'{"user":"\xff"}',
        b"\xff",
        good.replace(UPLOAD.encode(), b"5"),
        good.replace(b"1", b"-1"),
        b"[" * 9999,
    ):
        answer = request(config, LEADER, "POST", "/v1/offers", body, headers)
        assert (answer.status, answer.problem) == (400, "bad-request"), body


def test_a_client_may_know_the_servers_by_another_name(
    shared_cluster: Running, photograph: Path, tmp_path: Path
) -> None:
    named = tuple(f"localhost:{address.port}" for address in shared_cluster.config.addresses.values())
    config = msgspec.structs.replace(shared_cluster.config, servers=named)
    sealed = seal(config, photograph, tmp_path / "images")
    assert opens_to(config, sealed.path, photograph, tmp_path / "opened")
