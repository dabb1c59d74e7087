"""Into the vault: what was acknowledged is kept, once, whoever leads and whatever breaks."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest

from safelight.cli.admin.cluster import keyring_file
from safelight.config import Config
from safelight.encryption.keys import Keyring
from safelight.local.cluster import ephemeral_config
from safelight.node.state.data_directory import create_cluster, find_keyring
from safelight.node.state.vault_handle import VaultHandle
from safelight.vault.bootstrap import open_vault
from safelight.vault.records import Aborted, Image, Record
from safelight.vault.vault import Draft
from safelight.wire.messages import ACCEPT_SEALED, Action, Grant, Listing, Offer, Scheme
from tests.mission.support import MEBIBYTE, Answer, enrolled, request, wait_until_all_follow
from tests.mounts import small_disk
from tests.node.raw_http import image, line, new_image, token
from tests.node.test_starting import refusal
from tests.running import SETTLED, Running, eventually, running, running_as

UPLOAD, OTHER = "1" * 32, "2" * 32
LEADER = 3

token_of = cache(enrolled)


def ask(
    config: Config,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    node: int | None = None,
    user: str = "alice",
    **said: str,
) -> Answer:
    """One request of a user's; to the highest node if no other is said."""
    headers = {name.replace("_", "-"): value for name, value in said.items()}
    headers = {"Authorization": f"Bearer {token_of(config, user)}", **headers}
    return request(config, node or max(config.addresses), method, path, body, headers)


def names(config: Config, node: int | None = None, user: str = "alice") -> list[str]:
    found = msgspec.json.decode(ask(config, "GET", "/v1/images", node=node, user=user).body, type=Listing)
    return [each.name for each in found.images]


def files(config: Config) -> list[str]:
    """All bodies in a vault that is a directory, half-written ones as well."""
    return [path.name for path in (config.data_dir / "vault" / "bodies").rglob("*") if path.is_file()]


def at_once(*work: Callable[[], Answer]) -> list[Answer]:
    answers: list[Answer] = []
    start = threading.Barrier(len(work))

    def go(each: Callable[[], Answer]) -> None:
        start.wait()
        answers.append(each())

    threads = [threading.Thread(target=go, args=(each,)) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


# -- what is kept ------------------------------------------------------------------------------------


def test_an_image_is_kept_unless_its_user_does_not_want_it(shared_cluster: Running) -> None:
    config, content = shared_cluster.config, image(1000)
    kept = ask(config, "PUT", "/v1/images/kept.png", content)
    not_kept = ask(config, "PUT", "/v1/images/not.png", content, Safelight_Keep="no")
    classic = ask(config, "PUT", "/v1/images/classic.png?scheme=classic", content)
    answers = (kept, not_kept, classic)
    assert [answer.status for answer in answers] == [201, 201, 201]
    assert [answer.headers["safelight-kept"] for answer in answers] == ["yes", "no", "no"]
    assert names(config, 1) == ["kept.png"]
    assert ask(config, "PUT", "/v1/opened/x", kept.body).body == content
    assert ask(config, "PUT", "/v1/opened/x", not_kept.body).body == content


@pytest.mark.parametrize("preference", ["return=minimal", "respond-async, Return = minimal; x=y"])
def test_a_receipt_is_enough_for_who_prefers_it(shared_cluster: Running, preference: str) -> None:
    config, content, (_, path) = shared_cluster.config, image(1000), new_image().split()
    answer = ask(config, "PUT", path, content, Prefer=preference)
    assert (answer.status, answer.body, answer.headers["safelight-kept"]) == (201, b"", "yes")
    assert answer.headers["preference-applied"] == "return=minimal"
    assert ask(config, "GET", path, node=1).body == content
    only_copy = ask(config, "PUT", path, content, Prefer=preference, Safelight_Keep="no")
    assert only_copy.body
    assert "preference-applied" not in only_copy.headers


def granted(config: Config, path: str, size: int, action: Action, *, keep: bool = True) -> Grant:
    offer = Offer("alice", UPLOAD, path.rpartition("/")[2], size, action, keep=keep)
    answer = ask(config, "POST", "/v1/offers", msgspec.json.encode(offer))
    assert answer.status == 201, answer
    return msgspec.json.decode(answer.body, type=Grant)


def test_a_ticket_says_whether_to_keep(shared_cluster: Running) -> None:
    config, content, path = shared_cluster.config, image(100), "/v1/images/ticket.png"
    for keep, word in ((False, "no"), (True, "yes")):
        ticket = f"Ticket {granted(config, path, len(content), Action.SEAL, keep=keep).ticket}"
        answer = ask(config, "PUT", path, content, Authorization=ticket)
        assert answer.headers["safelight-kept"] == word
        ticket = f"Ticket {granted(config, path, len(content), Action.SEAL, keep=keep).ticket}"
        opposite = "no" if keep else "yes"
        assert ask(config, "PUT", path, content, Authorization=ticket, Safelight_Keep=opposite).problem == "bad-ticket"


@pytest.mark.parametrize(
    "said",
    [
        {"Safelight-Keep": "perhaps"},
        {"Safelight-Original": "%FF"},
        {"Safelight-Original": "a%2Fb"},
        {"Safelight-Original": "%1B%5B2J"},
        {"Safelight-Modified": "yesterday"},
        {"Safelight-Modified": "1e9"},
        {"Safelight-Modified": "nan"},
        {"Safelight-Modified": "9" * 400},
    ],
    ids=str,
)
def test_what_cannot_be_kept_with_an_image_is_refused(shared_cluster: Running, said: dict[str, str]) -> None:
    headers = {"Authorization": f"Bearer {token_of(shared_cluster.config, 'alice')}", **said}
    answer = request(shared_cluster.config, LEADER, "PUT", "/v1/images/refused.png", image(10), headers)
    assert (answer.status, answer.problem) == (400, "bad-request")


# -- trying again ------------------------------------------------------------------------------------


def test_the_same_upload_succeeds_again_and_another_does_not(shared_cluster: Running) -> None:
    config, content, path = shared_cluster.config, image(MEBIBYTE + 1000), "/v1/images/again.png"
    first = ask(config, "PUT", path, content, Safelight_Upload=UPLOAD)
    again = ask(config, "PUT", path, content, Safelight_Upload=UPLOAD)
    assert (first.status, again.status) == (201, 201)
    assert first.body == again.body
    assert ask(config, "PUT", path, content, Safelight_Upload=UPLOAD, Prefer="return=minimal").status == 201
    for other in (content[:-1], content[:-1] + bytes([content[-1] ^ 1]), content + b"."):
        assert ask(config, "PUT", path, other, Safelight_Upload=UPLOAD).problem == "image-taken"
    assert ask(config, "PUT", path, content, Safelight_Upload=OTHER).problem == "image-taken"
    assert ask(config, "PUT", path, content, Safelight_Upload=OTHER, user="bob").status == 201  # bob's own name
    assert ask(config, "GET", path).body == content
    assert ask(config, "DELETE", path).status == 204
    removed = ask(config, "PUT", path, content, Safelight_Upload=UPLOAD)
    assert (removed.status, removed.problem) == (410, "removed")
    assert ask(config, "PUT", path, content, Safelight_Upload=OTHER).problem == "image-taken"
    assert ask(config, "GET", path, user="bob").body == content


@pytest.mark.parametrize("preference", ["return=minimal", "return=representation"])
@pytest.mark.parametrize("framing", ["Content-Length", "chunked"])
def test_a_retry_that_is_on_its_way_while_its_image_is_removed_says_so(
    shared_cluster: Running, framing: str, preference: str
) -> None:
    """More of the body than sockets hold has gone: the node has found the image that it is compared with."""
    config, content, upload = shared_cluster.config, image(16 * MEBIBYTE), os.urandom(16).hex()
    path = f"/v1/images/{upload}.png"
    assert ask(config, "PUT", path, content, Safelight_Upload=upload).status == 201
    said = (
        f"Authorization: Bearer {token_of(config, 'alice')}",
        f"Safelight-Upload: {upload}",
        f"Prefer: {preference}",
    )
    start, end, length = b"", b"", f"Content-Length: {len(content)}"
    if framing == "chunked":
        start, end, length = b"%x\r\n" % len(content), b"\r\n0\r\n\r\n", "Transfer-Encoding: chunked"
    with line(config.addresses[LEADER]) as connection:
        connection.request(f"PUT {path}", *said, length, body=start + content[: 12 * MEBIBYTE])
        assert ask(config, "DELETE", path).status == 204
        connection.send(content[12 * MEBIBYTE :] + end)
        answer = connection.answer()
    assert (answer.status, json.loads(answer.body)["type"]) == (410, "urn:safelight:problem:removed")
    assert ask(config, "PUT", path, content, Safelight_Upload=upload).problem == "removed"


def test_an_image_whose_answer_nobody_took_is_kept_all_the_same(shared_cluster: Running) -> None:
    config, content, path = shared_cluster.config, image(12 * MEBIBYTE), "/v1/images/unread.png"
    said = (f"Authorization: Bearer {token_of(config, 'alice')}", f"Safelight-Upload: {UPLOAD}")
    with line(config.addresses[LEADER]) as connection:
        connection.request(f"PUT {path}", *said, f"Content-Length: {len(content)}", body=content)
        assert connection.interim().startswith("HTTP/1.1 201 ")
    shared_cluster.wait_for_line(LEADER, "A response ended early")
    assert ask(config, "GET", path, node=1).body == content
    again = ask(config, "PUT", path, content, Safelight_Upload=UPLOAD)
    assert (again.status, ask(config, "PUT", "/v1/opened/x", again.body).body == content) == (201, True)


def test_an_upload_that_breaks_off_leaves_nothing(shared_cluster: Running) -> None:
    config, content, path = shared_cluster.config, image(4 * MEBIBYTE), "/v1/images/broken.png"
    before = files(config)
    with line(config.addresses[LEADER]) as connection:
        token = f"Authorization: Bearer {token_of(config, 'alice')}"
        connection.request(f"PUT {path}", token, f"Content-Length: {2 * len(content)}", body=content)
        eventually(lambda: len(files(config)) == len(before) + 1, "the body has begun")
    eventually(lambda: files(config) == before, "nothing is left of it")
    assert "broken.png" not in names(config)
    assert ask(config, "PUT", path, content).status == 201  # and the name is free


@contextmanager
def two_leaders(directory: Path) -> Iterator[tuple[Config, Config]]:
    """Two clusters of one node each that know nothing of each other, with one keyring and one vault."""
    one = ephemeral_config(directory, 1, heartbeat=SETTLED)
    two = msgspec.structs.replace(one, servers=ephemeral_config(directory, 1).servers)
    with running_as(one) as first, running_as(two) as second:
        for each in (first, second):
            each.cluster.start()
            each.wait_until_leader(1)
        yield one, two


def test_two_leaders_admit_each_image_once(tmp_path: Path) -> None:
    with two_leaders(tmp_path) as both:
        for number, size in enumerate([10, 1000, 100_000, MEBIBYTE, 3 * MEBIBYTE] * 3):
            path, content = f"/v1/images/{number}.png", image(size)
            same = at_once(*(partial(ask, each, "PUT", path, content, Safelight_Upload=UPLOAD) for each in both))
            assert [answer.status for answer in same] == [201, 201]
            assert same[0].body == same[1].body
            for config in both:
                assert ask(config, "GET", path).body == content
                assert ask(config, "PUT", path, content, Safelight_Upload=UPLOAD).body == same[0].body
        assert len(names(both[0])) == len(files(both[0])) == 15
        for number in range(10):
            path, contents = f"/v1/images/other-{number}.png", [image(50_000), image(50_000)]
            other = at_once(
                partial(ask, both[0], "PUT", path, contents[0], Safelight_Upload=UPLOAD),
                partial(ask, both[1], "PUT", path, contents[1], Safelight_Upload=UPLOAD),
            )
            assert Counter(answer.status for answer in other) == {201: 1, 409: 1}
            assert ask(both[0], "GET", path).body == ask(both[1], "GET", path).body
            assert ask(both[0], "GET", path).body in contents
            gone = at_once(*(partial(ask, each, "DELETE", path) for each in both))
            assert Counter(answer.status for answer in gone) == {204: 1, 404: 1}
            for config in both:
                assert ask(config, "GET", path).status == 404
                assert ask(config, "PUT", path, contents[0], Safelight_Upload=UPLOAD).status == 410
        assert len(files(both[0])) == 15


def test_a_leader_that_is_killed_in_mid_upload_leaves_nothing_listed(tmp_path: Path) -> None:
    with running(tmp_path, heartbeat=SETTLED) as cluster:
        config, content = cluster.config, image(4 * MEBIBYTE)
        token = f"Authorization: Bearer {token_of(config, 'alice')}"
        said = (token, f"Safelight-Upload: {UPLOAD}", f"Content-Length: {2 * len(content)}")
        with line(config.addresses[LEADER]) as connection:
            connection.request("PUT /v1/images/a.png", *said, body=content)
            eventually(lambda: len(files(config)) == 1, "the body has begun")
            cluster.cluster.kill(LEADER)
        cluster.wait_until_leader(2)
        assert names(config, 1) == []
        again = ask(config, "PUT", "/v1/images/a.png", content, node=2, Safelight_Upload=UPLOAD)
        assert again.status == 201
        assert names(config, 1) == ["a.png"]


# -- removal -----------------------------------------------------------------------------------------


def test_an_image_is_removed_once(shared_cluster: Running) -> None:
    config, path = shared_cluster.config, "/v1/images/remove.png"
    before = files(config)
    assert ask(config, "PUT", path, image(100)).status == 201
    assert ask(config, "DELETE", path, user="mallory").status == 404
    answers = at_once(*[partial(ask, config, "DELETE", path)] * 4)
    assert Counter(answer.status for answer in answers) == {204: 1, 404: 3}
    assert ask(config, "DELETE", path).problem == "not-found"
    for node in config.addresses:
        assert ask(config, "GET", path, node=node).status == 404
    assert files(config) == before


def test_a_worker_sends_whoever_removes_to_the_leader(shared_cluster: Running) -> None:
    config, path = shared_cluster.config, "/v1/images/by-worker.png"
    assert ask(config, "PUT", path, image(100)).status == 201
    redirect = ask(config, "DELETE", path, node=1)
    assert redirect.status == 307
    location = redirect.headers["location"].removeprefix(config.addresses[LEADER].url)
    assert request(config, LEADER, "PUT", location, image(100)).problem == "bad-ticket"  # it is for removing
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")
    curl = ["curl", "-sS", "--fail", "-L", "-X", "DELETE", "-H", f"Authorization: Bearer {token_of(config, 'alice')}"]
    subprocess.run([*curl, f"{config.addresses[2].url}{path}"], check=True, timeout=60)
    assert ask(config, "GET", path).status == 404


def test_a_ticket_removes_what_it_was_granted_for(shared_cluster: Running) -> None:
    config = shared_cluster.config
    for name in ("one.png", "two.png"):
        assert ask(config, "PUT", f"/v1/images/{name}", image(100)).status == 201
    ticket = {"Authorization": f"Ticket {granted(config, '/one.png', 0, Action.REMOVE).ticket}"}
    assert request(config, LEADER, "DELETE", "/v1/images/two.png", headers=ticket).problem == "bad-ticket"
    ticket = {"Authorization": f"Ticket {granted(config, '/one.png', 0, Action.REMOVE).ticket}"}
    assert request(config, LEADER, "DELETE", "/v1/images/one.png", headers=ticket).status == 204
    assert {"one.png", "two.png"} & {*names(config)} == {"two.png"}
    offer = Offer("alice", UPLOAD, "two.png", 5, Action.REMOVE, Scheme.SEALED)
    assert ask(config, "POST", "/v1/offers", msgspec.json.encode(offer)).problem == "bad-request"


# -- conditions --------------------------------------------------------------------------------------

BEFORE, AFTER = "Sun, 06 Nov 1994 08:49:37 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"
FAILING: list[dict[str, Any]] = [
    {"If-Match": '"nosuch"'},
    {"If-Match": "W/{opened}"},
    {"If-Match": '"nosuch", W/{sealed}'},
    {"If-None-Match": "*"},
    {"If-None-Match": "{opened}"},
    {"If-None-Match": '"nosuch", W/{sealed}'},
    {"If-Unmodified-Since": BEFORE},
    {"If-Unmodified-Since": "Sunday, 06-Nov-94 08:49:37 GMT"},
    {"If-Unmodified-Since": "Sun Nov  6 08:49:37 1994"},
    {"If-Match": "{opened}", "If-None-Match": "{opened}"},
    {"If-Match": '"nosuch"', "If-Unmodified-Since": AFTER},
]
HOLDING: list[dict[str, Any]] = [
    {"If-Match": "{opened}"},
    {"If-Match": "{sealed}"},
    {"If-Match": '"nosuch" ,, {opened}'},
    {"If-Match": "*"},
    {"If-None-Match": '"nosuch"'},
    {"If-Unmodified-Since": AFTER},
    {"If-Unmodified-Since": "yesterday"},  # not a date: ignored (RFC 9110, 13.1.4)
    {"If-Unmodified-Since": "Sun, 06 Nov 99999999999999999999 08:49:37 GMT"},
    {"If-Match": "{opened}", "If-Unmodified-Since": BEFORE},
    {"If-Modified-Since": AFTER},  # for GET and HEAD alone
]
MALFORMED = ["nosuch", "'nosuch'", '"no such"', '"a" "b"', "*, *", '*, "a"', "", ",", '"a', 'w/"a"']


def said_of(config: Config, path: str, said: dict[str, Any]) -> dict[str, Any]:
    """Conditions with the image's present tags in them."""
    opened = ask(config, "HEAD", path).headers["etag"]
    sealed = ask(config, "HEAD", path, Accept=ACCEPT_SEALED).headers["etag"]
    return {name: value.format(opened=opened, sealed=sealed) for name, value in said.items()}


@pytest.mark.parametrize("node", [1, LEADER])
def test_an_image_is_removed_only_if_the_conditions_hold(shared_cluster: Running, node: int) -> None:
    config, (_, path), content = shared_cluster.config, new_image().split(), image(100)
    assert ask(config, "PUT", path, content).status == 201

    def remove(path: str, said: dict[str, Any]) -> Answer:
        redirect = ask(config, "DELETE", path, node=node, **said)
        if redirect.status != 307:
            return redirect
        _, _, target = redirect.headers["location"].partition("/v1/")
        return request(config, LEADER, "DELETE", f"/v1/{target}", headers=said)

    for said in FAILING:
        answer = remove(path, said_of(config, path, said))
        assert (answer.status, answer.problem) == (412, "precondition-failed"), said
    for header in ("If-Match", "If-None-Match"):
        for value in MALFORMED:
            assert remove(path, {header: value}).status == 400, (header, value)
    assert ask(config, "GET", path).body == content
    for said in HOLDING:
        other = new_image().split()[1]
        assert ask(config, "PUT", other, content).status == 201
        assert remove(other, said_of(config, other, said)).status == 204, said
        assert remove(other, {"If-Match": "*"}).status == 404  # as it would be without (RFC 9110, 13.2.1)


def test_an_image_is_kept_only_if_the_conditions_hold(shared_cluster: Running) -> None:
    config, (_, path), content = shared_cluster.config, new_image().split(), image(100)
    for tag in ("*", '"nosuch"'):
        answer = ask(config, "PUT", path, content, If_Match=tag)
        assert (answer.status, answer.problem) == (412, "precondition-failed")
    assert ask(config, "PUT", path, content, If_Match="nosuch").status == 400
    assert ask(config, "GET", path).status == 404
    kept = ask(config, "PUT", path, content, If_None_Match="*", If_Unmodified_Since=BEFORE, Safelight_Upload=UPLOAD)
    assert kept.status == 201
    for said in FAILING:
        answer = ask(config, "PUT", path, image(100), **said_of(config, path, said))
        assert (answer.status, answer.problem) == (412, "precondition-failed"), said
    for said in HOLDING:  # no condition makes a name free
        answer = ask(config, "PUT", path, image(100), **said_of(config, path, said))
        assert (answer.status, answer.problem) == (409, "image-taken"), said
    assert ask(config, "GET", path).body == content
    again = ask(config, "PUT", path, content, If_None_Match="*", Safelight_Upload=UPLOAD)  # it has succeeded already
    assert (again.status, again.body) == (201, kept.body)


def test_a_body_is_not_asked_for_where_a_condition_fails(shared_cluster: Running) -> None:
    config, token = shared_cluster.config, f"Authorization: Bearer {token_of(shared_cluster.config, 'alice')}"
    for path in (new_image().split()[1], "/v1/opened/a.png"):
        with line(config.addresses[LEADER]) as connection:
            connection.request(f"PUT {path}", token, 'If-Match: "nosuch"', "Expect: 100-continue", "Content-Length: 9")
            assert connection.interim().startswith("HTTP/1.1 412 ")


def test_at_an_address_that_keeps_nothing_there_is_nothing_to_match(shared_cluster: Running) -> None:
    config, content = shared_cluster.config, image(100)
    sealed = ask(config, "PUT", "/v1/images/x", content, Safelight_Keep="no").body
    for said in ("*", '"nosuch"'):
        assert ask(config, "PUT", "/v1/opened/x", sealed, If_Match=said).status == 412
        assert ask(config, "PUT", "/v1/users/alice", If_Match=said).status == 412
    assert ask(config, "PUT", "/v1/opened/x", sealed, If_None_Match="*").body == content


def test_a_condition_is_evaluated_of_the_very_record_that_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the removal the image is rewrapped: its sealed file has another tag now."""
    config = ephemeral_config(tmp_path, 1)
    config.data_dir.mkdir()
    ring, seen = Keyring.new(), list[Image]()

    async def go() -> None:
        vault = await open_vault(config.vault_url, config.data_dir, lambda: ring)
        chain = vault.records.chain("alice", "a.png")
        first = Image("alice", "a.png", UPLOAD, "body", b"one", 1, 0.0, "image/png", "a.png", None)
        assert await vault.append(chain, 1, first)
        append = vault.append

        async def overtaken(key: str, number: int, record: Record, **said: Any) -> bool:
            monkeypatch.setattr(vault, "append", append)
            assert await append(key, number, msgspec.structs.replace(first, header=b"two"))
            return await append(key, number, record, **said)

        def check(image: Image) -> None:
            seen.append(image)
            if image.header != b"one":
                raise LookupError

        monkeypatch.setattr(vault, "append", overtaken)
        with pytest.raises(LookupError):
            await vault.remove("alice", "a.png", check)
        assert (await vault.find("alice", "a.png")).header == b"two"

    asyncio.run(go())
    assert [each.header for each in seen] == [b"one", b"two"]


# -- a vault in trouble ------------------------------------------------------------------------------


def test_an_upload_that_asks_for_it_is_not_kept_and_that_is_said(tmp_path: Path) -> None:
    with running(tmp_path, 1) as it:
        answer = ask(it.config, "PUT", "/v1/images/a.png", image(100), Prefer="return=minimal", Safelight_Keep="no")
        assert (answer.status, answer.headers["safelight-kept"]) == (201, "no")
        assert answer.body
        for method in ("GET", "DELETE"):
            refusing = ask(it.config, method, "/v1/images/a.png")
            assert (refusing.status, refusing.problem) == (404, "not-found")
        assert names(it.config) == []
        vault = it.config.data_dir / "vault"
        assert not [path for path in vault.rglob("*") if path.relative_to(vault).parts[0] in ("records", "bodies")]


def test_a_vault_that_goes_away_is_said_and_comes_back(tmp_path: Path) -> None:
    with running(tmp_path, 1) as it:
        vault, aside = it.config.data_dir / "vault", tmp_path / "aside"
        assert ask(it.config, "PUT", "/v1/images/a.png", image(100)).status == 201
        vault.rename(aside)
        for method, path in (("PUT", "/v1/images/b.png"), ("GET", "/v1/images"), ("GET", "/v1/images/b.png")):
            away = ask(it.config, method, path, image(100) if method == "PUT" else b"")
            assert (away.status, away.problem) == (503, "vault-away")
            assert away.headers["retry-after"]
            assert str(tmp_path).encode() not in away.body
        assert str(vault) in it.wait_for_line(1, "is missing")
        assert not vault.exists()  # it is not made anew
        assert ask(it.config, "PUT", "/v1/images/b.png", image(9), Safelight_Keep="no").status == 201
        aside.rename(vault)
        assert ask(it.config, "PUT", "/v1/images/b.png", image(100)).status == 201
        assert names(it.config) == ["b.png", "a.png"]


def test_a_vault_that_is_full_or_read_only_is_said_and_goes_on_giving(tmp_path: Path) -> None:
    with small_disk(tmp_path / "vault", 6) as disk, running(tmp_path, 1, vault=disk.as_uri()) as it:
        content = image(3 * MEBIBYTE)
        assert ask(it.config, "PUT", "/v1/images/a.png", content).status == 201
        full = ask(it.config, "PUT", "/v1/images/b.png", image(8 * MEBIBYTE))
        assert (full.status, full.problem) == (507, "disk-full")
        assert ask(it.config, "PUT", "/v1/images/b.png", image(MEBIBYTE)).status == 201  # the room is free again
        remount = ["mount", "-o", "remount,ro", str(disk)]
        eventually(lambda: subprocess.run(remount, capture_output=True).returncode == 0, "nobody writes")
        read_only = ask(it.config, "PUT", "/v1/images/c.png", image(100))
        assert (read_only.status, read_only.problem) == (503, "vault-away")
        assert ask(it.config, "DELETE", "/v1/images/b.png").problem == "vault-away"
        assert ask(it.config, "GET", "/v1/images/a.png").body == content
        assert names(it.config) == ["b.png", "a.png"]


def test_a_node_that_has_lost_sight_of_the_vault_does_not_lead_until_it_sees_it_again(tmp_path: Path) -> None:
    """Two machines that mount one vault, each in a place of its own."""
    vault, mounted = tmp_path / "vault", tmp_path / "mounted"
    vault.mkdir()
    mounted.symlink_to(vault)
    config = ephemeral_config(tmp_path, 2, vault=vault.as_uri())
    create_cluster(config.data_dir)
    second = tmp_path / "second"
    second.mkdir()
    shutil.copy2(config.data_dir / "keyring.json", second)
    with (
        running_as(config) as one,
        running_as(msgspec.structs.replace(config, data_dir=second, vault=mounted.as_uri())) as two,
    ):
        one.cluster.start(1)
        two.cluster.start(2)
        wait_until_all_follow(config, 2)
        mounted.unlink()
        assert str(mounted) in two.wait_for_line(2, "ineligible to lead")
        wait_until_all_follow(config, 1)
        mounted.symlink_to(vault)
        wait_until_all_follow(config, 2)


# -- which vault -------------------------------------------------------------------------------------


@pytest.fixture
def used(tmp_path: Path) -> Config:
    """The configuration of a cluster that has kept an image."""
    with running(tmp_path, 1) as it:
        assert ask(it.config, "PUT", "/v1/images/a.png", image(100)).status == 201
        return it.config


def test_a_vault_that_is_missing_or_empty_is_not_begun_anew(used: Config, tmp_path: Path) -> None:
    vault, marker = used.data_dir / "vault", used.data_dir / "vault.json"
    vault.rename(tmp_path / "aside")
    assert str(marker) in refusal(used)
    assert not vault.exists()
    vault.mkdir()
    assert str(marker) in refusal(used)
    assert list(vault.iterdir()) == []
    elsewhere = msgspec.structs.replace(used, vault=(tmp_path / "elsewhere").as_uri())
    assert str(marker) in refusal(elsewhere)
    marker.unlink()
    with running_as(used) as it:
        it.cluster.start()
        it.wait_until_leader(1)
        enrolled(used, "alice")  # users are in the vault, too
        assert names(used) == []
    vault.rename(tmp_path / "new")
    (tmp_path / "aside").rename(tmp_path / "elsewhere")
    with running_as(elsewhere) as it:  # the vault has moved, and the configuration with it
        it.cluster.start()
        it.wait_until_leader(1)
        assert names(elsewhere) == ["a.png"]


def test_another_clusters_vault_is_refused_and_left_alone(used: Config, tmp_path: Path) -> None:
    other = msgspec.structs.replace(used, data_dir=tmp_path / "other", vault=(used.data_dir / "vault").as_uri())
    before = sorted((used.data_dir / "vault").rglob("*"))
    line = refusal(other)  # neither with a keyring made by itself
    assert "restore it from a backup" in line
    assert not (other.data_dir / "keyring.json").exists()
    create_cluster(other.data_dir)
    line = refusal(other)  # nor with one that was made on purpose
    assert find_keyring(used.data_dir).read().cluster_id[:8] in line
    assert sorted((used.data_dir / "vault").rglob("*")) == before


@pytest.mark.parametrize(
    "url", ["/srv/vault", "file://srv/vault", "file:vault", "ftp://host/x", "s3://", "http://a/b", "None", "file:///no/such/place"]
)  # fmt: skip
def test_an_address_that_is_no_vaults_is_refused(tmp_path: Path, url: str) -> None:
    assert refusal(ephemeral_config(tmp_path, 1, vault=url)).startswith("vault: ")


def test_nodes_of_several_machines_need_a_vault_that_all_of_them_find(tmp_path: Path) -> None:
    config = ephemeral_config(tmp_path, 1)
    elsewhere = (*config.servers, "192.0.2.1:8001", "192.0.2.2:8001")  # RFC 5737: nobody's
    several = msgspec.structs.replace(config, servers=elsewhere, insecure_http=True)
    create_cluster(config.data_dir)
    assert refusal(several).startswith("vault: these servers are on several machines")


def test_a_node_whose_vault_cannot_be_opened_yet_serves_and_opens_it_when_it_can(tmp_path: Path) -> None:
    place = tmp_path / "vault"
    place.write_text("a file is in the way")
    create_cluster(tmp_path / "data")  # no node makes a keyring while it cannot see whether there is a vault in use
    with running(tmp_path, 1, vault=place.as_uri()) as it:
        headers = {"Authorization": f"Bearer {token('nobodys')}"}
        assert request(it.config, 1, "PUT", "/v1/images/a.png", image(100), headers).problem == "vault-away"
        assert str(place) in it.wait_for_line(1, "WARNING")
        place.unlink()
        eventually(
            lambda: request(it.config, 1, "GET", "/v1/images", headers=headers).problem == "unknown-token", "it is"
        )
        eventually(lambda: ask(it.config, "PUT", "/v1/images/a.png", image(100)).status == 201, "it is open")
        assert names(it.config) == ["a.png"]


def test_a_small_image_takes_a_name_at_which_an_upload_was_given_up_before(tmp_path: Path) -> None:
    with running(tmp_path / "cluster", 1) as cluster:
        token = enrolled(cluster.config, "alice")

        async def leave_traces() -> None:
            ring = keyring_file(cluster.config).read()
            vault = await open_vault(cluster.config.vault_url, cluster.config.data_dir, lambda: ring)
            assert await vault.append(vault.records.chain("alice", "a.png"), 1, Aborted(0.0))

        asyncio.run(leave_traces())
        headers = {"Authorization": f"Bearer {token}", "Safelight-Upload": UPLOAD}
        body = b"\x89PNG\r\n\x1a\n" + b"small"
        sealed = request(cluster.config, 1, "PUT", "/v1/images/a.png", body, headers)
        assert sealed.status == 201
        assert request(cluster.config, 1, "GET", "/v1/images/a.png", headers=headers).body == body
        again = request(cluster.config, 1, "PUT", "/v1/images/a.png", body, headers)
        assert (again.status, again.body) == (201, sealed.body)


def test_what_nobody_will_ever_name_is_swept_while_a_node_leads(tmp_path: Path) -> None:
    config = ephemeral_config(tmp_path, 1)
    config.data_dir.mkdir()
    ring, said = Keyring.new(), list[str]()

    async def go() -> None:
        vault = await open_vault(config.vault_url, config.data_dir, lambda: ring)
        draft = await vault.begin("alice", "a.png", UPLOAD)
        assert isinstance(draft, Draft)
        await draft.body.write([b"half an image"])
        await draft.body.finish()  # and then its node dies
        (body,) = [path for path in (config.data_dir / "vault" / "bodies").rglob("*") if path.is_file()]
        hidden = body.with_name(f".{16 * '0'}.part")
        hidden.write_bytes(b"what another crash has left")
        for each in (body, hidden):
            os.utime(each, (0, 0))
        election = Mock(leads=False)
        keeper = VaultHandle(
            config,
            1,
            lambda: ring,
            election=election,
            peers=Mock(another_is_unhealthy=Mock(return_value=False)),
            health=Mock(),
            log=said.append,
            interval=0.01,
        )
        await keeper.start()
        await asyncio.to_thread(eventually, lambda: not hidden.exists(), "the hidden file is gone")
        assert body.exists()  # only a leader sweeps
        election.leads = True
        await asyncio.to_thread(eventually, lambda: len(said) == 2, "it has swept the body, and says so")
        assert not body.exists()
        hidden.write_bytes(b"what a crash leaves while this node runs on")
        os.utime(hidden, (0, 0))
        await asyncio.to_thread(eventually, lambda: not hidden.exists(), "that is gone, too")
        await keeper.stop()

    asyncio.run(go())
    assert all("swept the vault" in each for each in said)
