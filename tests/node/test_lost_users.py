"""A user whose record another has deleted from the vault is not a free name, and nobody else becomes that user."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from safelight.cli.admin import users as admin
from safelight.cli.admin.cluster import keyring_file
from safelight.errors import SafelightError
from safelight.vault.bootstrap import open_vault
from safelight.vault.records import Image
from safelight.wire.messages import ACCEPT_SEALED, Problem, fingerprint
from tests.cli.commandline import safelight
from tests.mission.support import request
from tests.node.raw_http import ask, image, refused
from tests.running import Running, running

ALICE, EVE, NEW = (f"slt_{letter * 43}" for letter in "aen")
ALICES, EVES = f"Authorization: Bearer {ALICE}", f"Authorization: Bearer {EVE}"
PATH = "/v1/images/a.png"


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Running]:
    """A node with an image of alice's in its vault."""
    with running(tmp_path, 1) as it:
        address = it.config.addresses[1]
        assert ask(address, "PUT /v1/users/alice", ALICES).status == 201
        assert ask(address, f"PUT {PATH}", ALICES, body=image(1000)).status == 201
        yield it


def restart(it: Running) -> None:
    """A node that has read a user's record remembers it."""
    it.cluster.stop(1)
    it.cluster.start(1)
    it.wait_until_leader(1)


@pytest.mark.parametrize("left", ["records", "bodies"])
def test_a_name_of_which_there_are_images_is_not_free(one: Running, tmp_path: Path, left: str) -> None:
    vault, address = one.config.data_dir / "vault", one.config.addresses[1]
    [record] = (vault / "users").iterdir()
    record.rename(tmp_path / "record")
    shutil.rmtree(vault / {"records": "bodies", "bodies": "records"}[left])
    restart(one)
    assert "record of the user is missing" in refused(ask(address, "PUT /v1/users/alice", EVES), Problem.NAME_TAKEN)
    refused(ask(address, f"GET {PATH}", EVES), Problem.UNKNOWN_TOKEN)
    with pytest.raises(SafelightError, match="restores the record from a backup"):
        asyncio.run(admin.add(one.config, "alice", fingerprint(EVE)))
    done = safelight("verify", config=one.config, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.count(f"MISSING  users/{record.name}: there are ") == 1
    assert ask(address, "PUT /v1/users/eve", EVES).status == 201  # the refused token is good for another name
    (tmp_path / "record").rename(record)
    assert ask(address, "PUT /v1/users/alice", ALICES).status == 200


def test_who_enrols_under_a_name_gets_no_image_of_an_earlier_enrolment(one: Running, tmp_path: Path) -> None:
    """All of alice is moved away until another has enrolled as alice, and then the images are put back."""
    vault, address = one.config.data_dir / "vault", one.config.addresses[1]
    for kind in ("users", "records", "bodies"):
        (vault / kind).rename(tmp_path / kind)
    restart(one)
    assert ask(address, "PUT /v1/users/alice", EVES).status == 201
    for kind in ("records", "bodies"):
        (tmp_path / kind).rename(vault / kind)
    for headers in ((), (f"Accept: {ACCEPT_SEALED}",), ("Range: bytes=0-9",)):
        refused(ask(address, f"GET {PATH}", EVES, *headers), Problem.DAMAGED)
    refused(ask(address, "GET /v1/images", EVES), Problem.DAMAGED)
    refused(ask(address, f"DELETE {PATH}", EVES), Problem.DAMAGED)
    assert ask(address, f"PUT {PATH}", EVES, body=image(1000)).status >= 400
    assert ask(address, "PUT /v1/images/eves.png", EVES, body=image(1000)).status == 201
    assert ask(address, "GET /v1/images/eves.png", EVES).status == 200
    one.wait_for_line(1, "another enrolment")
    done = safelight("verify", config=one.config, cwd=tmp_path)
    assert (done.returncode, done.stdout.count("its user is another than the present one")) == (1, 1)
    shutil.rmtree(vault / "users")
    (tmp_path / "users").rename(vault / "users")
    restart(one)
    assert ask(address, f"GET {PATH}", ALICES).status == 200


def test_images_and_users_from_before_enrolment_ids_stay_readable_and_are_nobody_elses(tmp_path: Path) -> None:
    with running(tmp_path, 1) as it:
        config, address = it.config, it.config.addresses[1]
        assert ask(address, "PUT /v1/users/alice", ALICES).status == 201
        assert ask(address, f"PUT {PATH}", ALICES, body=image(1000)).status == 201
    vault = config.data_dir / "vault"

    async def age() -> None:
        """Make the records of user and image what they were before."""
        ring = keyring_file(config).read()
        opened = await open_vault(config.vault_url, config.data_dir, lambda: ring)
        for chain in (opened.records.user("alice"), opened.records.chain("alice", "a.png")):
            record, number = await opened.latest(chain)
            assert number == 1
            assert record is not None
            field = "owner" if isinstance(record, Image) else "id"
            old = msgspec.structs.replace(record, **{field: ""})
            (vault / f"{chain}.1").write_bytes(opened.records.write(old, f"{chain}.1"))

    asyncio.run(age())
    it.cluster.start(1)
    try:
        it.wait_until_leader(1)
        assert ask(address, f"GET {PATH}", ALICES).status == 200
        assert ask(address, "PUT /v1/images/b.png", ALICES, body=image(1000)).status == 201
        assert ask(address, "GET /v1/images/b.png", ALICES).status == 200
        shutil.rmtree(vault / "users")
        restart(it)
        refused(ask(address, "PUT /v1/users/alice", EVES), Problem.NAME_TAKEN)
    finally:
        it.cluster.stop(1)


def test_the_enrolment_stays_the_same_through_a_revocation_another_token_and_a_rewrap(
    one: Running, tmp_path: Path
) -> None:
    asyncio.run(admin.revoke(one.config, "alice"))
    asyncio.run(admin.give(one.config, "alice", fingerprint(NEW)))
    for command in (("keys", "rotate"), ("rewrap",)):
        assert safelight(*command, config=one.config, cwd=tmp_path).returncode == 0
    headers = {"Authorization": f"Bearer {NEW}"}
    assert request(one.config, 1, "GET", PATH, headers=headers).status == 200
    assert request(one.config, 1, "DELETE", PATH, headers=headers).status == 204
