"""Keys are rotated under a running cluster: every node has the new key on its disk before any uses it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest

from safelight.config import Config
from safelight.encryption.keys import ClusterKey, Keyring
from safelight.encryption.sealed import read_header
from safelight.local.cluster import ephemeral_config
from safelight.node.state.data_directory import create_cluster, find_keyring
from safelight.node.state.key_file import KeyFile
from safelight.wire import signed
from safelight.wire.admin_commands import KEY, LIFETIME, AddKey, AdminCommand, UseKey, add_key_command
from tests.cli.commandline import safelight
from tests.mission.support import enrolled, open_, request, seal, wait_until_all_follow
from tests.mission.wire import watched
from tests.node.test_secrets import spellings
from tests.running import SETTLED, Running, running, running_as

pytestmark = pytest.mark.slow


def ring_of(config: Config) -> Keyring:
    return find_keyring(config.data_dir).read()


def rotate(config: Config, cwd: Path) -> subprocess.CompletedProcess[str]:
    return safelight("keys", "rotate", config=config, cwd=cwd)


def rotated(config: Config, cwd: Path) -> str:
    """The new key's id."""
    done = rotate(config, cwd)
    assert (done.returncode, done.stderr) == (0, "")
    current = ring_of(config).current_id
    assert f"All nodes encrypt with the key {current} now." in done.stdout
    return current


def complaint(config: Config, cwd: Path) -> str:
    done = rotate(config, cwd)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    return done.stderr


def key_used(config: Config, photograph: Path, to: Path, node: int) -> str:
    """The key with which a node seals: its own answer, or where it is a worker, that of the leader."""
    return read_header(seal(config, photograph, to).path.read_bytes()).key_id


@contextmanager
def three_machines(tmp_path: Path) -> Iterator[dict[int, Running]]:
    """Three nodes, each with a data directory of its own; the first is the operator's, too."""
    config = ephemeral_config(tmp_path, 3, heartbeat=SETTLED)
    create_cluster(config.data_dir)
    with ExitStack() as stack:
        machines = {}
        for node in config.addresses:
            directory = config.data_dir if node == 1 else tmp_path / f"machine-{node}"
            directory.mkdir(exist_ok=True)
            if node != 1:
                shutil.copy2(config.data_dir / "keyring.json", directory)
            machines[node] = stack.enter_context(running_as(msgspec.structs.replace(config, data_dir=directory)))
            machines[node].cluster.start(node)
        wait_until_all_follow(config, 3)
        yield machines


# -- on one machine --


def test_new_images_have_the_new_key_and_old_ones_open_on_every_node_without_a_restart(
    cluster: Running, tmp_path: Path, photograph: Path
) -> None:
    config, images = cluster.config, tmp_path / "images"
    before = ring_of(config).current_id
    old = seal(config, photograph, images).path
    pids = [cluster.cluster.pid(node) for node in config.addresses]
    keys = [before, rotated(config, tmp_path), rotated(config, tmp_path)]
    assert len({*keys}) == 3
    assert [key.id for key in ring_of(config).keys] == keys
    assert pids == [cluster.cluster.pid(node) for node in cluster.cluster.running]
    for leader in (3, 2, 1):
        cluster.wait_until_leader(leader)
        new = seal(config, photograph, images)
        assert new.node == leader
        assert read_header(new.path.read_bytes()).key_id == keys[-1]
        assert read_header(old.read_bytes()).key_id == before
        for path in (old, new.path):
            assert open_(config, path, tmp_path / "opened").path.read_bytes() == photograph.read_bytes()
        if leader > 1:
            cluster.cluster.kill(leader)


def test_rotations_at_once_end_with_one_key_that_all_use(cluster: Running, tmp_path: Path, photograph: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: rotate(cluster.config, tmp_path), range(3)))
    assert [each.returncode for each in done] == [0, 0, 0], [each.stderr for each in done]
    ring = ring_of(cluster.config)
    assert ring.waiting is None
    assert 2 <= len(ring.keys) <= 4
    assert key_used(cluster.config, photograph, tmp_path / "images", 3) == ring.current_id
    cluster.cluster.stop()
    said = [line for node in (1, 2, 3) for line in cluster.said(node) if "new images are sealed" in line]
    assert {line.split()[-1] for line in said} <= {key.id for key in ring.keys}


def test_a_single_node_that_is_down_keeps_the_key_from_being_used_and_the_next_run_goes_on_with_it(
    cluster: Running, tmp_path: Path, photograph: Path
) -> None:
    config, images = cluster.config, tmp_path / "images"
    before = ring_of(config)
    cluster.cluster.kill(1)
    said = complaint(config, tmp_path)
    assert f"node 1 at {config.addresses[1].netloc} did not execute the command: connection refused" in said
    assert ring_of(config) == before
    # Killed right after the new key was on the operator's disk: the run after it begins there.
    key = ClusterKey(os.urandom(32), int(time.time()) + 1)
    KeyFile(config.data_dir).change(lambda ring: ring.added(key))
    assert "not used until every node has it" in complaint(config, tmp_path)
    assert key_used(config, photograph, images, 3) == before.current_id
    cluster.cluster.start(1)
    cluster.wait_for_line(1, "listening", after=1)
    assert rotated(config, tmp_path) == key.id
    assert key_used(config, photograph, images, 3) == key.id


# -- on three --


def current_of(machines: dict[int, Running]) -> set[str]:
    return {ring_of(each.config).current_id for each in machines.values()}


def test_each_machine_has_the_key_on_its_own_disk_and_it_never_crosses_the_network_readable(
    tmp_path: Path, photograph: Path
) -> None:
    with three_machines(tmp_path) as machines:
        config = machines[1].config
        before = ring_of(config).current_id
        with watched(config) as wire:
            key = rotated(wire.config, tmp_path)
            sent = b"".join(wire.sent_to(node) for node in config.addresses)
        assert sent.count(b"POST /v1/orders") >= 9
        assert current_of(machines) == {key} != {before}
        ring = ring_of(config)
        hidden = [ring.node_secret, *(each.secret for each in ring.keys), ring.current.user_key("alice")]
        text = sent.decode("latin-1")
        assert not [spelling for each in hidden for spelling in spellings(each) if spelling in text]
        # What is in an order is base64 in JSON in base64: read it as whoever sits in between would.
        for word in text.split():
            if "." in word and len(word) > 100:
                inner = signed._decode(word.partition(".")[0]).decode()
                assert '"node"' in inner
                assert not [spelling for each in hidden for spelling in spellings(each) if spelling in inner]
        assert key_used(config, photograph, tmp_path / "images", 3) == key


def test_a_node_that_missed_the_second_half_catches_up_by_its_peers_or_by_another_run(tmp_path: Path) -> None:
    with three_machines(tmp_path) as machines:
        config = machines[1].config
        ring, key = ring_of(config), ClusterKey(os.urandom(32), int(time.time()) + 1)
        KeyFile(config.data_dir).change(lambda found: found.added(key))
        for node in config.addresses:
            assert give(config, add(config, ring, key, node), node)[0] == 200
        assert current_of(machines) == {ring.current_id}
        assert all(ring_of(each.config).find(key.id) for each in machines.values())
        for node in (1, 2):  # the operator's machine dies before it tells node 3
            assert give(config, order(config, UseKey(key.id), node), node)[0] == 200
        assert ring_of(machines[3].config).current_id == ring.current_id
        assert rotated(config, tmp_path) == key.id
        assert current_of(machines) == {key.id}

        machines[2].cluster.kill(2)
        later = ClusterKey(os.urandom(32), int(time.time()) + 10)
        KeyFile(machines[2].config.data_dir).change(lambda found: found.added(later))  # it had the key before it died
        for node in (1, 3):
            assert give(config, add(config, ring, later, node), node)[0] == 200
            assert give(config, order(config, UseKey(later.id), node), node)[0] == 200
        assert "node 2 at " in complaint(config, tmp_path)
        machines[2].cluster.start(2)
        machines[2].wait_for_line(2, f"new images are sealed with the key {later.id}")
        assert current_of(machines) == {later.id}


def test_nodes_whose_keys_differ_still_link_and_say_who_lacks_what(tmp_path: Path) -> None:
    with three_machines(tmp_path) as machines:
        key = ClusterKey(os.urandom(32), int(time.time()) + 1)
        machines[2].cluster.kill(2)
        KeyFile(machines[2].config.data_dir).change(lambda found: found.added(key))
        machines[2].cluster.start(2)
        wait_until_all_follow(machines[1].config, 3)
        for node in (1, 3):
            machines[node].wait_for_line(node, f"node {node} does not have the key {key.id}")
            machines[2].wait_for_line(2, f"node {node} does not have the key {key.id}")


# -- orders --


def order(config: Config, task: UseKey | AddKey, node: int, *, lasts: float = LIFETIME) -> str:
    made = AdminCommand(node, task, time.time() + lasts, secrets.token_hex(8))
    return signed.write(made, ring_of(config).derive(KEY))


def add(config: Config, ring: Keyring, key: ClusterKey, node: int) -> str:
    made = add_key_command(key, ring, node, time.time())
    return signed.write(made, ring_of(config).derive(KEY))


def give(config: Config, text: str, node: int) -> tuple[int, str]:
    answer = request(config, node, "POST", "/v1/orders", headers={"Authorization": f"Order {text}"})
    return answer.status, answer.body.decode()


def test_keys_come_by_an_order_of_the_operator_alone(cluster: Running) -> None:
    config, ring = cluster.config, ring_of(cluster.config)
    key = ClusterKey(os.urandom(32), int(time.time()) + 1)
    good = add_key_command(key, ring, 3, time.time())
    assert isinstance(good.task, AddKey)
    token = enrolled(config, "alice")
    moved = msgspec.structs.replace
    refused = {
        "nobody's": (signed.write(good, Keyring.new().derive(KEY)), "not signed"),
        "a user's": (token, "not signed"),
        "another node's": (add(config, ring, key, 2), "for node 2"),
        "expired": (order(config, UseKey(ring.current_id), 3, lasts=-1), "expired"),
        "its key in another order": (order(config, good.task, 3), "not wrapped for it"),
        "wrapped for another node": (
            signed.write(moved(add_order(ring, key, 2), node=3), ring.derive(KEY)),
            "not wrapped for it",
        ),
        "wrapped by nobody": (order(config, AddKey(os.urandom(60), None), 3), "not wrapped for it"),
        "not wrapped": (order(config, AddKey(key.secret, None), 3), "not wrapped for it"),
        "cut": (order(config, AddKey(b"", None), 3), "not wrapped for it"),
    }
    for what, (text, why) in refused.items():
        status, body = give(config, text, 3)
        assert status == 403, (what, body)
        assert why in body, (what, body)
    status, body = give(config, order(config, UseKey("0" * 16), 3), 3)
    assert (status, "there is no key 0000000000000000" in body) == (500, True)
    assert ring_of(config) == ring

    text = signed.write(good, ring.derive(KEY))
    assert give(config, text, 3)[0] == 200
    assert ring_of(config).waiting == key
    status, body = give(config, text, 3)
    assert (status, "executed already" in body) == (403, True)


def add_order(ring: Keyring, key: ClusterKey, node: int) -> AdminCommand:
    return add_key_command(key, ring, node, time.time())


def test_whoever_answers_in_place_of_a_node_cannot_say_that_it_has_the_key(tmp_path: Path) -> None:
    """It would be used, and the node could not open what is sealed with it."""
    with running(tmp_path / "other", 1) as impostor:
        config = ephemeral_config(tmp_path, 1)
        create_cluster(config.data_dir)
        before = ring_of(config)
        config = msgspec.structs.replace(config, servers=impostor.config.servers)
        assert "node 1 at " in complaint(config, tmp_path)
        assert ring_of(config) == before


# -- the list --


def test_the_list_tells_which_key_is_which_and_no_secret(cluster: Running, tmp_path: Path) -> None:
    config, first = cluster.config, ring_of(cluster.config).current_id
    second = rotated(config, tmp_path)
    shown = safelight("keys", "list", config=config, cwd=tmp_path)
    assert shown.returncode == 0
    _, one, other = shown.stdout.splitlines()
    assert one.startswith(first)
    assert one.endswith(" decrypts")
    assert other.startswith(second)
    assert other.endswith("(current)")
    document = json.loads(safelight("keys", "list", "--json", config=config, cwd=tmp_path).stdout)
    assert [(key["id"], key["current"], key["waiting"]) for key in document["keys"]] == [
        (first, False, False),
        (second, True, False),
    ]
    assert all(time.time() - 600 < key["created"] < time.time() + 600 for key in document["keys"])
    everything = shown.stdout + json.dumps(document)
    ring = ring_of(config)
    assert not [
        each
        for secret in (ring.node_secret, *(key.secret for key in ring.keys))
        for each in spellings(secret)
        if each in everything
    ]
