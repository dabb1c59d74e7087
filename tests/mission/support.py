"""What the tests of the mission share: a witness of the feedback, images of any size, and plain requests."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from safelight.client.session import Saved
from safelight.client.transport import tokens
from safelight.config import Config
from safelight.wire.messages import Load, Status
from tests.running import as_user, eventually

MEBIBYTE = 1 << 20
OUTPUT = re.compile(r"encrypted_(?P<name>.*)_(?P<timestamp>\d{10})\.(?P<extension>[a-z]+)", re.DOTALL)


class Witness:
    """A Feedback that remembers, and can do something at a given point of the way (with `at`)."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self._at: list[tuple[Callable[[tuple[object, ...]], bool], Callable[[], None]]] = []

    def at(self, moment: Callable[[tuple[object, ...]], bool], do: Callable[[], None]) -> Witness:
        """Once, when something is told for which `moment` holds, `do` it before the session goes on."""
        self._at.append((moment, do))
        return self

    def at_progress(self, share: float, do: Callable[[], None]) -> Witness:
        """`do` it when this share of the bytes has moved; the body itself is the first half of them."""

        def reached(told: tuple[object, ...]) -> bool:
            return told[0] == "progress" and int(str(told[1])) >= share * int(str(told[2]))

        return self.at(reached, do)

    def of(self, kind: str) -> list[tuple[object, ...]]:
        """What was told of this kind, without the kind."""
        return [told[1:] for told in self.told if told[0] == kind]

    def broadcasting(self) -> None:
        self._tell("broadcasting")

    def declined(self, server: int, detail: str) -> None:
        self._tell("declined", server, detail)

    def unreachable(self, server: int, detail: str) -> None:
        self._tell("unreachable", server, detail)

    def waiting(self, reason: str) -> None:
        self._tell("waiting", reason)

    def progress(self, done: int, total: int) -> None:
        self._tell("progress", done, total)

    def processed(self, server: int, assigned_by: int | None = None) -> None:
        self._tell("processed", server, *([] if assigned_by is None else [assigned_by]))

    def _tell(self, *told: object) -> None:
        self.told.append(told)
        for each in [each for each in self._at if each[0](told)]:
            self._at.remove(each)
            each[1]()


def seal(config: Config, path: Path, to: Path, user: str = "alice", feedback: Witness | None = None) -> Saved:
    return as_user(config, user, lambda session: session.seal(path, to=to, feedback=feedback or Witness()))


def open_(config: Config, path: Path, to: Path, user: str = "alice") -> Saved:
    return as_user(config, user, lambda session: session.open(path, to=to, feedback=Witness()))


def opens_to(config: Config, path: Path, original: Path, to: Path, user: str = "alice") -> bool:
    """Whether the file at `path` is the original, sealed."""
    return open_(config, path, to, user).path.read_bytes() == original.read_bytes()


def image_of(size: int, path: Path, photograph: Path) -> Path:
    """A file of `size` bytes that begins as the photograph does, and else has something else everywhere."""
    head = photograph.read_bytes()[:1024]
    body = b"".join(b"pixels %08x\n" % number for number in range(size // 16 + 1))
    path.write_bytes((head + body)[:size])
    return path


def contents(directory: Path) -> list[str]:
    """Every name in a directory, hidden ones included."""
    return sorted(entry.name for entry in directory.iterdir()) if directory.exists() else []


# -- plain requests --


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def problem(self) -> str:
        """The last word of the problem document's type (RFC 9457), such as "bad-ticket"."""
        assert self.headers.get("content-type", "").startswith("application/problem+json"), self
        document = json.loads(self.body)
        assert document["status"] == self.status
        assert document["detail"]
        return str(document["type"]).rpartition(":")[2]


def request(
    config: Config,
    node: int,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    timeout: float = 30,
) -> Answer:
    """One request, told by the standard library's client, which follows no redirects."""
    address = config.addresses[node]
    connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout)
    try:
        connection.request(method, path, body or None, dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def status_of(config: Config, node: int) -> dict[int, Load]:
    """The loads that a node tells: its own and those that it has heard of."""
    answer = request(config, node, "GET", "/v1/status")
    assert answer.status == 200
    return {load.node: load for load in msgspec.json.decode(answer.body, type=Status).nodes}


def enrolled(config: Config, user: str) -> str:
    """The user's token, known to the cluster: the one that the user's sessions have, too."""
    cluster = json.loads(request(config, max(config.addresses), "GET", "/v1/cluster").body)["cluster"]
    token, _ = tokens.load_or_create(config.client_dir, cluster, user)
    headers = {"Authorization": f"Bearer {token}"}
    answer = request(config, max(config.addresses), "PUT", f"/v1/users/{user}", headers=headers)
    assert answer.status in (200, 201)
    return token


def wait_until_all_follow(config: Config, leader: int) -> None:
    """Wait until every node of the configuration runs and says that `leader` leads."""

    def follow() -> bool:
        try:
            return all(status_of(config, node)[node].leader == leader for node in config.addresses)
        except OSError:
            return False

    eventually(follow, f"all nodes follow node {leader}")
