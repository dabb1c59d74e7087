"""What listens on a server's address and is not of the cluster hears no token, and no image is taken from it."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from safelight.client.requests.feedback import NullFeedback
from safelight.client.session import Session
from safelight.config import Config
from tests.cli.commandline import safelight
from tests.mission.support import contents, seal, status_of
from tests.mission.wire import watched
from tests.running import SETTLED, Running, as_user, eventually, running

OTHER = "ab" * 16
LISTING = {"images": [{"name": "bait.png", "size": 4, "type": "image/png", "created": 1.0}]}
GRANT = {"node": 3, "counter": 999, "url": "http://127.0.0.1:1/v1/images/x", "ticket": "t"}
STATUS = {"cluster": OTHER, "node": 3, "nodes": [{"node": 3, "role": "leader", "counter": 9, "leader": 3}]}


def answer(status: int, body: object) -> bytes:
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


class Stranger:
    """A process on a port that writes down all that it hears, and answers every request as if it were a node."""

    def __init__(self, address: tuple[str, int], kind: str) -> None:
        self.heard = bytearray()
        self._kind = kind
        self._listener = socket.create_server(address)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while data := connection.recv(65536):
                self.heard += data
                if b"\r\n\r\n" in data and self._kind != "mute":
                    connection.sendall(self._answer(data))

    def _answer(self, request: bytes) -> bytes:
        if self._kind == "noise":
            return bytes(range(256)) * 100
        if b"/v1/cluster" in request:
            said = {"cluster": OTHER, "node": 3, "version": "0", "open_enrolment": True}
            return answer(200, "x" * 100_000 if self._kind == "endless" else said)
        if b"/v1/status" in request:
            return answer(200, STATUS)
        if b"/v1/offers" in request:
            return answer(201, GRANT)
        return answer(200, LISTING)


KINDS = ["another cluster", "endless", "noise", "mute"]


@contextmanager
def stranger(config: Config, node: int, kind: str = "another cluster") -> Iterator[Stranger]:
    address = config.addresses[node]
    it = Stranger((address.host, address.port), kind)
    try:
        yield it
    finally:
        it.close()


def tokens_of(config: Config) -> list[bytes]:
    return [path.read_bytes().strip() for path in config.client_dir.glob("tokens/*/*")]


def heard_no_secret(it: Stranger, config: Config) -> None:
    assert it.heard
    assert tokens_of(config)
    assert not any(token in it.heard for token in tokens_of(config))
    for word in (b"uthorization", b"Bearer", b"Ticket", b"Order", b"PUT", b"POST", b"PNG"):
        assert word not in it.heard


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_stranger_hears_no_token_and_nothing_is_taken_from_it(
    two_nodes: Running, tmp_path: Path, photograph: Path, kind: str
) -> None:
    config, user = two_nodes.config, ("--user", f"u{KINDS.index(kind)}")
    with stranger(config, 3, kind) as it:
        done = safelight("upload", photograph, *user, config=config, cwd=tmp_path)  # enrols, too
        assert (done.returncode, done.stderr) == (0, "")
        assert "Leader (server 2) processed request" in done.stdout
        [kept] = contents(tmp_path / "images")
        if kind != "mute":  # that one is heard out each time
            listing = safelight("ls", *user, "--json", config=config, cwd=tmp_path)
            assert [json.loads(line)["name"] for line in listing.stdout.splitlines()] == [kept]
            assert safelight("get", kept, *user, config=config, cwd=tmp_path).returncode == 0
            assert safelight("rm", kept, *user, "--yes", config=config, cwd=tmp_path).returncode == 0
            assert safelight("step-down", "3", config=config, cwd=tmp_path).returncode == 1
        heard_no_secret(it, config)


def test_status_marks_a_stranger(two_nodes: Running, tmp_path: Path) -> None:
    config = two_nodes.config
    with stranger(config, 3):
        done = safelight("status", "--json", config=config, cwd=tmp_path)
        told = json.loads(done.stdout)
        assert told["leader"] == 2
        assert [server["problem"] for server in told["servers"]][:2] == ["", ""]
        assert "another cluster" in told["servers"][2]["problem"]
        assert told["servers"][2]["load"] is None
        assert "another cluster" in safelight("status", config=config, cwd=tmp_path).stdout


def test_a_stranger_on_the_port_of_a_node_that_was_killed_in_mid_session_hears_no_token(
    tmp_path: Path, photograph: Path
) -> None:
    with running(tmp_path / "cluster", heartbeat=SETTLED) as cluster:
        config = cluster.config

        async def go(session: Session) -> None:
            for _ in range(3):  # over connections, and lines, that stand
                await session.seal(photograph, to=tmp_path / "images", feedback=NullFeedback())
            assert len([image async for page in session.images.all() for image in page]) == 3
            await asyncio.to_thread(cluster.cluster.kill, 3)
            with stranger(config, 3) as it:
                await asyncio.to_thread(eventually, lambda: status_of(config, 2)[2].leader == 2, "node 2 leads")
                for _ in range(3):
                    saved = await session.seal(photograph, to=tmp_path / "images", feedback=NullFeedback())
                    assert saved.node == 2
                names = [image.name async for page in session.images.all() for image in page]
                assert len(names) == 6
                await session.remove(names[0], feedback=NullFeedback())
                heard_no_secret(it, config)

        as_user(config, "alice", go)


def test_the_check_costs_a_plain_upload_no_round_trip(two_nodes: Running, tmp_path: Path, photograph: Path) -> None:
    seal(two_nodes.config, photograph, tmp_path / "images", "dora")  # enrols
    with watched(two_nodes.config) as wire:
        seal(wire.config, photograph, tmp_path / "images", "dora")
        for node in (1, 2):
            sent = wire.sent_to(node)
            assert sent.count(b"GET /v1/cluster") == 1
            assert sent.index(b"GET /v1/cluster") < sent.index(b"POST /v1/offers")


def test_a_user_of_both_clusters_stays_with_the_one_of_most_addresses(
    two_nodes: Running, tmp_path: Path, photograph: Path
) -> None:
    config = two_nodes.config
    assert seal(config, photograph, tmp_path / "images", "carol").node == 2
    theirs = config.client_dir / "tokens" / OTHER / "carol"
    theirs.parent.mkdir()
    theirs.write_text(f"slt_{secrets.token_urlsafe(32)}\n")
    theirs.chmod(0o600)
    with stranger(config, 3) as it:
        for _ in range(3):
            assert seal(config, photograph, tmp_path / "images", "carol").node == 2
        heard_no_secret(it, config)
