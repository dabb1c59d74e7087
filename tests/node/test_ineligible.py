"""A node that cannot do a leader's work is ineligible, logs the reason, and leads again when it can."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from safelight.config import Config
from safelight.local.cluster import ephemeral_config
from safelight.node.state.data_directory import create_cluster
from tests.mission.support import status_of, wait_until_all_follow
from tests.mounts import small_disk
from tests.node.raw_http import ask, enrolled, image
from tests.running import Running, eventually, running, running_as

pytestmark = pytest.mark.slow

MEBIBYTE = 1 << 20


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "tiny", 64) as directory:
        yield directory


@contextmanager
def apart(config: Config, second: Path) -> Iterator[tuple[Running, Running]]:
    """Nodes 1 and 2 of a configuration, not started yet; node 2 with a data directory of its own."""
    create_cluster(config.data_dir)
    second.mkdir()
    shutil.copy2(config.data_dir / "keyring.json", second)
    with running_as(config) as one, running_as(msgspec.structs.replace(config, data_dir=second)) as two:
        yield one, two


def fill(directory: Path) -> Path:
    """A file in the way of everything else."""
    filler = directory / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(65 * MEBIBYTE))
    return filler


def test_a_node_whose_disk_is_full_does_not_lead_until_it_has_room(tiny: Path, tmp_path: Path) -> None:
    with apart(ephemeral_config(tmp_path, 2), tiny / "data") as (one, two):
        filler = fill(tiny)
        one.cluster.start(1)
        two.cluster.start(2)
        assert str(tiny) in two.wait_for_line(2, "ineligible to lead")
        wait_until_all_follow(one.config, 1)
        token = enrolled(one.config, "alice")
        assert ask(one.config.addresses[1], "PUT /v1/images/a.png", token, body=image(5 * MEBIBYTE)).status == 201
        filler.unlink()
        two.wait_for_line(2, "eligible to lead again")
        wait_until_all_follow(one.config, 2)
        fill(tiny)
        wait_until_all_follow(one.config, 1)  # it gives leadership up, too


def test_nodes_that_share_a_full_disk_do_what_fits_into_memory(tiny: Path) -> None:
    with running(tiny, 3) as it:
        fill(tiny)
        before = status_of(it.config, 3)[3].uptime
        eventually(lambda: status_of(it.config, 3)[3].uptime > before + 2.5, "each node has looked at the disk")
        assert it.leader() == 3
        it.cluster.kill(3)
        it.wait_until_leader(2)  # its epoch finds room, too
        assert not [line for node in (1, 2, 3) for line in it.said(node) if "ineligible to lead" in line]


def test_nodes_on_a_small_disk_elect_a_leader_whoever_is_missing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 24) as directory, running(directory, 3, start=False) as it:
        it.cluster.start(1, 2)
        it.wait_until_leader(2)


def test_a_node_whose_keyring_was_lost_or_exchanged_does_not_lead_until_it_is_back(tmp_path: Path) -> None:
    with apart(ephemeral_config(tmp_path, 2), tmp_path / "second") as (one, two):
        one.cluster.start(1)
        two.cluster.start(2)
        wait_until_all_follow(one.config, 2)
        keyring, aside = tmp_path / "second" / "keyring.json", tmp_path / "aside.json"
        keyring.rename(aside)
        two.wait_for_line(2, "ineligible to lead")
        wait_until_all_follow(one.config, 1)
        aside.rename(keyring)
        wait_until_all_follow(one.config, 2)
        said = len(two.said(2))
        create_cluster(tmp_path / "other")
        (tmp_path / "other" / "keyring.json").replace(keyring)
        assert str(keyring) in two.wait_for_line(2, "ineligible to lead", after=said)
        wait_until_all_follow(one.config, 1)
