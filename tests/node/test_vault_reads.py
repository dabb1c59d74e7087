"""Out of the vault: any node gives an image back, whole or in parts, as RFC 9110 has it. curl is one judge of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from email.message import Message
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest

from safelight.wire.messages import ACCEPT_SEALED, Listing
from tests.mission.support import MEBIBYTE, Answer, enrolled, request
from tests.node.raw_http import ask, image
from tests.running import SETTLED, Running, running

NAME = "Zürich 100%.png"
PATH = f"/v1/images/{quote(NAME, safe='')}"
ORIGINAL = 'Le "café", déjà\\vu.png'
MODIFIED = "1700000000.123456"
FIRST = MEBIBYTE - 16 - 24
"""Bytes of the image in the first segment; each further one has 24 more. See docs/format.md."""
SECOND = FIRST + MEBIBYTE - 16
CONTENT = image(2 * MEBIBYTE + 12_345)
SIZE = len(CONTENT)


class Reader:
    """A user of a cluster who asks for images."""

    def __init__(self, cluster: Running, user: str) -> None:
        self.config = cluster.config
        self.token = enrolled(cluster.config, user)
        self.leader = max(cluster.config.addresses)

    def ask(self, method: str, path: str, node: int = 1, **headers: str) -> Answer:
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        return request(self.config, node, method, path, headers={"Authorization": f"Bearer {self.token}", **said})

    def put(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
        said = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        answer = request(self.config, self.leader, "PUT", path, body, said)
        assert answer.status == 201, answer
        return answer

    def curl(self, *arguments: str | Path, node: int = 1) -> subprocess.CompletedProcess[bytes]:
        if shutil.which("curl") is None:
            pytest.skip("there is no curl on this machine")
        *options, path = arguments
        url = f"{self.config.addresses[node].url}{path}"
        command = ["curl", "-sS", "--fail", "-H", f"Authorization: Bearer {self.token}", *options, url]
        return subprocess.run(command, capture_output=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def reader(shared_cluster: Running) -> Reader:
    return Reader(shared_cluster, "alice")


@pytest.fixture(scope="module")
def sealed(reader: Reader) -> bytes:
    """Keep CONTENT; its sealed file."""
    headers = {"Safelight-Original": quote(ORIGINAL), "Safelight-Modified": MODIFIED}
    return reader.put(PATH, CONTENT, headers).body


@pytest.fixture(scope="module")
def whole(reader: Reader, sealed: bytes) -> Answer:
    """The image and its headers, as node 1 gives them."""
    return reader.ask("GET", PATH)


@pytest.mark.parametrize("node", [1, 2, 3])
def test_every_node_gives_the_image_back(reader: Reader, sealed: bytes, node: int) -> None:
    done = reader.curl(PATH, node=node)
    assert (done.returncode, done.stdout == CONTENT) == (0, True), done.stderr


def test_an_image_comes_with_what_is_known_of_it(whole: Answer) -> None:
    assert whole.status == 200
    assert whole.headers["content-type"] == "image/png"
    assert whole.headers["content-length"] == str(SIZE)
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["safelight-original"] == quote(ORIGINAL)
    assert whole.headers["safelight-modified"] == MODIFIED
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["content-security-policy"] == "sandbox"
    assert whole.headers["cache-control"] == "private, no-cache"
    assert whole.headers["etag"].startswith('"')  # strong
    message = Message()  # the standard library reads RFC 2231, of which RFC 8187 is the half that HTTP has
    message["Content-Disposition"] = whole.headers["content-disposition"].partition("; filename=")[0] + (
        "; filename*=" + whole.headers["content-disposition"].partition("filename*=")[2]
    )
    assert message.get_filename() == ORIGINAL
    assert whole.headers["content-disposition"].isascii()


def test_head_says_what_get_says(reader: Reader, whole: Answer) -> None:
    head = reader.ask("HEAD", PATH)
    assert (head.status, head.body) == (200, b"")
    assert {**head.headers, "date": ""} == {**whole.headers, "date": ""}
    assert reader.ask("HEAD", PATH, Range="bytes=0-1").headers["content-length"] == str(SIZE)


def test_without_a_token_or_with_a_strange_host_nothing_is_read(reader: Reader, whole: Answer) -> None:
    for path in (PATH, "/v1/images"):
        assert request(reader.config, 1, "GET", path).problem == "no-credentials"
        assert reader.ask("GET", path, Authorization="Bearer slt_nobodys").problem == "unknown-token"
        assert reader.ask("GET", path, Host="evil.example").problem == "wrong-host"


# -- parts -------------------------------------------------------------------------------------------

PARTS = {
    "0-0": slice(0, 1),
    "0-9": slice(0, 10),
    "500-": slice(500, None),
    "-1": slice(-1, None),
    "-100000": slice(-100_000, None),
    f"-{SIZE}": slice(0, None),
    f"-{10 * SIZE}": slice(0, None),
    f"{SIZE - 1}-": slice(-1, None),
    f"{SIZE - 2}-{10 * SIZE}": slice(-2, None),
    f"0-{'9' * 18}": slice(0, None),
    **{
        f"{border + start}-{border + end - 1}": slice(border + start, border + end)
        for border in (FIRST, SECOND)
        for start, end in ((-1, 0), (0, 1), (-1, 1), (-100, 100))
    },
    f"{FIRST}-{SECOND - 1}": slice(FIRST, SECOND),
    f"{FIRST - 1}-{SECOND}": slice(FIRST - 1, SECOND + 1),
}


@pytest.mark.parametrize("part", PARTS)
def test_any_part_is_that_part_of_the_original(reader: Reader, whole: Answer, part: str) -> None:
    answer = reader.ask("GET", PATH, node=2, Range=f"bytes={part}")
    assert answer.status == 206
    assert answer.body == CONTENT[PARTS[part]]
    start, end, _ = PARTS[part].indices(SIZE)
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert answer.headers["etag"] == whole.headers["etag"]


@pytest.mark.parametrize("part", [f"{SIZE}-", f"{SIZE}-{SIZE}", f"{9 * SIZE}-", "-0"])
def test_a_part_outside_is_refused_with_the_size(reader: Reader, sealed: bytes, part: str) -> None:
    answer = reader.ask("GET", PATH, Range=f"bytes={part}")
    assert (answer.status, answer.problem) == (416, "range-not-satisfiable")
    assert answer.headers["content-range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize(
    "said",
    ["bytes=0-1,5-6", "bytes=5-4", "bytes=-", "bytes=a-b", "bytes", "lines=0-1", "bytes=0-1-2", f"bytes={'9' * 8000}-"],
)
def test_what_is_no_single_range_gets_the_whole_image(reader: Reader, sealed: bytes, said: str) -> None:
    answer = reader.ask("GET", PATH, Range=said)
    assert (answer.status, answer.body == CONTENT) == (200, True)


def test_a_part_is_for_those_who_have_the_same_image(reader: Reader, whole: Answer) -> None:
    tag, date = whole.headers["etag"], whole.headers["last-modified"]
    for condition in (tag, date):
        assert reader.ask("GET", PATH, Range="bytes=1-2", If_Range=condition).status == 206
    for condition in (f"W/{tag}", '"another"', formatdate(0, usegmt=True), formatdate(2e9, usegmt=True), "no date"):
        answer = reader.ask("GET", PATH, Range="bytes=1-2", If_Range=condition)
        assert (answer.status, answer.body == CONTENT) == (200, True), condition


def test_curl_resumes_where_it_broke_off(reader: Reader, sealed: bytes, tmp_path: Path) -> None:
    part = tmp_path / "part"
    assert reader.curl("-r", f"0-{FIRST + 10}", "-o", part, PATH).returncode == 0
    assert part.read_bytes() == CONTENT[: FIRST + 11]
    assert reader.curl("-C", "-", "-o", part, PATH, node=3).returncode == 0
    assert part.read_bytes() == CONTENT


# -- conditions --------------------------------------------------------------------------------------

TAG, DATE, BEFORE, AFTER = "TAG", "DATE", "Sun, 06 Nov 1994 08:49:37 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"
CONDITIONS: list[tuple[dict[str, str], int]] = [
    ({"If-None-Match": TAG}, 304),
    ({"If-None-Match": f"W/{TAG}"}, 304),
    ({"If-None-Match": f'"a", "b,c" ,, {TAG}'}, 304),
    ({"If-None-Match": "*"}, 304),
    ({"If-None-Match": '"another"'}, 200),
    ({"If-Modified-Since": DATE}, 304),
    ({"If-Modified-Since": AFTER}, 304),
    ({"If-Modified-Since": BEFORE}, 200),
    ({"If-Modified-Since": "yesterday"}, 200),
    ({"If-None-Match": '"another"', "If-Modified-Since": AFTER}, 200),  # the tag decides
    ({"If-Match": TAG}, 200),
    ({"If-Match": "*"}, 200),
    ({"If-Match": f'"another", {TAG}'}, 200),
    ({"If-Match": f"W/{TAG}"}, 412),  # strong comparison
    ({"If-Match": '"another"'}, 412),
    ({"If-Unmodified-Since": DATE}, 200),
    ({"If-Unmodified-Since": BEFORE}, 412),
    ({"If-Match": TAG, "If-Unmodified-Since": BEFORE}, 200),
    ({"If-Match": '"another"', "If-None-Match": TAG}, 412),  # the order of RFC 9110, 13.2.2
    ({"If-None-Match": TAG, "Range": "bytes=0-1"}, 304),
    ({"If-Match": TAG, "Range": "bytes=0-1"}, 206),
]


@pytest.mark.parametrize(("said", "status"), CONDITIONS, ids=str)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_conditions_are_kept(reader: Reader, whole: Answer, method: str, said: dict[str, str], status: int) -> None:
    known = {TAG: whole.headers["etag"], DATE: whole.headers["last-modified"]}
    for mark, value in known.items():
        said = {name: each.replace(mark, value) for name, each in said.items()}
    said["Authorization"] = f"Bearer {reader.token}"
    answer = request(reader.config, 1, method, PATH, headers=said)
    assert answer.status == (200 if (status, method) == (206, "HEAD") else status)
    if status == 304:
        assert answer.body == b""
        assert {name: answer.headers[name] for name in ("etag", "cache-control", "vary", "last-modified")} == {
            name: whole.headers[name] for name in ("etag", "cache-control", "vary", "last-modified")
        }
    if status == 412 and method == "GET":
        assert answer.problem == "precondition-failed"


def test_several_lines_of_tags_are_one_list(reader: Reader, whole: Answer) -> None:
    address, token = reader.config.addresses[1], f"Authorization: Bearer {reader.token}"
    lines = ('If-None-Match: "another"', f"If-None-Match: {whole.headers['etag']}")
    assert ask(address, f"GET {PATH}", token, *lines).status == 304


def test_curl_gets_only_what_is_newer(reader: Reader, whole: Answer, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    assert reader.curl("-R", "-o", copy, PATH).returncode == 0
    assert copy.stat().st_mtime == parsedate_to_datetime(whole.headers["last-modified"]).timestamp()
    done = reader.curl("-z", copy, "-o", tmp_path / "again", "-w", "%{http_code}", PATH)
    assert done.stdout == b"304"
    done = reader.curl("-z", BEFORE, "-o", tmp_path / "again", "-w", "%{http_code}", PATH)
    assert (done.stdout, (tmp_path / "again").read_bytes() == CONTENT) == (b"200", True)


# -- the sealed file ---------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", [ACCEPT_SEALED, f"image/*;q=0.1, {ACCEPT_SEALED.upper()};q=1"])
def test_the_sealed_file_is_another_representation(reader: Reader, whole: Answer, sealed: bytes, accept: str) -> None:
    answer = reader.ask("GET", PATH, node=2, Accept=accept)
    assert (answer.status, answer.headers["content-type"]) == (200, ACCEPT_SEALED)
    assert answer.body == sealed
    assert answer.headers["etag"] != whole.headers["etag"]
    assert answer.headers["vary"] == whole.headers["vary"] == "Accept"
    assert reader.ask("GET", PATH, Accept=accept, If_None_Match=answer.headers["etag"]).status == 304
    assert reader.ask("HEAD", PATH, Accept=accept).headers["content-length"] == str(len(sealed))
    headers = {"Authorization": f"Bearer {reader.token}"}
    opened = request(reader.config, reader.leader, "PUT", "/v1/opened/x", answer.body, headers)
    assert opened.body == CONTENT


@pytest.mark.parametrize("accept", ["*/*", "image/png", f"{ACCEPT_SEALED};q=0", f"*/*, {ACCEPT_SEALED}; q=0.000"])
def test_who_does_not_ask_for_the_sealed_file_gets_the_image(reader: Reader, whole: Answer, accept: str) -> None:
    assert reader.ask("HEAD", PATH, Accept=accept).headers["content-type"] == "image/png"


# -- whose -------------------------------------------------------------------------------------------


def test_another_users_image_is_as_none(shared_cluster: Running, reader: Reader, sealed: bytes) -> None:
    bob = Reader(shared_cluster, "bob")
    for method in ("GET", "HEAD", "DELETE"):
        theirs, none = (bob.ask(method, path, node=3) for path in (PATH, "/v1/images/never.png"))
        assert theirs.status == none.status == 404
        assert theirs.body == none.body
        assert {**theirs.headers, "date": ""} == {**none.headers, "date": ""}
    assert bob.ask("GET", "/v1/images").body == b'{"images":[]}'
    assert reader.ask("GET", PATH).status == 200


@pytest.mark.parametrize("name", ["..%2F..%2Fvault", "%2e%2e", "%2Fetc%2Fpasswd", "a%00b", "a%0Ab", "a" * 300])
def test_a_name_that_could_do_harm_is_refused(reader: Reader, name: str) -> None:
    address, token = reader.config.addresses[reader.leader], f"Authorization: Bearer {reader.token}"
    for method in ("GET", "DELETE"):
        answer = ask(address, f"{method} /v1/images/{name}", token)
        assert (answer.status, b"bad-request" in answer.body) == (400, True)


# -- listings ----------------------------------------------------------------------------------------


def listing(reader: Reader, query: str = "", node: int = 1) -> Listing:
    answer = reader.ask("GET", f"/v1/images{query}", node=node)
    assert answer.status == 200, answer
    return msgspec.json.decode(answer.body, type=Listing)


def names(found: Listing) -> list[str]:
    return [each.name for each in found.images]


def test_a_listing_has_what_was_kept_newest_first_in_stable_pages(shared_cluster: Running) -> None:
    dora = Reader(shared_cluster, "dora")
    assert listing(dora) == Listing([])
    for number in range(7):
        dora.put(f"/v1/images/{number}.png", image(100 + number), {"Safelight-Original": f"IMG_{number % 2}.png"})
    whole = listing(dora, node=2)
    assert names(whole) == [f"{number}.png" for number in reversed(range(7))]
    assert whole.next is None
    assert [(each.size, each.type, each.original) for each in whole.images[:2]] == [
        (106, "image/png", "IMG_0.png"),
        (105, "image/png", "IMG_1.png"),
    ]
    first = listing(dora, "?limit=3")
    dora.put("/v1/images/new.png", image(10))
    assert dora.ask("DELETE", "/v1/images/5.png", node=3).status == 204
    second = listing(dora, f"?limit=3&after={first.next}", node=2)
    third = listing(dora, f"?limit=3&after={second.next}", node=3)
    assert names(first) + names(second) + names(third) == names(whole)
    assert third.next is None
    assert names(listing(dora, "?match=IMG_1*")) == ["3.png", "1.png"]
    assert names(listing(dora, "?match=%5B01%5D.png&limit=1")) == ["1.png"]
    assert names(listing(dora, "?match=img*")) == []


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=10001", "limit=-1", "limit=x", "limit=%D9%A1", "after=x", "after=", "after=%FF", "after=e30",
     "match=" + "*" * 256, "mach=x"],
)  # fmt: skip
def test_a_listing_that_makes_no_sense_is_refused(reader: Reader, query: str) -> None:
    assert reader.ask("GET", f"/v1/images?{query}").problem == "bad-request"


# -- damage ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("damage"), 1, heartbeat=SETTLED) as it:
        yield it


def cut(size: int) -> Callable[[Path], None]:
    """To so many bytes, or by so many."""
    return lambda body: os.truncate(body, size if size >= 0 else body.stat().st_size + size)


def flip(offset: int) -> Callable[[Path], None]:
    def damage(body: Path) -> None:
        data = bytearray(body.read_bytes())
        data[offset] ^= 1
        body.write_bytes(data)

    return damage


def replace(body: Path) -> None:
    body.write_bytes(os.urandom(body.stat().st_size))


EARLY: dict[str, Callable[[Path], None]] = {
    "gone": Path.unlink,
    "empty": cut(0),
    "cut in the first segment": cut(1000),
    "a flipped bit in the first segment": flip(5000),
    "replaced": replace,
}
LATE: dict[str, Callable[[Path], None]] = {
    "cut in the second segment": cut(MEBIBYTE + 1000),
    "without its last byte": cut(-1),
    "a flipped bit in the last segment": flip(-100),
}


def damaged(alone: Running, name: str, damage: Callable[[Path], None]) -> Reader:
    reader = Reader(alone, "alice")
    before = {*(alone.config.data_dir / "vault" / "bodies").rglob("*.*")}
    reader.put(f"/v1/images/{name}", CONTENT)
    (body,) = {*(alone.config.data_dir / "vault" / "bodies").rglob("*.*")} - before
    damage(body)
    return reader


@pytest.mark.parametrize("damage", EARLY)
def test_damage_at_the_beginning_is_said(alone: Running, damage: str) -> None:
    name = quote(damage)
    reader = damaged(alone, name, EARLY[damage])
    answer = reader.ask("GET", f"/v1/images/{name}")
    assert (answer.status, answer.problem) == (500, "damaged")
    assert "cannot be decrypted" in alone.wait_for_line(1, "in the vault")
    assert str(alone.config.data_dir).encode() not in answer.body


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "longer", "another image's"])
def test_a_sealed_file_that_is_not_the_one_that_was_kept_is_not_given_out(alone: Running, damage: str) -> None:
    name = quote(f"sealed {damage}.png")
    reader = Reader(alone, "alice")
    other = {*(alone.config.data_dir / "vault" / "bodies").rglob("*.*")}
    reader.put(f"/v1/images/{quote(f'other of {damage}.png')}", CONTENT)
    (swapped,) = {*(alone.config.data_dir / "vault" / "bodies").rglob("*.*")} - other
    damages: dict[str, Callable[[Path], None]] = {
        "gone": Path.unlink,
        "empty": cut(0),
        "cut": cut(-1),
        "longer": lambda body: os.truncate(body, body.stat().st_size + 1),
        "another image's": lambda body: os.replace(swapped, body),
    }
    reader = damaged(alone, name, damages[damage])
    answer = reader.ask("GET", f"/v1/images/{name}", Accept=ACCEPT_SEALED)
    assert (answer.status, answer.problem) == (500, "damaged")


@pytest.mark.parametrize("damage", LATE)
def test_damage_further_on_breaks_the_answer_off(alone: Running, damage: str, tmp_path: Path) -> None:
    name = quote(damage)
    reader = damaged(alone, name, LATE[damage])
    done = reader.curl("-o", tmp_path / "part", f"/v1/images/{name}")
    assert done.returncode != 0
    got = (tmp_path / "part").read_bytes()
    assert len(got) < SIZE
    assert CONTENT.startswith(got)  # nothing that was not verified
    assert reader.ask("GET", f"/v1/images/{name}", Range="bytes=0-99").body == CONTENT[:100]


def test_a_damaged_record_is_said(alone: Running) -> None:
    reader = Reader(alone, "rita")
    reader.put("/v1/images/r.png", CONTENT[:100])
    records = (alone.config.data_dir / "vault" / "records").rglob("*.1")
    newest = max(records, key=lambda path: path.stat().st_mtime_ns)
    flip(-1)(newest)
    alone.cluster.kill(1)  # what it has read once it remembers
    alone.cluster.start(1)
    alone.wait_until_leader(1)
    assert reader.ask("GET", "/v1/images/r.png").problem == "damaged"
    # A listing must not claim that there is less.
    assert reader.ask("GET", "/v1/images").problem == "damaged"
