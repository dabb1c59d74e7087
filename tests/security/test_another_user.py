"""An attacker who is a user of the cluster, and wants what belongs to another user. See docs/security.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from safelight.wire.messages import ACCEPT_SEALED
from tests.mission.support import Answer, enrolled, request, seal
from tests.running import Running

NODES = (1, 2, 3)


class Asker:
    def __init__(self, cluster: Running, user: str) -> None:
        self._config, self._bearer = cluster.config, f"Bearer {enrolled(cluster.config, user)}"

    def ask(self, node: int, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        return request(self._config, node, method, path, body, {"Authorization": self._bearer, **said})


@pytest.fixture(scope="module")
def name(shared_cluster: Running, photograph: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image that ann keeps."""
    return seal(shared_cluster.config, photograph, tmp_path_factory.mktemp("images"), user="ann").path.name


@pytest.mark.parametrize("node", NODES)
def test_another_users_image_is_not_there(shared_cluster: Running, name: str, node: int) -> None:
    eve = Asker(shared_cluster, "eve")
    for path in (f"/v1/images/{name}", "/v1/images/no-such-image.png"):
        answers = [
            eve.ask(node, "GET", path),
            eve.ask(node, "GET", path, Accept=ACCEPT_SEALED),
            eve.ask(node, "GET", path, Range="bytes=0-0"),
            eve.ask(node, "HEAD", path),
            eve.ask(node, "GET", path, If_None_Match="*"),
        ]
        assert [answer.status for answer in answers] == [404] * len(answers), path
        assert not any(b"\x89PNG" in answer.body or b"SLT" in answer.body for answer in answers)
    assert name.encode() not in eve.ask(node, "GET", "/v1/images").body
    assert name.encode() not in eve.ask(node, "GET", "/v1/images?match=*").body


def test_another_users_image_is_not_removed_and_its_name_is_no_secret_to_find_out(
    shared_cluster: Running, name: str
) -> None:
    eve, ann = Asker(shared_cluster, "eve"), Asker(shared_cluster, "ann")
    assert eve.ask(3, "DELETE", f"/v1/images/{name}").status == 404
    stored = eve.ask(3, "PUT", f"/v1/images/{name}", b"\x89PNG\r\n\x1a\n of eve's own")
    assert stored.status == 201, "a name that ann has is free for eve: nobody learns what others have"
    assert ann.ask(2, "GET", f"/v1/images/{name}").body != eve.ask(2, "GET", f"/v1/images/{name}").body
    assert eve.ask(3, "DELETE", f"/v1/images/{name}").status == 204
    assert ann.ask(1, "GET", f"/v1/images/{name}").status == 200


def test_another_users_name_is_not_enrolled_again(shared_cluster: Running, name: str) -> None:
    eve = Asker(shared_cluster, "eve")
    for node in NODES:
        assert eve.ask(node, "PUT", "/v1/users/ann").problem in ("name-taken", "wrong-user")
