"""A user who can also write to the vault's directory, and has no key, reads nothing but the user's own images."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from safelight.wire.messages import ACCEPT_SEALED
from tests.mission.support import MEBIBYTE, enrolled, request
from tests.mounts import exchange
from tests.node.raw_http import ask, image, line
from tests.running import Running, running

SECRET = b"top secret\n"


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, 1) as it:
        yield it


def raw(it: Running, start: str, *headers: str, body: bytes = b"") -> bytes:
    """Everything that comes back, also if it breaks off."""
    came = b""
    with line(it.config.addresses[1]) as connection:
        length = (f"Content-Length: {len(body)}",) if body else ()
        connection.request(start, "Connection: close", *headers, *length, body=body)
        try:
            while piece := connection.socket.recv(1 << 16):
                came += piece
        except ConnectionError:
            pass
    return came


def test_a_body_that_is_exchanged_with_a_link_gives_nothing_else_away(one: Running, tmp_path: Path) -> None:
    """While one thread exchanges the body with a link to a secret file, others get it, sealed, opened and in parts."""
    vault, secret = one.config.data_dir / "vault", tmp_path / "secret"
    secret.write_bytes(SECRET * MEBIBYTE)
    token = f"Authorization: Bearer {enrolled(one.config, 'eve')}"
    content = image(3 * MEBIBYTE)
    sealed = ask(one.config.addresses[1], "PUT /v1/images/a.png", token, body=content).body
    [body] = [path for path in (vault / "bodies").rglob("*") if path.is_file()]
    planted = body.with_name("planted")
    planted.symlink_to(secret)
    over = threading.Event()

    def flip() -> None:
        while not over.is_set():
            exchange(body, planted)

    def get(headers: tuple[str, ...]) -> None:
        until = time.monotonic() + 1.5
        while time.monotonic() < until or not (came.get("whole") and came.get("refused")):
            answer = raw(one, "GET /v1/images/a.png", token, *headers)
            assert SECRET not in answer
            head, _, rest = answer.partition(b"\r\n\r\n")
            if b" 200 " in head.splitlines()[0] and len(rest) == len(sealed if headers else content):
                assert rest == (sealed if headers else content)
                came["whole"] = True
            came["refused"] = came.get("refused", False) or b" 500 " in head.splitlines()[0]

    came: dict[str, bool] = {}
    errors: list[BaseException] = []

    def caught(*arguments: tuple[str, ...]) -> None:
        try:
            get(*arguments)
        except BaseException as error:
            errors.append(error)
            over.set()

    flipping = threading.Thread(target=flip)
    getting = [
        threading.Thread(target=caught, args=(headers,)) for headers in ((f"Accept: {ACCEPT_SEALED}",),) * 3 + ((),)
    ]
    for each in (flipping, *getting):
        each.start()
    for each in getting:
        each.join()
    over.set()
    flipping.join()
    assert not errors, errors


def test_what_lies_in_an_images_place_is_damage_and_not_a_free_name(one: Running, tmp_path: Path) -> None:
    vault, headers = one.config.data_dir / "vault", {"Authorization": f"Bearer {enrolled(one.config, 'eve')}"}
    plants: list[Callable[[Path], None]] = [lambda path: path.symlink_to(tmp_path / path.name), os.mkfifo, os.mkdir]
    planted: dict[str, Path] = {}
    for kind in ("records", "bodies"):
        for number, plant in enumerate(plants):
            before = {*(vault / kind).rglob("*")}
            name = f"/v1/images/{kind}-{number}.png"
            assert request(one.config, 1, "PUT", name, image(1000), headers).status == 201
            [planted[name]] = [path for path in {*(vault / kind).rglob("*")} - before if path.is_file()]
            planted[name].rename(tmp_path / planted[name].name)
            plant(planted[name])
    one.cluster.stop(1)  # a node that has read a record remembers it
    one.cluster.start(1)
    one.wait_until_leader(1)
    for name, place in planted.items():
        answer = request(one.config, 1, "GET", name, headers=headers)
        assert (answer.status, answer.problem) == (500, "damaged")
        assert str(tmp_path).encode() not in answer.body
        assert request(one.config, 1, "PUT", name, image(1000), headers).status != 201
        if place.is_dir() and not place.is_symlink():
            place.rmdir()
        else:
            place.unlink()
        (tmp_path / place.name).rename(place)
        assert request(one.config, 1, "GET", name, headers=headers).status == 200
