"""What an operator does with the vault: `verify` finds what is wrong in it, `rewrap` gives up old keys."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from safelight.config import Config
from safelight.vault.bootstrap import open_vault
from safelight.vault.records import Image
from tests.cli.commandline import safelight, started
from tests.mission.support import MEBIBYTE, image_of, seal
from tests.running import SETTLED, Running, running

IMAGES = 6


@pytest.fixture
def kept(tmp_path: Path, photograph: Path) -> Iterator[tuple[Running, list[Image]]]:
    """A cluster of one node with some images in its vault, and their records in the order of their names."""
    with running(tmp_path / "cluster", nodes=1, heartbeat=SETTLED) as it:
        for number in range(IMAGES):
            path = image_of(2 * MEBIBYTE + number, tmp_path / f"{number}.png", photograph)
            seal(it.config, path, tmp_path / "images")
        yield it, records(it.config)


def records(config: Config) -> list[Image]:
    from safelight.cli.admin.cluster import keyring_file

    async def go() -> list[Image]:
        keyring = keyring_file(config).read()
        vault = await open_vault(config.vault_url, config.data_dir, lambda: keyring)
        return sorted([image async for image in vault.images("alice")], key=lambda image: image.original)

    return asyncio.run(go())


def test_a_healthy_vault_verifies(kept: tuple[Running, list[Image]], tmp_path: Path) -> None:
    cluster, _ = kept
    done = safelight("verify", config=cluster.config, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(": every tag verifies\n")


def test_each_planted_damage_is_found_and_named(kept: tuple[Running, list[Image]], tmp_path: Path) -> None:
    cluster, images = kept
    vault = cluster.config.data_dir / "vault"

    def body(number: int) -> Path:
        return vault / images[number].body

    def record(number: int) -> Path:
        user, name = Path(images[number].body).parts[1:]
        return vault / "records" / user / f"{name.split('.')[0]}.1"

    with body(0).open("r+b") as file:  # one bit, in the second segment
        file.seek(3 * MEBIBYTE // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    with body(1).open("r+b") as file:
        file.truncate(MEBIBYTE)
    body(2).unlink()
    body(3).write_bytes(body(4).read_bytes()[:-1])
    record(5).write_bytes(record(4).read_bytes())
    (vault / "holiday").write_bytes(b"not ours")
    stray = body(4).with_name(body(4).name.rsplit(".", 2)[0] + ".1.0000000000000000")
    stray.write_bytes(b"begun and never finished")

    done = safelight("verify", "--json", config=cluster.config, cwd=tmp_path)
    assert done.returncode == 1
    found = json.loads(done.stdout)
    told = {(trouble["key"], trouble["trouble"]) for trouble in found["troubles"]}
    assert told == {
        (images[0].body, "damaged"),
        (images[1].body, "damaged"),
        (images[2].body, "missing"),
        (images[3].body, "damaged"),
        (str(record(5).relative_to(vault)), "damaged"),
        ("holiday", "foreign"),
        (str(stray.relative_to(vault)), "leftover"),
    }
    assert (found["damaged"], found["missing"], found["foreign"], found["leftover"]) == (4, 1, 1, 1)
    lines = safelight("verify", config=cluster.config, cwd=tmp_path).stdout
    assert f"DAMAGED  alice's '{images[0].name}'" in lines


def test_after_a_rotation_the_old_key_is_given_up(kept: tuple[Running, list[Image]], tmp_path: Path) -> None:
    cluster, images = kept
    old = json.loads(safelight("keys", "list", "--json", config=cluster.config, cwd=tmp_path).stdout)["keys"][0]["id"]
    bodies = {image.body: (cluster.config.data_dir / "vault" / image.body).stat().st_mtime_ns for image in images}
    assert safelight("keys", "rotate", config=cluster.config, cwd=tmp_path).returncode == 0

    first = safelight("rewrap", config=cluster.config, cwd=tmp_path)
    assert (first.returncode, first.stderr) == (0, "")
    assert f"key {old}: {IMAGES + 1} rewrapped\n" in first.stdout  # the images, and alice
    assert f"Nothing in the vault needs key {old} any more" in first.stdout
    again = safelight("rewrap", config=cluster.config, cwd=tmp_path)
    assert f"{IMAGES + 1} already\n" in again.stdout
    assert "rewrapped" not in again.stdout

    file = cluster.config.data_dir / "keyring.json"
    keyring = json.loads(file.read_text())
    keyring["keys"] = [key for key in keyring["keys"] if key["id"] != old]
    cluster.cluster.stop(1)
    file.write_text(json.dumps(keyring))
    cluster.cluster.start(1)
    cluster.wait_until_leader(1)
    got = safelight("get", "*", "--user", "alice", "--to", "got", config=cluster.config, cwd=tmp_path)
    assert got.returncode == 0, got.stderr
    for number in range(IMAGES):
        assert (tmp_path / "got" / f"{number}.png").read_bytes() == (tmp_path / f"{number}.png").read_bytes()
    assert bodies == {name: (cluster.config.data_dir / "vault" / name).stat().st_mtime_ns for name in bodies}


@pytest.mark.slow
def test_a_rewrap_that_is_killed_loses_nothing_and_goes_on_the_next_time(
    kept: tuple[Running, list[Image]], tmp_path: Path
) -> None:
    cluster, _ = kept
    for delay in (0.2, 0.25, 0.3, 0.35, 0.4, 0.45):  # wherever that is, on this machine
        assert safelight("keys", "rotate", config=cluster.config, cwd=tmp_path).returncode == 0
        with started("rewrap", config=cluster.config, cwd=tmp_path) as rewrap:
            time.sleep(delay)
            rewrap.send(signal.SIGKILL)
            rewrap.process.wait()
        assert safelight("verify", config=cluster.config, cwd=tmp_path).returncode == 0
    done = safelight("rewrap", config=cluster.config, cwd=tmp_path)
    assert done.returncode == 0
    assert f"All {IMAGES + 1} records are under the current key" in done.stdout
    got = safelight("get", "*", "--user", "alice", "--to", "got", config=cluster.config, cwd=tmp_path)
    assert got.returncode == 0, got.stderr
    for number in range(IMAGES):
        assert (tmp_path / "got" / f"{number}.png").read_bytes() == (tmp_path / f"{number}.png").read_bytes()


def test_a_record_that_does_not_open_keeps_the_others_from_nothing(
    kept: tuple[Running, list[Image]], tmp_path: Path
) -> None:
    cluster, images = kept
    user, name = Path(images[0].body).parts[1:]
    record = cluster.config.data_dir / "vault" / "records" / user / f"{name.split('.')[0]}.1"
    record.write_bytes(record.read_bytes()[:-1])
    assert safelight("keys", "rotate", config=cluster.config, cwd=tmp_path).returncode == 0
    done = safelight("rewrap", config=cluster.config, cwd=tmp_path)
    assert done.returncode == 1
    assert f": {IMAGES} rewrapped\n" in done.stdout  # alice and the other five
    assert "1 records or images cannot be decrypted" in done.stderr
    assert "Nothing in the vault needs" not in done.stdout
