"""A directory store that another account writes to: nothing outside is read, made or deleted; no key becomes free."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from safelight.encryption.keys import Keyring
from safelight.encryption.sealed import FileSealer
from safelight.vault.maintenance import rewrap, sweep
from safelight.vault.records import USERS, User
from safelight.vault.stores.base import BadObject, Missing
from safelight.vault.stores.directory import DirectoryStore
from safelight.vault.vault import Draft, ImageMetadata, Vault
from safelight.vault.verify import verify
from tests.mounts import exchange
from tests.vault.contract import BODY, MEBIBYTE, RECORD, keys, put, read
from tests.vault.test_directory import leave_behind, with_store

SECRET = b"top secret\n" * 1000
ALICE = "alice"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    DirectoryStore.make(tmp_path / "vault")
    (tmp_path / "secret").write_bytes(SECRET)
    return tmp_path / "vault"


def _socket(path: Path) -> None:
    was = os.getcwd()
    os.chdir(path.parent)  # the path of a socket may be short only
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(was)


def _anothers(path: Path) -> None:
    path.write_bytes(b"planted")
    os.chown(path, 12345, 12345)


AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can plant that")
PLANTED = [
    pytest.param(lambda path: path.symlink_to("/nowhere"), id="a link to nowhere"),
    pytest.param(lambda path: path.symlink_to(path.parents[3] / "secret"), id="a link to a file"),
    pytest.param(lambda path: path.symlink_to("/proc/self/environ"), id="a link to /proc"),
    pytest.param(os.mkdir, id="a directory"),
    pytest.param(os.mkfifo, id="a FIFO"),
    pytest.param(_socket, id="a socket"),
    pytest.param(lambda path: os.mknod(path, stat.S_IFCHR, os.makedev(1, 5)), id="a device", marks=AS_ROOT),
    pytest.param(_anothers, id="another account's file", marks=AS_ROOT),
]


@pytest.mark.parametrize("plant", PLANTED)
@pytest.mark.parametrize("key", [RECORD, BODY])
def test_what_is_no_object_is_neither_read_nor_taken_for_absent(
    root: Path, key: str, plant: Callable[[Path], None]
) -> None:
    async def use(store: DirectoryStore) -> None:
        await store.create(key + "0", b"makes the directories")
        plant(root / key)
        for attempt in (
            store.get(key),
            store.get_many([key + "0", key]),
            store.size(key),
            read(store, key, 0, 100),
            store.ensure_durable(key),
            open_file(store, key),
        ):
            with pytest.raises(BadObject, match=key):
                await attempt
        assert not await store.create(key, b"another")
        entries = {entry.key: entry.wrong async for entry in store.list("")}
        assert entries[key + "0"] == ""
        if not stat.S_ISDIR((root / key).lstat().st_mode):
            assert entries[key].startswith("it ")
        assert (root.parent / "secret").read_bytes() == SECRET

    with_store(root, use)


async def open_file(store: DirectoryStore, key: str) -> None:
    file = store.file(key)
    assert file is not None
    try:
        await file.open()
    finally:
        file.close()


@pytest.mark.parametrize("replaced", ["records", "records/0c1d"])
@pytest.mark.parametrize("by", ["link", "file"])
def test_what_is_no_directory_of_the_vault_is_not_entered(root: Path, replaced: str, by: str) -> None:
    async def use(store: DirectoryStore) -> None:
        await store.create(RECORD, b"a record")
        outside = root.parent / "outside"
        (root / replaced).rename(outside)
        before = sorted(outside.rglob("*"))
        if by == "link":
            (root / replaced).symlink_to(outside)
        else:
            (root / replaced).write_bytes(b"")
        for attempt in (
            store.get(RECORD),
            store.size(RECORD),
            read(store, RECORD, 0, 100),
            store.ensure_durable(RECORD),
            store.delete(RECORD),
            store.create(RECORD, b"another"),
            store.create(RECORD + "0", b"another"),
            put(store, RECORD + "00", bytes(2 * MEBIBYTE)),
            keys(store, "records/0c1d/"),
        ):
            with pytest.raises(BadObject, match=replaced):
                await attempt
        assert [entry.key async for entry in store.list("") if entry.wrong] == ([replaced] if by == "link" else [])
        assert sorted(outside.rglob("*")) == before

    with_store(root, use)


def test_a_link_under_a_key_is_deleted_and_what_it_leads_to_is_not(root: Path) -> None:
    async def use(store: DirectoryStore) -> None:
        await store.create(RECORD + "0", b"makes the directories")
        (root / RECORD).symlink_to(root.parent / "secret")
        await store.delete(RECORD)
        with pytest.raises(Missing):
            await store.get(RECORD)

    with_store(root, use)
    assert (root.parent / "secret").read_bytes() == SECRET


def test_the_root_itself_may_be_a_link_of_the_operators(root: Path) -> None:
    (root.parent / "link").symlink_to(root)
    with_store(root.parent / "link", lambda store: store.create(RECORD, b"a record"))
    assert (root / RECORD).read_bytes() == b"a record"


def test_no_moment_lets_a_reader_out_of_the_vault(root: Path) -> None:
    """An object, and the directory of another, are exchanged with links while they are read and written."""
    other = "records/ffff/9e2f.1"

    async def use(store: DirectoryStore) -> None:
        for key in (RECORD, other):
            await store.create(key, b"a record")
        outside = root.parent / "outside"
        outside.mkdir()
        (outside / "9e2f.1").write_bytes(SECRET)
        (root / "object").symlink_to(root.parent / "secret")
        (root / "directory").symlink_to(outside)
        pairs = ((root / RECORD, root / "object"), (root / "records/ffff", root / "directory"))
        over = threading.Event()

        def flip(one: Path, other: Path) -> None:
            while not over.is_set():
                exchange(one, other)

        flips = [threading.Thread(target=flip, args=pair) for pair in pairs]
        for each in flips:
            each.start()
        came, until, number = set(), time.monotonic() + 1.0, 0
        try:
            while time.monotonic() < until or b"a record" not in came:
                number += 1
                for attempt in (
                    store.get(RECORD),
                    read(store, RECORD, 0, 20_000),
                    store.get(other),
                    store.create(f"{other}.{number}", b""),
                ):
                    try:
                        came.add(await attempt)
                    except (BadObject, Missing):
                        came.add(b"refused")
        finally:
            over.set()
            for each in flips:
                each.join()
        assert came == {b"a record", b"refused", True}
        assert os.listdir(outside) == ["9e2f.1"]

    with_store(root, use)


# -- what looks after the vault ----------------------------------------------------------------------


def with_vault(root: Path, work: Callable[[Vault], Awaitable[None]], ring: Keyring) -> None:
    """`work` with a vault that has one user."""

    async def go() -> None:
        vault = Vault(DirectoryStore(root), lambda: ring)
        chain, token = vault.records.user(ALICE), "0" * 64
        await vault.store.create(vault.records.token(token), chain.removeprefix(USERS).encode())
        await vault.append(chain, 1, User(ALICE, token, 0.0))
        await work(vault)

    asyncio.run(go())


async def upload(vault: Vault, name: str, content: bytes = b"an image") -> None:
    draft = await vault.begin(ALICE, name, os.urandom(16).hex())
    assert isinstance(draft, Draft)
    sealer = FileSealer("alice", vault.keyring())
    await draft.body.write([*sealer.update(content), sealer.finish()])
    await vault.commit(draft, sealer.header.encode(), ImageMetadata(len(content), "image/png", name, None))


def test_nothing_outside_is_swept_or_tidied_away(root: Path) -> None:
    outside = root.parent / "outside"
    (outside / "deeper").mkdir(parents=True)
    for name in ("9e2f.1.00112233445566ff", ".0011223344556677.part", "deeper/a.1.00", "deeper/.8899aabbccddeeff.part"):
        leave_behind(outside / name, hours=1000)
    before = sorted(outside.rglob("*"))

    async def use(vault: Vault) -> None:
        await upload(vault, "a.png")
        (root / "bodies" / "0c1d").symlink_to(outside)
        (root / "bodies" / ("e" * 32)).symlink_to(outside / "deeper")
        (root / "linked").symlink_to(outside)
        assert isinstance(vault.store, DirectoryStore)
        assert await vault.store.tidy() == 0
        assert await sweep(vault, grace=-1.0) == 0
        found = {each.key: each.fault async for each in verify(vault) if each.fault}
        assert found == dict.fromkeys(("bodies/0c1d", "bodies/" + "e" * 32, "linked"), "foreign")

    with_vault(root, use, Keyring.new())
    assert sorted(outside.rglob("*")) == before


def test_a_verification_finds_what_was_put_in_an_objects_place_and_a_rewrap_does_the_others(root: Path) -> None:
    ring = Keyring.new()

    async def use(vault: Vault) -> None:
        for name in ("a.png", "b.png", "c.png"):
            await upload(vault, name)
        images = {image.name: image async for image in vault.images(ALICE)}
        body = root / images["a.png"].body
        body.rename(root.parent / "body")
        body.symlink_to(root.parent / "body")  # it is what was sealed, and lies outside
        record = root / (vault.records.chain("alice", "b.png") + ".1")
        record.unlink()
        os.mkfifo(record)
        large = root / (vault.records.chain("alice", "c.png") + ".2")
        large.write_bytes(bytes(1 << 17))
        fresh = Vault(DirectoryStore(root), lambda: ring)
        found = {each.key: each.fault async for each in verify(fresh) if each.fault}
        assert found == {
            images["a.png"].body: "damaged",
            str(record.relative_to(root)): "damaged",
            str(large.relative_to(root)): "damaged",
        }
        counts = {}
        async for now in rewrap(fresh):
            counts = dict(now)
        assert counts == {ring.current_id: 2, "unreadable": 1}  # an image and its user
        with pytest.raises(BadObject):
            [image async for image in fresh.images(ALICE)]

    with_vault(root, use, ring)
