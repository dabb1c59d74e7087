"""Every node is asked, one does the work, and only that one gets the image."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from safelight.client.requests import leader_request_state
from safelight.client.session import Session
from safelight.encryption import sealed_size
from safelight.wire.messages import Scheme
from tests.mission.support import (
    MEBIBYTE,
    Witness,
    contents,
    image_of,
    open_,
    opens_to,
    seal,
    status_of,
)
from tests.mission.wire import ENOUGH, Wire, watched
from tests.running import GENEROUS, SETTLED, Running, as_user, running

WORKERS = (1, 2)
WORDS = 4096
"""Bytes that one image may cost a worker: offers, each some hundreds, and the way to the cluster's id."""


@pytest.fixture
def wire(shared_cluster: Running) -> Iterator[Wire]:
    try:
        with watched(shared_cluster.config) as it:
            yield it
    except OSError as error:
        pytest.skip(f"127.0.0.2 is no address of this machine: {error}")


def windows(image: bytes) -> list[bytes]:
    """Pieces from all over an image, none of which would be met by chance."""
    return [image[at : at + 16] for at in range(1024, len(image) - 16, len(image) // 200)]


def test_the_image_goes_to_the_leader_once_and_not_one_byte_of_it_to_a_worker(
    wire: Wire, tmp_path: Path, photograph: Path
) -> None:
    image = image_of(5 * MEBIBYTE, tmp_path / "image.png", photograph)
    pieces = windows(image.read_bytes())
    saved = seal(wire.config, image, tmp_path / "images")
    for worker in WORKERS:
        sent = wire.sent_to(worker)
        assert 0 < len(sent) < WORDS
        assert not any(piece in sent for piece in pieces)
    sent = wire.sent_to(3)
    assert image.stat().st_size <= len(sent) < image.stat().st_size + WORDS
    assert all(sent.count(piece) == 1 for piece in pieces)
    assert opens_to(wire.config, saved.path, image, tmp_path / "opened")


def test_a_sealed_file_that_is_opened_goes_to_the_leader_alone_too(
    shared_cluster: Running, wire: Wire, tmp_path: Path, photograph: Path
) -> None:
    sealed = seal(shared_cluster.config, photograph, tmp_path / "images").path
    open_(wire.config, sealed, tmp_path / "opened")
    assert all(0 < len(wire.sent_to(worker)) < WORDS for worker in WORKERS)
    assert sealed.stat().st_size <= len(wire.sent_to(3)) < sealed.stat().st_size + WORDS


def test_connections_stay_open_from_one_upload_to_the_next(
    shared_cluster: Running, wire: Wire, tmp_path: Path, photograph: Path
) -> None:
    before = {node: status_of(shared_cluster.config, node)[node] for node in (1, 2, 3)}
    opened: list[dict[int, int]] = []
    uploads = 0

    async def uploads_before_and_after_the_lines_stand(session: Session) -> None:
        nonlocal uploads
        while (uploads := uploads + 1) <= ENOUGH:
            posts = wire.posts()
            await session.seal(photograph, to=tmp_path / "images", feedback=Witness())
            if uploads > 2 and wire.posts() == posts:
                break
        opened.append(wire.count())
        for _ in range(10):
            await session.seal(photograph, to=tmp_path / "images", feedback=Witness())
            uploads += 1
        opened.append(wire.count())

    as_user(wire.config, "ann", uploads_before_and_after_the_lines_stand)
    assert opened[0] == opened[1]
    assert len(contents(tmp_path / "images")) == uploads

    after = {node: status_of(shared_cluster.config, node)[node] for node in (1, 2, 3)}
    assert [after[node].images - before[node].images for node in (1, 2, 3)] == [0, 0, uploads]
    assert all(len(wire.sent_to(worker)) < uploads * WORDS for worker in WORKERS)


def test_the_feedback_tells_who_declined_and_who_did_the_work(
    shared_cluster: Running, tmp_path: Path, photograph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader_request_state, "REPLIES_WAIT", GENEROUS)
    witness = Witness()
    seal(shared_cluster.config, photograph, tmp_path, user="ben", feedback=witness)  # whose names nobody has had
    told = [told for told in witness.told if told[0] not in ("progress", "waiting")]
    assert told[0] == ("broadcasting",)
    assert sorted(told[1:-1]) == [
        ("declined", 1, "Node 1 is not the leader"),
        ("declined", 2, "Node 2 is not the leader"),
    ]
    assert told[-1] == ("processed", 3)
    done, total = zip(*witness.of("progress"), strict=True)
    assert list(done) == sorted(done)
    size = photograph.stat().st_size
    assert set(total) == {size + sealed_size(Scheme.SEALED, size, "ben")}
    assert done[-1] == total[-1]


def test_a_server_that_is_down_is_told_once_and_is_no_error(tmp_path: Path, photograph: Path) -> None:
    with running(tmp_path, heartbeat=SETTLED) as cluster:
        cluster.cluster.kill(1)
        witness = Witness()
        assert seal(cluster.config, photograph, tmp_path / "images", feedback=witness).node == 3
        assert witness.of("unreachable") == [(1, "connection refused")]
        assert witness.of("declined") == [(2, "Node 2 is not the leader")]


def test_a_worker_that_hangs_is_told_once_and_is_no_error(tmp_path: Path, photograph: Path) -> None:
    with running(tmp_path, heartbeat=SETTLED) as cluster:
        cluster.suspend(1)
        witness = Witness()
        assert seal(cluster.config, photograph, tmp_path / "images", feedback=witness).node == 3
        assert witness.of("unreachable") == [(1, "no answer in time")]


def test_something_else_on_a_servers_port_is_told_as_unreachable(tmp_path: Path, photograph: Path) -> None:
    with running(tmp_path, heartbeat=SETTLED) as cluster:
        cluster.cluster.kill(1)
        for status in (404, 200, 307, 500):
            with stranger(cluster.config.addresses[1].port, status):
                witness = Witness()
                assert seal(cluster.config, photograph, tmp_path / "images", feedback=witness).node == 3
                assert [server for server, _ in witness.of("unreachable")] == [1]


@contextmanager
def stranger(port: int, status: int) -> Iterator[None]:
    """A web server that has never heard of Safelight, and answers all with the same."""
    handler = type("Handler", (Stranger,), {"status": status})
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


class Stranger(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    status: int

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b'{"cluster": "\xff\xfe", "node": 1}'  # JSON has to be UTF-8
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_GET  # noqa: N815 — names that http.server looks for

    def log_message(self, *arguments: object) -> None:
        pass
