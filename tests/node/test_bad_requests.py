"""Whatever a client sends, it gets a problem document in one clear line, and the node goes on serving."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from safelight.config import Address
from safelight.wire.messages import MAX_JSON, Problem
from tests.node.raw_http import Answer, ask, enrolled, image, line, new_image, refused, token
from tests.running import Running, eventually, running

LIMIT = 1 << 20
STALL = 0.5
UPLOAD = "0" * 32
STATUS = "GET /v1/status"


@dataclass
class Node:
    """One node that leads alone, and a user of it."""

    running: Running
    address: Address
    token: str

    def ask(self, start: str, *headers: str, body: bytes = b"", host: str | None = None) -> Answer:
        return ask(self.address, start, *headers, body=body, host=host)

    def offer(self, body: bytes) -> Answer:
        return self.ask("POST /v1/offers", self.token, body=body)

    def in_flight(self) -> int:
        return self._count("in_flight")

    def images(self) -> int:
        return self._count("images")

    def _count(self, what: str) -> int:
        count = self.ask(STATUS).json()["nodes"][0][what]
        assert isinstance(count, int)
        return count


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    directory = tmp_path_factory.mktemp("bad")
    with running(directory, 1, body_timeout=STALL, max_image_size=LIMIT) as it:
        yield Node(it, it.config.addresses[1], enrolled(it.config, "alice"))


@pytest.fixture
def node(one: Node) -> Iterator[Node]:
    """The node, which afterwards has nothing in flight, has printed no traceback, and still seals images."""
    yield one
    eventually(lambda: one.in_flight() == 0, "nothing is in flight")
    assert one.ask(new_image(), one.token, body=image(1000)).status == 201
    said = one.running.said(1)
    assert all(each.startswith("Node 1: ") for each in said), said
    assert not any("Traceback" in each or "slt_" in each for each in said)


# -- what is no HTTP ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(["X-Long: " + "a" * (1 << 20)], id="a header of 1 MB"),
        pytest.param([f"X-{number}: 1" for number in range(10_000)], id="10,000 headers"),
        pytest.param(["Host: elsewhere:80"], id="two hosts"),
        pytest.param(["Content-Length: 5", "Transfer-Encoding: chunked"], id="two lengths of two kinds"),
        pytest.param(["Content-Length: 5", "Content-Length: 6"], id="two lengths"),
        pytest.param(["Content-Length: -5"], id="a negative length"),
        pytest.param(["Content-Length: five"], id="a length in words"),
        pytest.param(["Content-Length: " + "9" * 300], id="an absurd length"),
        pytest.param(["Authorization: Bearer slt_secret\x01"], id="a control character"),
        pytest.param([" folded: header"], id="a folded header"),
        pytest.param(["Transfer-Encoding: chunked, gzip"], id="an unknown coding"),
    ],
)
def test_headers_that_are_not_http_are_refused_and_not_repeated(node: Node, headers: list[str]) -> None:
    answer = node.ask(new_image(), node.token, *headers, body=b"5\r\nhello\r\n0\r\n\r\n")
    refused(answer, Problem.BAD_REQUEST)
    assert b"slt_" not in answer.body
    assert len(answer.body) < 1000


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET /v1/status HTTP/1.1\r\n\r\n", id="no Host"),
        pytest.param(b"GET /v1/" + b"a" * (1 << 20) + b" HTTP/1.1\r\n\r\n", id="an address of 1 MB"),
        pytest.param(b"GET /v1/status HTTP/7.3\r\nHost: a\r\n\r\n", id="another version"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        pytest.param(b"\x00" * 100, id="zeros"),
        pytest.param(b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", id="an asterisk"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="SSH"),
        pytest.param("GET /v1/images/é.png HTTP/1.1\r\n".encode(), id="an address that is not escaped"),
    ],
)
def test_what_is_no_http_is_refused(node: Node, data: bytes) -> None:
    with line(node.address) as connection:
        connection.send(data)
        refused(connection.answer(), Problem.BAD_REQUEST)
        assert connection.ended()


@pytest.mark.parametrize("host", ["elsewhere:80", "elsewhere", "127.0.0.1", "127.0.0.1:1", "", "localhost:x"])
def test_a_host_that_is_not_the_nodes_is_refused(node: Node, host: str) -> None:
    detail = refused(node.ask(STATUS, host=host), Problem.WRONG_HOST)
    assert node.address.netloc in detail


def test_an_old_client_without_a_host_is_refused(node: Node) -> None:
    with line(node.address) as connection:
        connection.send(b"GET /v1/status HTTP/1.0\r\n\r\n")
        refused(connection.answer(), Problem.WRONG_HOST)


def test_the_nodes_other_loopback_names_are_answered(node: Node) -> None:
    assert node.ask(STATUS, host=f"LocalHost:{node.address.port}").status == 200


# -- bodies ------------------------------------------------------------------------------------------


def test_a_client_that_goes_away_half_way_is_forgotten(node: Node) -> None:
    before = len(node.running.said(1))
    with line(node.address) as connection:
        connection.request(new_image(), node.token, "Content-Length: 1000000", body=image(500_000))
        eventually(lambda: node.in_flight() == 1, "the body is in work")
    node.running.wait_for_line(1, "A client closed its connection early", after=before)
    eventually(lambda: node.in_flight() == 0, "it is given up")
    assert sum("Encrypted" not in each for each in node.running.said(1)[before:]) == 1


def test_a_body_shorter_than_announced_is_not_sealed(node: Node) -> None:
    before = node.images()
    with line(node.address) as connection:
        connection.request(new_image(), node.token, "Content-Length: 2000", body=image(1000))
        connection.socket.shutdown(1)  # SHUT_WR: no more will come, but an answer may
        assert connection.ended()
    eventually(lambda: node.in_flight() == 0, "it is given up")
    assert node.images() == before


def test_a_body_longer_than_announced_is_sealed_as_announced_and_the_rest_refused(node: Node) -> None:
    with line(node.address) as connection:
        connection.request(new_image(), node.token, "Content-Length: 1000", body=image(1000))
        assert connection.answer().status == 201
        connection.send(b"what does not belong to it\r\n\r\n")
        refused(connection.answer(), Problem.BAD_REQUEST)
        assert connection.ended()


def test_a_body_that_stops_moving_is_given_up(node: Node) -> None:
    answer = node.ask(new_image(), node.token, "Content-Length: 2000", body=image(1000))
    assert "0.5 s" in refused(answer, Problem.STALLED)


def test_an_offer_that_stops_moving_is_given_up(node: Node) -> None:
    refused(node.ask("POST /v1/offers", node.token, "Content-Length: 100", body=b'{"user":'), Problem.STALLED)


def test_a_huge_body_is_refused_before_it_is_sent(node: Node) -> None:
    answer = node.ask(new_image(), node.token, "Content-Length: 10000000000")
    assert str(LIMIT) in refused(answer, Problem.TOO_LARGE)


@pytest.mark.parametrize(
    ("headers", "problem"),
    [(["Content-Length: 10000000000"], Problem.TOO_LARGE), (["Content-Length: 0"], Problem.BAD_REQUEST)],
)
def test_whoever_expects_100_continue_is_not_asked_for_a_body_in_vain(
    node: Node, headers: list[str], problem: Problem
) -> None:
    with line(node.address) as connection:
        connection.request(new_image(), node.token, "Expect: 100-continue", *headers)
        assert connection.interim().startswith(f"HTTP/1.1 {problem.status} ")
    with line(node.address) as connection:
        connection.request(
            new_image(), "Authorization: Bearer slt_nobody", "Expect: 100-continue", "Content-Length: 10"
        )
        assert connection.interim().startswith("HTTP/1.1 401 ")


def test_whoever_expects_100_continue_is_asked_once_it_is_admitted(node: Node) -> None:
    with line(node.address) as connection:
        connection.request(new_image(), node.token, "Expect: 100-continue", "Content-Length: 1000")
        assert connection.interim() == "HTTP/1.1 100 Continue"
        connection.send(image(1000))
        assert connection.answer().status == 201


def test_a_client_of_http_1_0_is_never_told_to_continue(node: Node) -> None:
    lines = [f"{new_image()} HTTP/1.0", f"Host: {node.address.netloc}", node.token, "Expect: 100-continue"]
    with line(node.address) as connection:
        connection.send("\r\n".join([*lines, "Content-Length: 5", "", "hello"]).encode())
        assert " 201 " in connection.interim()


def test_a_chunked_body_beyond_the_limit_is_refused(node: Node) -> None:
    chunks = (b"40000\r\n" + bytes(0x40000) + b"\r\n") * 8 + b"0\r\n\r\n"
    refused(node.ask(new_image(), node.token, "Transfer-Encoding: chunked", body=chunks), Problem.TOO_LARGE)


def test_chunks_that_are_none_are_refused_in_the_middle_of_a_body(node: Node) -> None:
    with line(node.address) as connection:
        connection.request(new_image(), node.token, "Transfer-Encoding: chunked", "Expect: 100-continue")
        assert connection.interim() == "HTTP/1.1 100 Continue"
        connection.send(b"5\r\nhello\r\n")
        eventually(lambda: node.in_flight() == 1, "the body is in work")
        connection.send(b"not a chunk\r\n")
        assert connection.answer().status in (400, 408)


def test_a_chunked_body_is_sealed(node: Node) -> None:
    answer = node.ask(new_image(), node.token, "Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n")
    assert answer.status == 201


def test_a_body_in_chunks_of_a_byte_is_refused(node: Node) -> None:
    with line(node.address) as connection:
        connection.request(new_image(), node.token, "Transfer-Encoding: chunked", body=b"1\r\nx\r\n" * 40_000)
        answer = connection.answer()
        assert "chunks" in refused(answer, Problem.BAD_REQUEST)
        assert answer.headers["connection"] == "close"
        assert connection.ended()


def test_a_body_in_chunks_of_64_bytes_is_sealed(node: Node) -> None:
    chunks = (b"40\r\n" + bytes(64) + b"\r\n") * (LIMIT // 64) + b"0\r\n\r\n"
    assert node.ask(new_image(), node.token, "Transfer-Encoding: chunked", body=chunks).status == 201


def test_a_body_after_a_refused_upgrade_is_sealed(node: Node) -> None:
    with line(node.address) as connection:
        connection.request("GET /v1/cluster", "Connection: upgrade", "Upgrade: websocket")
        connection.request(new_image(), node.token, "Content-Length: 100000", body=image(100_000))
        assert connection.answer().status == 200
        assert connection.answer().status == 201


@pytest.mark.parametrize("header", ["Upload-Complete: ?0", "Upload-Incomplete: ?1"])
def test_a_part_of_a_resumable_upload_is_refused(node: Node, header: str) -> None:
    refused(node.ask(new_image(), node.token, header, body=image(100)), Problem.BAD_REQUEST)


CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"
WITH_BODIES = [
    "PUT /v1/images/refused.png",
    "PUT /v1/opened/refused.png",
    "POST /v1/offers",
    "POST /v1/orders",
    "PUT /v1/users/refused",
    "DELETE /v1/images/refused.png",
]
CHANGED_MEANING = [
    ("Content-Range: bytes 1000-1004/1005", Problem.BAD_REQUEST),
    ("content-range: bytes */1005", Problem.BAD_REQUEST),
    ("Content-Range:", Problem.BAD_REQUEST),
    ("Content-Encoding: gzip", Problem.UNSUPPORTED_TYPE),
    ("Content-Encoding: identity, BR", Problem.UNSUPPORTED_TYPE),
    ("Content-Encoding: identity\r\nContent-Encoding: zstd", Problem.UNSUPPORTED_TYPE),
    ("Content-Type: multipart/form-data; boundary=x", Problem.UNSUPPORTED_TYPE),
    ("Content-Type: Multipart/byteranges;boundary=x", Problem.UNSUPPORTED_TYPE),
    ("Content-Type: message/partial; number=2; total=3", Problem.UNSUPPORTED_TYPE),
    ("Expect: a miracle", Problem.EXPECTATION),
    ("Expect: 100-continue, a miracle", Problem.EXPECTATION),
    ("Expect: 100-continue\r\nExpect: a miracle", Problem.EXPECTATION),
    ("Expect: \r\nExpect: a miracle", Problem.EXPECTATION),
    ("Transfer-Encoding: gzip, chunked", Problem.UNKNOWN_CODING),
    ("Transfer-Encoding: identity, chunked", Problem.UNKNOWN_CODING),
    ("Transfer-Encoding: gzip", Problem.UNKNOWN_CODING),
    ("Transfer-Encoding: identity", Problem.UNKNOWN_CODING),
    ("Transfer-Encoding: chunked\r\nContent-Length: 5", Problem.BAD_REQUEST),
    ("Transfer-Encoding: gzip\r\nContent-Length: 5", Problem.BAD_REQUEST),
    ("Transfer-Encoding: chunked, chunked", Problem.BAD_REQUEST),
]


@pytest.mark.parametrize("start", WITH_BODIES)
def test_a_header_that_changes_what_a_body_means_is_refused_and_nothing_is_done(node: Node, start: str) -> None:
    for header, problem in CHANGED_MEANING:
        coded = "transfer-encoding" in header.lower()
        refused(node.ask(start, node.token, header, body=CHUNKS if coded else b"hello"), problem)
    refused(node.ask("GET /v1/images/refused.png", node.token), Problem.NOT_FOUND)
    refused(node.ask("GET /v1/images", "Authorization: Bearer slt_refused"), Problem.UNKNOWN_TOKEN)


@pytest.mark.parametrize("start", WITH_BODIES)
def test_a_body_that_would_be_refused_is_not_asked_for(node: Node, start: str) -> None:
    for header, problem in CHANGED_MEANING:
        length = [] if "transfer-encoding" in header.lower() else ["Content-Length: 5"]
        with line(node.address) as connection:
            connection.request(start, node.token, "Expect: 100-continue", header, *length)
            assert connection.interim().split()[1] == str(int(problem.status)), header


def test_what_is_refused_for_its_coding_says_which_is_taken(node: Node) -> None:
    answer = node.ask(new_image(), node.token, "Content-Encoding: gzip", body=b"hello")
    assert answer.headers["accept-encoding"] == "identity"  # RFC 9110, 12.5.3


def test_the_end_of_a_body_in_an_unknown_coding_is_not_guessed(node: Node) -> None:
    for start, version in ((["Transfer-Encoding: gzip, chunked"], "1.1"), (["Transfer-Encoding: chunked"], "1.0")):
        head = [f"{new_image()} HTTP/{version}", f"Host: {node.address.netloc}", node.token, *start]
        with line(node.address) as connection:
            connection.send("\r\n".join([*head, "Connection: keep-alive", "", ""]).encode() + CHUNKS)
            assert connection.answer().status == (501 if version == "1.1" else 400)
            assert connection.ended()


@pytest.mark.parametrize(
    "header",
    [
        "Content-Encoding: Identity",
        "Content-Type: image/png",
        "Content-Type: application/x-www-form-urlencoded",  # as curl says of any --data-binary
        "Transfer-Encoding: Chunked",
        "Expect: 100-Continue",
        "Range: bytes=0-1",  # not for PUT, so it is ignored (RFC 9110, 14.2)
    ],
)
def test_a_header_that_leaves_a_body_as_it_is_is_taken(node: Node, header: str) -> None:
    _, target = (start := new_image()).split()
    body = CHUNKS if "Chunked" in header else b"hello"
    assert node.ask(start, node.token, header, body=body).status == 201
    assert node.ask(f"GET {target}", node.token).body == b"hello"


def test_the_tail_of_an_image_that_curl_resumes_is_not_kept_as_the_image(node: Node, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")
    picture = tmp_path / "p.png"
    picture.write_bytes(image(2000))
    url = f"{node.address.url}/v1/images/resumed.png"
    curl = [
        "curl",
        "-sS",
        "-C",
        "1000",
        "-T",
        str(picture),
        "-H",
        node.token,
        "-w",
        "%{http_code}",
        "-o",
        "/dev/null",
        url,
    ]
    assert subprocess.run(curl, capture_output=True, timeout=60, check=False).stdout == b"400"
    refused(node.ask("GET /v1/images/resumed.png", node.token), Problem.NOT_FOUND)


@pytest.mark.parametrize("body", [b"not a sealed file", b"\x89SLT\r\n\x1a\n\x01", bytes(1000)])
def test_what_is_no_sealed_file_cannot_be_opened(node: Node, body: bytes) -> None:
    refused(node.ask("PUT /v1/opened/photo.png", node.token, body=body), Problem.CANNOT_OPEN)


# -- who asks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start",
    [
        "PUT /v1/images/x",
        "GET /v1/images",
        "GET /v1/images/x",
        "DELETE /v1/images/x",
        "PUT /v1/opened/x",
        "POST /v1/offers",
        "PUT /v1/users/zoe",
    ],
)
def test_nothing_is_done_for_whoever_brings_no_token(node: Node, start: str) -> None:
    body = offer() if "offers" in start else b"hello"
    for header in ("X-Nothing: at all", "Authorization: Basic YWxpY2U6c2VzYW1l", "Authorization:"):
        answer = node.ask(start, header, body=body)
        refused(answer, Problem.NO_CREDENTIALS)
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("token", ["", " ", "slt_wrong", "é", "x" * 8000, "null", "../../alice"])
def test_a_wrong_token_is_nobodys(node: Node, token: str) -> None:
    refused(node.ask(new_image(), f"Authorization: Bearer {token}", body=b"hello"), Problem.UNKNOWN_TOKEN)


def test_a_user_cannot_pose_as_another(node: Node) -> None:
    detail = refused(node.offer(offer(user='"bob"')), Problem.WRONG_USER)
    assert "alice" in detail


@pytest.mark.parametrize("ticket", ["", ".", "a.b", "é", "e30.AAAA", "x" * 8000, "." * 100, "%00"])
def test_a_forged_ticket_admits_nobody(node: Node, ticket: str) -> None:
    refused(node.ask(new_image(), f"Authorization: Ticket {ticket}", body=b"hello"), Problem.BAD_TICKET)


# -- offers and names --------------------------------------------------------------------------------


def offer(**fields: str) -> bytes:
    """An offer of alice's in JSON; `fields` are JSON, too, or "" to leave the field out."""
    said = {"user": '"alice"', "upload": f'"{UPLOAD}"', "name": '"photo.png"', "size": "5", **fields}
    return ("{" + ",".join(f'"{key}":{value}' for key, value in said.items() if value) + "}").encode()


def test_a_good_offer_is_granted(node: Node) -> None:
    assert node.offer(offer()).status == 201


MALFORMED = {
    "no JSON": b"upload photo.png, please",
    "nothing": b"",
    "a list": b"[]",
    "null": b"null",
    "no UTF-8": offer(name='"\xff"').replace("ÿ".encode(), b"\xff"),
    "not closed": offer()[:-1],
    "deeply nested": b"[" * 10_000,
    "an unknown field": offer(colour='"red"'),
    "an unknown field with a line break": offer(**{"a\\nb": "1"}),
    "a field left out": offer(size=""),
    "a size in words": offer(size='"five"'),
    "a size with a fraction": offer(size="5.5"),
    "a negative size": offer(size="-1"),
    "a huge size": offer(size="9" * 400),
    "an infinite size": offer(size="1e999"),
    "a user that is a number": offer(user="5"),
    "an unknown action": offer(action='"burn"'),
    "an unknown scheme": offer(scheme='"rot13"'),
    "a short upload id": offer(upload='"abc"'),
    "an upload id with path tricks": offer(upload='"../../../../../../../../../../x"'),
    "half a surrogate pair": offer(name='"\\ud800"'),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_offer_is_refused(node: Node, body: bytes) -> None:
    refused(node.ask("POST /v1/offers", node.token, f"Content-Length: {len(body)}", body=body), Problem.BAD_REQUEST)


def test_an_offer_longer_than_any_is_refused(node: Node) -> None:
    refused(node.offer(b" " * MAX_JSON + offer()), Problem.TOO_LARGE)


BAD_NAMES = {
    "up and away": ("..%2F..%2Fx", '"../../x"'),
    "the directory above": ("%2e%2E", '".."'),
    "this directory": ("%2e", '"."'),
    "an absolute path": ("%2Fetc%2Fpasswd", '"/etc/passwd"'),
    "NUL": ("a%00b", '"a\\u0000b"'),
    "a line break": ("a%0Ab", '"a\\nb"'),
    "an escape sequence": ("a%1B%5B2Jb", '"a\\u001b[2Jb"'),
    "a C1 control": ("a%C2%9Bb", '"a\\u009bb"'),
    "300 bytes": ("a" * 300, '"' + "a" * 300 + '"'),
    "86 characters of 3 bytes": ("%E2%82%AC" * 86, '"' + "€" * 86 + '"'),
}


@pytest.mark.parametrize(("escaped", "quoted"), BAD_NAMES.values(), ids=BAD_NAMES.keys())
def test_a_name_that_could_do_harm_is_refused_everywhere(node: Node, escaped: str, quoted: str) -> None:
    refused(node.ask(f"PUT /v1/images/{escaped}", node.token, body=b"hello"), Problem.BAD_REQUEST)
    refused(node.ask(f"PUT /v1/opened/{escaped}", node.token, body=b"hello"), Problem.BAD_REQUEST)
    refused(node.offer(offer(name=quoted)), Problem.BAD_REQUEST)


NO_UTF8 = ["%", "%zz", "a%2", "%%41", "%u00e9", "%ff", "a%C3", "%C0%AF", "%ED%A0%80", "%F4%90%80%80", "%2%35"]


@pytest.mark.parametrize("name", NO_UTF8)
def test_a_name_that_cannot_be_decoded_is_refused_everywhere(node: Node, name: str) -> None:
    for start in ("PUT /v1/images", "PUT /v1/opened", "GET /v1/images", "DELETE /v1/images"):
        body = b"hello" if "PUT" in start else b""
        refused(node.ask(f"{start}/{name}", node.token, body=body), Problem.BAD_REQUEST)
    refused(node.ask(f"PUT /v1/users/{name}", node.token), Problem.BAD_REQUEST)
    for query in (f"/v1/images?match={name}", f"/v1/images?after={name}", f"/v1/images?{name}=1", f"/v1/status?{name}"):
        refused(node.ask(f"GET {query}", node.token), Problem.BAD_REQUEST)
    for query in ("scheme", "ticket"):
        refused(node.ask(f"{new_image()}?{query}={name}", node.token, body=b"hello"), Problem.BAD_REQUEST)
    original = f"Safelight-Original: {name}"
    refused(node.ask(new_image(), node.token, original, body=b"hello"), Problem.BAD_REQUEST)
    listed = node.ask("GET /v1/images", node.token).body
    assert "\ufffd" not in listed.decode()
    assert b"%" not in listed or b"100%" in listed


@pytest.mark.parametrize(
    "name", ["a%20b.png", "100%25.png", "%252e%252e%252f", "{brace}.png", "%7Bbrace%7D", "a+b&c=d", "%5C"]
)
def test_a_strange_name_that_harms_nobody_is_taken(node: Node, name: str) -> None:
    assert node.ask(f"PUT /v1/images/{name}", node.token, body=b"hello").status == 201


@pytest.mark.parametrize(
    "name", ["a b.png", "100%.png", "%2e%2e%2f", "{x}", "a+b&c?d#e", "\\", "'\"", "日本.png", "é" * 127]
)
def test_the_address_in_a_grant_leads_to_the_same_name(node: Node, name: str) -> None:
    quoted = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    grant = node.offer(offer(name=quoted, keep="false")).json()
    target = grant["url"].removeprefix(node.address.url)
    answer = node.ask(f"PUT {target}", f"Authorization: Ticket {grant['ticket']}", body=b"hello")
    assert answer.status == 201, answer.body


BAD_USERS = ["..%2Fbob", "%2e%2e", ".hidden", "Bob", "b%00b", "b%0Ab", "a" * 65, "a" * 300, "%C3%A9", "-rf", "a%20b"]


@pytest.mark.parametrize("user", BAD_USERS)
def test_a_user_name_that_is_none_is_not_enrolled(node: Node, user: str) -> None:
    users = node.running.config.data_dir
    before = sorted(users.rglob("*"))
    refused(node.ask(f"PUT /v1/users/{user}", f"Authorization: Bearer {token('new')}"), Problem.BAD_REQUEST)
    assert sorted(users.rglob("*")) == before


# -- addresses and methods ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1",
        "/v1/",
        "/v2/status",
        "/v1/images/",
        "/v1/users/",
        "/v1/status/",
        "/v1/images/a/b",
        "/v1/images/../../x",
    ],
)
def test_an_unknown_address_is_nothing(node: Node, target: str) -> None:
    refused(node.ask(f"GET {target}"), Problem.NOT_FOUND)


ROUTES = [
    "/v1/cluster",
    "/v1/status",
    "/v1/offers",
    "/v1/images",
    "/v1/images/a.png",
    "/v1/opened/a.png",
    "/v1/users/zoe",
    "/v1/peer",
]


@pytest.mark.parametrize(
    ("method", "target"), list(itertools.product(["PATCH", "TRACE", "PROPFIND"], ROUTES)), ids=" ".join
)
def test_a_method_that_is_not_for_an_address_is_refused_with_those_that_are(
    node: Node, method: str, target: str
) -> None:
    answer = node.ask(f"{method} {target}")
    refused(answer, Problem.METHOD)
    assert set(answer.headers["allow"].split(",")) <= {"DELETE", "GET", "HEAD", "POST", "PUT"}


def test_an_unknown_scheme_is_refused(node: Node) -> None:
    refused(node.ask(f"{new_image()}?scheme=rot13", node.token, body=b"hello"), Problem.BAD_REQUEST)


def test_a_plain_request_is_no_link(node: Node) -> None:
    refused(node.ask("GET /v1/peer"), Problem.BAD_REQUEST)
    with line(node.address) as connection:
        connection.request("GET /v1/peer")
        refused(connection.answer(), Problem.BAD_REQUEST)
        body = image(LIMIT)  # the connection goes on as any other
        connection.request(new_image(), node.token, f"Content-Length: {len(body)}", body=body)
        assert connection.answer().status == 201
