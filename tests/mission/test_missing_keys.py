"""A node that missed a rotation gets the key from its peers; until then it does not lead, and readers go elsewhere."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest

from safelight.config import Config
from safelight.encryption.keyring_protection import Wrapper
from safelight.encryption.keys import Keyring
from safelight.local.cluster import ephemeral_config
from safelight.node.state.data_directory import create_cluster
from safelight.node.state.key_file import KeyFile, wrapper_of
from tests.cli.commandline import safelight
from tests.mission.support import enrolled, request, seal, status_of, wait_until_all_follow
from tests.running import Running, eventually, running_as

pytestmark = pytest.mark.slow

SECRET = "correct horse battery staple"


def ring_of(config: Config) -> Keyring:
    return KeyFile(config.data_dir, wrapper_of(config)).read()


@contextmanager
def machines(tmp_path: Path, *, wrapped: bool = False) -> Iterator[dict[int, Running]]:
    """Three nodes with a vault in common and data directories of their own, none of which runs yet."""
    vault, secret = tmp_path / "vault", tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    config = ephemeral_config(tmp_path, 3, vault=vault.as_uri(), keyring_secret_file=secret if wrapped else None)
    create_cluster(config.data_dir, Wrapper(SECRET.encode()) if wrapped else None)
    with ExitStack() as stack:
        found = {}
        for node in config.addresses:
            directory = tmp_path / f"machine-{node}"
            directory.mkdir()
            shutil.copy2(config.data_dir / "keyring.json", directory)
            found[node] = stack.enter_context(running_as(msgspec.structs.replace(config, data_dir=directory)))
        yield found


def start(machines: dict[int, Running], *nodes: int) -> None:
    for node in nodes:
        machines[node].cluster.start(node)


def rotated_without_3(machines: dict[int, Running], photograph: Path, tmp_path: Path) -> str:
    """The name of an image that is sealed with a key which nodes 1 and 2 have alone; alice has an older one, too."""
    config = machines[1].config
    start(machines, 1, 2, 3)
    wait_until_all_follow(config, 3)
    seal(config, photograph, tmp_path / "images")
    machines[3].cluster.kill(3)
    two = msgspec.structs.replace(config, servers=config.servers[:2])
    wait_until_all_follow(two, 2)
    done = safelight("keys", "rotate", config=two, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert ring_of(machines[2].config).current_id != ring_of(machines[3].config).current_id
    return seal(config, photograph, tmp_path / "images").path.name


def test_a_node_that_missed_a_rotation_gets_the_key_and_leads_and_readers_notice_nothing(
    tmp_path: Path, photograph: Path
) -> None:
    with machines(tmp_path, wrapped=True) as found:
        config = found[1].config
        name, new = rotated_without_3(found, photograph, tmp_path), ring_of(found[1].config).current_id
        over, failures = threading.Event(), list[str]()

        def read() -> None:
            while not over.is_set():
                listed = safelight("ls", "--user", "alice", config=config, cwd=tmp_path)
                got = safelight("get", name, "--user", "alice", "--to", "got", "--force", config=config, cwd=tmp_path)
                if listed.stdout.count("lighthouse.png\n") != 2 or (listed.returncode, got.returncode) != (0, 0):
                    failures.append(listed.stderr + got.stderr + listed.stdout)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            before = len(found[3].said(3))
            start(found, 3)
            eventually(lambda: status_of_3(config).startswith(f"it lacks the key {new}"), "it says what it lacks")
            found[3].wait_for_line(3, "I am the new leader!", after=before)
        finally:
            over.set()
            reader.join()
        assert failures == []
        said = found[3].said(3)
        assert any(f"ineligible to lead: it lacks the key {new}" in line for line in said)
        ring = ring_of(found[3].config)
        assert (ring, ring.current_id) == (ring_of(found[1].config), new)
        assert KeyFile(found[3].config.data_dir, wrapper_of(config)).wrapped
        assert not [line for line in said if "damaged" in line]


def status_of_3(config: Config) -> str:
    try:
        return status_of(config, 3)[3].ineligible
    except OSError:  # it is not up yet
        return ""


def test_a_node_that_cannot_know_yet_whether_it_lacks_a_key_calls_nothing_damaged(
    tmp_path: Path, photograph: Path
) -> None:
    with machines(tmp_path) as found:
        config = found[1].config
        name = rotated_without_3(found, photograph, tmp_path)
        two = msgspec.structs.replace(config, servers=config.servers[:2])
        alice, bob = ({"Authorization": f"Bearer {enrolled(two, user)}"} for user in ("alice", "bob"))
        for node in (1, 2):
            found[node].cluster.kill(node)
        start(found, 3)
        found[3].wait_until_leader(3)
        sealed = {**alice, "Accept": "application/vnd.safelight.sealed"}
        for path, who in [("", alice), (f"/{name}", alice), (f"/{name}", sealed), ("", bob)]:
            answer = request(config, 3, "GET", f"/v1/images{path}", headers=who)
            assert (answer.status, answer.problem) == (503, "lacks-key"), answer
        start(found, 1, 2)
        eventually(
            lambda: request(config, 3, "GET", f"/v1/images/{name}", headers=alice).status == 200, "it has the key"
        )
        record = next((tmp_path / "vault" / "records").glob("*/*.1"))
        data = record.read_bytes()
        record.write_bytes(data[:1] + bytes(8) + data[9:])  # a key that no node has
        found[3].cluster.kill(3)
        start(found, 3)
        wait_until_all_follow(config, 3)
        eventually(
            lambda: request(config, 3, "GET", "/v1/images", headers=alice).problem == "damaged", "all are linked"
        )
