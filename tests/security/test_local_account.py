"""An attacker with another account on a node's or a user's machine. See docs/security.md.

The cluster lies where every account may look, so that nothing but its own modes protects it.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from safelight.client.session import Session
from tests.accounts import ordinary_account
from tests.mission.support import seal
from tests.running import SETTLED, Running, as_user, running


@pytest.fixture(scope="module")
def exposed(photograph: Path) -> Iterator[Running]:
    if os.geteuid() != 0:
        pytest.skip("only the superuser can look as another account")
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        was = os.umask(0)
        try:
            with running(Path(directory) / "cluster", heartbeat=SETTLED) as it:
                as_user(it.config, "ann", Session.fingerprint)
                seal(it.config, photograph, Path(directory) / "images", user="ann")
                yield it
        finally:
            os.umask(was)


def readable(*paths: Path) -> list[Path]:
    """Which of these files and directories another account can read."""
    found = []
    with ordinary_account():
        for path in paths:
            with suppress(OSError):
                if stat.S_ISDIR(os.stat(path).st_mode):
                    os.listdir(path)
                else:
                    os.close(os.open(path, os.O_RDONLY))
                found.append(path)
    return found


def test_no_file_with_a_secret_or_an_image_in_it_is_readable(exposed: Running) -> None:
    config = exposed.config
    vault = config.data_dir / "vault"
    found = [path for top in (config.data_dir, config.client_dir, vault) for path in [top, *top.rglob("*")]]
    assert len(found) > 10
    assert readable(config.data_dir.parent) == [config.data_dir.parent], "it is not the directories above that protect"
    assert readable(*found) == []


def test_no_running_node_shows_its_memory_or_its_environment(exposed: Running) -> None:
    for node in exposed.config.addresses:
        of_process = Path(f"/proc/{exposed.cluster.pid(node)}")
        assert readable(of_process / "cmdline") != []
        assert readable(of_process / "mem", of_process / "environ", of_process / "fd") == []
