"""A user's images are the user's own, and so is the name."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import msgspec
import pytest

from safelight.config import Config
from safelight.encryption.errors import Damaged
from safelight.errors import SafelightError
from safelight.wire.messages import Problem, Refusal
from tests.mission.support import contents, enrolled, opens_to, request, seal
from tests.mission.test_output_names import arrive
from tests.running import Running

CLIENTS = 4


def elsewhere(config: Config, directory: Path) -> Config:
    """The same cluster, for a person with a client directory of their own."""
    return msgspec.structs.replace(config, client_dir=directory)


def test_one_user_cannot_open_the_others_file(shared_cluster: Running, tmp_path: Path, photograph: Path) -> None:
    config = shared_cluster.config
    sealed = seal(config, photograph, tmp_path / "images", "alice").path
    with pytest.raises(SafelightError, match="sealed for 'alice', not 'bob'"):
        opens_to(config, sealed, photograph, tmp_path / "opened", "bob")
    assert contents(tmp_path / "opened") == []
    assert opens_to(config, sealed, photograph, tmp_path / "opened", "alice")


def test_a_file_with_another_users_name_put_in_does_not_open_for_that_user(
    shared_cluster: Running, tmp_path: Path, photograph: Path
) -> None:
    sealed = seal(shared_cluster.config, photograph, tmp_path / "images", "alice").path
    assert sealed.read_bytes().count(b"alice") == 1
    sealed.write_bytes(sealed.read_bytes().replace(b"alice", b"bobby"))
    with pytest.raises(SafelightError, match=str(Damaged())):
        opens_to(shared_cluster.config, sealed, photograph, tmp_path / "opened", "bobby")
    assert contents(tmp_path / "opened") == []


def test_two_users_files_of_one_image_have_nothing_in_common(
    shared_cluster: Running, tmp_path: Path, photograph: Path
) -> None:
    config = shared_cluster.config
    one, other = (seal(config, photograph, tmp_path / user, user).path.read_bytes() for user in ("alice", "bobby"))
    assert len(one) == len(other)
    assert not {one[at : at + 16] for at in range(64, len(one), 16)} & {
        other[at : at + 16] for at in range(64, len(other), 16)
    }


def test_nobody_can_pose_as_a_user_without_the_users_token(
    shared_cluster: Running, tmp_path: Path, photograph: Path
) -> None:
    config = shared_cluster.config
    sealed = seal(config, photograph, tmp_path / "images", "alice").path
    impostor = elsewhere(config, tmp_path / "impostor")
    with pytest.raises(Refusal, match="the name alice belongs to somebody else") as raised:
        opens_to(impostor, sealed, photograph, tmp_path / "opened", "alice")
    assert raised.value.problem is Problem.NAME_TAKEN
    with pytest.raises(Refusal, match="the name alice belongs to somebody else"):
        seal(impostor, photograph, tmp_path / "more", "alice")
    assert contents(tmp_path / "opened") == contents(tmp_path / "more") == []


def test_the_first_token_claims_a_name_and_enrolling_it_again_succeeds(shared_cluster: Running) -> None:
    config = shared_cluster.config

    def enrol(node: int, token: str) -> int:
        return request(config, node, "PUT", "/v1/users/dora", headers={"Authorization": f"Bearer {token}"}).status

    assert [enrol(node, "slt_" + "d" * 43) for node in (2, 2, 1, 3)] == [201, 200, 200, 200]
    assert [enrol(node, "slt_" + "e" * 43) for node in (1, 2, 3)] == [409, 409, 409]


def test_a_users_token_is_known_to_every_node_and_after_a_restart(tmp_path: Path, cluster: Running) -> None:
    token = enrolled(cluster.config, "alice")
    cluster.cluster.stop()
    cluster.cluster.start()
    cluster.wait_until_leader(3)
    for node in cluster.config.addresses:
        answer = request(
            cluster.config, node, "POST", "/v1/offers", b"{}", headers={"Authorization": f"Bearer {token}"}
        )
        assert answer.problem == "bad-request"  # whoever is not known is told so first of all
        assert enrolled(cluster.config, "alice") == token


def test_two_clients_of_a_new_user_at_once_share_one_token(
    shared_cluster: Running, tmp_path: Path, photograph: Path
) -> None:
    config = elsewhere(shared_cluster.config, tmp_path / "carols")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(CLIENTS, mp_context=spawn, initializer=arrive, initargs=(spawn.Barrier(CLIENTS),)) as pool:
        futures = [pool.submit(seal, config, photograph, tmp_path / f"{n}", "carol") for n in range(CLIENTS)]
        saved = [future.result() for future in futures]
    (directory,) = (config.client_dir / "tokens").iterdir()
    assert contents(directory) == ["carol"]
    assert all(opens_to(config, each.path, photograph, tmp_path / "opened", "carol") for each in saved)
